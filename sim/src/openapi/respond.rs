//! Answers: the platform's envelope and headers (`docs/design/feishu-protocol.md` §6.4), and what a fault makes of them.

use std::io::Read as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use super::effect::{Outcome, Receipt};
use super::token::Issued;
use super::{Api, Refusal};
use crate::faults::{Answer, Fault};

/// Marks an answer that must not be sent: the server resets the connection in its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResetConnection;

/// A cause of internal errors among several (`docs/design/feishu-protocol.md` §7.5): ambiguous to the caller.
const INTERNAL: i64 = 2200;

static LOG_ID: AtomicU64 = AtomicU64::new(1);

#[derive(Serialize)]
struct Success<T> {
    code: i64,
    msg: &'static str,
    data: T,
}

#[derive(Serialize)]
struct MessageData<'data> {
    message_id: &'data str,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_id: Option<&'data str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<&'data str>,
    msg_type: &'data str,
    create_time: String,
    update_time: String,
    deleted: bool,
    updated: bool,
    chat_id: &'data str,
    sender: Sender<'data>,
    body: Content<'data>,
}

#[derive(Serialize)]
struct Sender<'data> {
    id: &'data str,
    id_type: &'static str,
    sender_type: &'static str,
    tenant_key: &'static str,
}

#[derive(Serialize)]
struct Content<'data> {
    content: &'data str,
}

#[derive(Serialize)]
struct ReactionData<'data> {
    reaction_id: String,
    operator: Operator<'data>,
    action_time: String,
    reaction_type: Emoji<'data>,
}

#[derive(Serialize)]
struct Operator<'data> {
    operator_id: &'data str,
    operator_type: &'static str,
}

#[derive(Serialize)]
struct Emoji<'data> {
    emoji_type: &'data str,
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Failure<'data> {
    code: i64,
    msg: &'data str,
    error: ErrorDetail<'data>,
}

#[derive(Serialize)]
struct ErrorDetail<'data> {
    log_id: &'data str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    field_violations: Vec<FieldViolation>,
}

#[derive(Serialize)]
struct FieldViolation {
    field: &'static str,
    description: &'static str,
}

#[derive(Serialize)]
struct Token<'data> {
    code: i64,
    msg: &'static str,
    tenant_access_token: &'data str,
    expire: u64,
}

#[derive(Serialize)]
struct Code<'data> {
    code: i64,
    msg: &'data str,
}

/// Answers a message call.
pub(super) async fn outcome(outcome: Outcome) -> Response {
    let Outcome { result, fault } = outcome;
    let truth = match &result {
        Ok(receipt) => success(receipt),
        Err(refusal) => failure(refusal),
    };
    garble(truth, fault).await
}

/// Answers the token endpoint: flat, and errors are HTTP 200 too.
pub(super) async fn token(result: Result<Issued, Refusal>, fault: Option<Fault>) -> Response {
    let truth = match &result {
        Ok(issued) => json(
            StatusCode::OK,
            &Token {
                code: 0,
                msg: "ok",
                tenant_access_token: &issued.token,
                expire: issued.expire,
            },
            &log_id(),
        ),
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.http).unwrap_or(StatusCode::BAD_REQUEST);
            let body = Code {
                code: refusal.code,
                msg: &refusal.msg,
            };
            limited(refusal, json(status, &body, &log_id()))
        }
    };
    garble(truth, fault).await
}

/// Answers who the bot of an app is: flat as well.
pub(super) fn bot(app: Result<std::sync::Arc<str>, Refusal>) -> Response {
    match app {
        Ok(app) => {
            let bot = serde_json::json!({
                "activate_status": 2, "app_name": format!("Bot of {app}"), "avatar_url": "", "ip_white_list": [],
                "open_id": format!("ou_bot_{app}"),
            });
            let answer = serde_json::json!({ "code": 0, "msg": "ok", "bot": bot });
            json(StatusCode::OK, &answer, &log_id())
        }
        Err(refusal) => failure(&refusal),
    }
}

/// A server error of the platform.
pub(crate) fn server_error(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(
        status,
        &Code {
            code: INTERNAL,
            msg: "internal error",
        },
        &log_id(),
    )
}

/// A wrong path or method.
pub(crate) async fn not_found() -> Response {
    text(StatusCode::NOT_FOUND, "404 page not found")
}

