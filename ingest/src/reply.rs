//! Every answer a stranger can see.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;

/// Why a request is refused. Part of the public surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Malformed,
    /// `malformed` too, with the status that names the method as the mistake.
    Method,
    BadSignature,
    BadToken,
    ForbiddenAddress,
    ForbiddenPath,
    NoSuchBot,
    TooLarge,
    UnsupportedEncoding,
    RateLimited,
    QueueFull,
    /// No token of `api.tokens`.
    Unauthorized,
    /// Another body under the same `Idempotency-Key`.
    IdempotencyConflict,
    Unavailable,
}

impl Code {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Unavailable as usize + 1;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed | Self::Method => "malformed",
            Self::BadSignature => "bad_signature",
            Self::BadToken => "bad_token",
            Self::ForbiddenAddress => "forbidden_address",
            Self::ForbiddenPath => "forbidden_path",
            Self::NoSuchBot => "no_such_bot",
            Self::TooLarge => "too_large",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::RateLimited => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::Unauthorized => "unauthorized",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::Unavailable => "unavailable",
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadSignature | Self::BadToken | Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::ForbiddenAddress | Self::ForbiddenPath => StatusCode::FORBIDDEN,
            Self::NoSuchBot => StatusCode::NOT_FOUND,
            Self::IdempotencyConflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::QueueFull | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// A refused request: the code for programs, a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) message: Cow<'static, str>,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Malformed, message)
    }

    /// Not stored, try again. The reason is for the log; strangers learn no more than that.
    pub(crate) fn unavailable() -> Self {
        Self::new(Code::Unavailable, "the event was not stored; push it again")
    }
}

/// A request that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// In the queue now.
    Accepted,
    /// In the queue before.
    Duplicate,
    /// A card click, in the queue; the JSON that answers the person.
    Card(Cow<'static, str>),
    /// The challenge to echo.
    Challenge(String),
    /// A send, in the queue now or before.
    Queued {
        /// By which its outcome is found.
        id: String,
        /// It was in the queue before.
        known: bool,
    },
}

impl Reply {
    /// As counted in `openclaw_events_total`.
    pub(crate) fn result(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Card(_) => "card",
            Self::Challenge(_) => "challenge",
            Self::Queued { known: false, .. } => "send",
            Self::Queued { known: true, .. } => "duplicate",
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Queued { .. } => StatusCode::ACCEPTED,
            _ => StatusCode::OK,
        }
    }
}

#[derive(Serialize)]
struct Challenge<'challenge> {
    challenge: &'challenge str,
}

#[derive(Serialize)]
struct Queued<'id> {
    id: &'id str,
}

#[derive(Serialize)]
struct ErrorBody<'error> {
    error: ErrorDetail<'error>,
}

#[derive(Serialize)]
struct ErrorDetail<'error> {
    code: &'static str,
    message: &'error str,
}

/// The HTTP answer to a push.
pub(crate) fn respond(outcome: &Result<Reply, Refusal>) -> Response<Body> {
    match outcome {
        Ok(Reply::Accepted | Reply::Duplicate) => json(StatusCode::OK, "{}"),
        Ok(Reply::Card(Cow::Borrowed(answer))) => json(StatusCode::OK, *answer),
        Ok(Reply::Card(Cow::Owned(answer))) => json(StatusCode::OK, answer.clone()),
        Ok(Reply::Challenge(challenge)) => json(StatusCode::OK, encoded(&Challenge { challenge })),
        Ok(reply @ Reply::Queued { id, .. }) => json(reply.status(), encoded(&Queued { id })),
        Err(Refusal { code, message }) => {
            let body = encoded(&ErrorBody {
                error: ErrorDetail {
                    code: code.as_str(),
                    message,
                },
            });
            let mut response = json(code.status(), body);
            if *code == Code::TooLarge {
                // Whoever sends too much is not listened to any longer, and is told so.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if *code == Code::Method {
                response
                    .headers_mut()
                    .insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            if *code == Code::Unauthorized {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// These types hold strings only, which always encode.
fn encoded(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