async fn garble(truth: Response, fault: Option<Fault>) -> Response {
    let Some(fault) = fault else { return truth };
    if !fault.late.is_zero() {
        tokio::time::sleep(fault.late).await;
    }
    match fault.answer {
        Answer::Normal | Answer::Refuse { .. } | Answer::RevokeToken => truth,
        Answer::Status(status) => server_error(status),
        Answer::Reset => {
            let mut response = text(StatusCode::OK, "");
            response.extensions_mut().insert(ResetConnection);
            response
        }
        // The server drops this with the connection: when the caller hangs up, or when the simulator stops.
        Answer::Silent => std::future::pending().await,
        Answer::Malformed => raw(
            StatusCode::OK,
            "application/json; charset=utf-8",
            r#"{"code":0,"msg":"success","data":{"mess"#,
        ),
        Answer::Garbage => raw(
            StatusCode::OK,
            "text/html",
            "<html><body>upstream is being upgraded</body></html>",
        ),
        Answer::Packed => packed(truth).await,
    }
}

async fn packed(truth: Response) -> Response {
    let (mut head, body) = truth.into_parts();
    let plain = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut encoder = flate2::read::GzEncoder::new(&*plain, flate2::Compression::fast());
    let mut bytes = Vec::new();
    if let Err(error) = encoder.read_to_end(&mut bytes) {
        tracing::error!(%error, "an answer was not compressed");
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(head, Body::from(bytes))
}

fn success(receipt: &Receipt) -> Response {
    let log_id = log_id();
    match receipt.api {
        Api::Create | Api::Reply | Api::Edit => {
            let time = receipt.created_ms.to_string();
            let data = MessageData {
                message_id: receipt.message_id.as_deref().unwrap_or_default(),
                root_id: receipt.parent.as_deref(),
                parent_id: receipt.parent.as_deref(),
                msg_type: &receipt.msg_type,
                update_time: time.clone(),
                create_time: time,
                deleted: false,
                updated: receipt.api == Api::Edit,
                chat_id: receipt.chat.as_deref().unwrap_or_default(),
                sender: Sender {
                    id: &receipt.app,
                    id_type: "app_id",
                    sender_type: "app",
                    tenant_key: crate::event::TENANT,
                },
                body: Content {
                    content: &receipt.content,
                },
            };
            json(
                StatusCode::OK,
                &Success {
                    code: 0,
                    msg: "success",
                    data,
                },
                &log_id,
            )
        }
        Api::React => {
            let data = ReactionData {
                reaction_id: format!("ZCaCIjUBVVWSrm5L-{log_id}"),
                operator: Operator {
                    operator_id: &receipt.app,
                    operator_type: "app",
                },
                action_time: receipt.created_ms.to_string(),
                reaction_type: Emoji {
                    emoji_type: &receipt.content,
                },
            };
            json(
                StatusCode::OK,
                &Success {
                    code: 0,
                    msg: "success",
                    data,
                },
                &log_id,
            )
        }
        Api::Patch | Api::CardUpdate | Api::Recall | Api::Token => json(
            StatusCode::OK,
            &Success {
                code: 0,
                msg: "success",
                data: Nothing {},
            },
            &log_id,
        ),
    }
}

fn failure(refusal: &Refusal) -> Response {
    let log_id = log_id();
    let field_violations = refusal
        .field
        .map(|(field, description)| FieldViolation { field, description });
    let body = Failure {
        code: refusal.code,
        msg: &refusal.msg,
        error: ErrorDetail {
            log_id: &log_id,
            field_violations: field_violations.into_iter().collect(),
        },
    };
    let status = StatusCode::from_u16(refusal.http).unwrap_or(StatusCode::BAD_REQUEST);
    limited(refusal, json(status, &body, &log_id))
}

/// Says when a limit ends, where one was hit.
fn limited(refusal: &Refusal, mut response: Response) -> Response {
    if let Some((limit, reset)) = refusal.limited {
        let headers = response.headers_mut();
        if limit > 0 {
            headers.insert("x-ogw-ratelimit-limit", HeaderValue::from(limit));
        }
        headers.insert("x-ogw-ratelimit-reset", HeaderValue::from(whole_seconds(reset)));
    }
    response
}

/// Rounded up: a caller that waits that long is never early.
fn whole_seconds(reset: Duration) -> u64 {
    reset.as_secs() + u64::from(reset.subsec_nanos() > 0)
}

fn log_id() -> String {
    format!("sim{:017x}", LOG_ID.fetch_add(1, Ordering::Relaxed))
}

fn json(status: StatusCode, body: &impl Serialize, log_id: &str) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut response = raw(status, "application/json; charset=utf-8", bytes);
            if let Ok(value) = HeaderValue::from_str(log_id) {
                response.headers_mut().insert("x-tt-logid", value);
            }
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer of the simulator cannot be encoded");
            text(StatusCode::INTERNAL_SERVER_ERROR, "encoding failed")
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response {
    raw(status, "text/plain", body)
}

fn raw(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
