//! The simulator's own HTTP API (`/sim/…`), for load generators and people: the same things the handle can do.
//!
//! | call | what |
//! |---|---|
//! | `GET /sim/ledger` | totals, and the fullest rolling window of each level |
//! | `GET /sim/messages?chat=&reply_to=&uuid=&app=&limit=` | visible messages, the newest `limit` (1,000) in order |
//! | `GET /sim/calls?chat=&app=&limit=` | calls with their results |
//! | `POST /sim/messages` `[{message_id, chat_id}]` | people's messages that can be replied to |
//! | `POST /sim/chats` `{chat_id, open_id}` | a p2p chat |
//! | `POST /sim/members` `{app_id, chat_id, member}` | an app in or out of a chat |
//! | `GET`, `POST`, `DELETE /sim/faults[?id=]` | rules; `{fault, api, app, chat, message, nth, times, probability, ms, reset, status, code, msg, commit}` |
//! | `GET`, `POST /sim/limits` | a number or `"off"` for each; absent ones stay |
//! | `POST /sim/tokens/revoke` `{app_id}` | tokens of one app, or of all |

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::faults::{Answer, Fault, FaultId, Rule, Scope};
use crate::ledger::{Ledger, Level, Message};
use crate::openapi::Api;
use crate::openapi::limits::Limits;
use crate::server::Gate;

/// Entries in an answer when the caller names no limit.
const DEFAULT_LIMIT: usize = 1000;

/// Keys of a level shown in `/sim/ledger`.
const SHOWN_PEAKS: usize = 10;

pub(crate) fn routes() -> Router<Gate> {
    Router::new()
        .route("/sim/ledger", get(ledger))
        .route("/sim/messages", get(messages).post(add_messages))
        .route("/sim/calls", get(calls))
        .route("/sim/chats", post(add_chat))
        .route("/sim/members", post(set_member))
        .route("/sim/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/sim/limits", get(limits).post(set_limits))
        .route("/sim/tokens/revoke", post(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    chat: Option<String>,
    reply_to: Option<String>,
    uuid: Option<String>,
    app: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PushedMessage {
    message_id: String,
    chat_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct P2pChat {
    chat_id: String,
    open_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Membership {
    app_id: String,
    chat_id: String,
    member: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revocation {
    app_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleId {
    id: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultRequest {
    fault: String,
    api: Option<String>,
    app: Option<String>,
    chat: Option<String>,
    message: Option<String>,
    /// The first matching call to hit, from 1; then `times` is 1 unless given.
    nth: Option<u64>,
    times: Option<u64>,
    probability: Option<f64>,
    ms: Option<u64>,
    reset: Option<f64>,
    status: Option<u16>,
    code: Option<i64>,
    msg: Option<String>,
    commit: Option<bool>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Setting {
    Limit(u32),
    Word(Word),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Off,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRequest {
    app_per_second: Option<Setting>,
    app_per_minute: Option<Setting>,
    chat_per_second: Option<Setting>,
    user_per_second: Option<Setting>,
    card_per_second: Option<Setting>,
}

#[derive(Serialize)]
struct RuleView {
    id: u64,
    fault: String,
    seen: u64,
    fired: u64,
}

async fn ledger(State(gate): State<Gate>) -> Response {
    let view = gate.sim.ledger(|ledger| {
        let peaks = |level| {
            let mut peaks = ledger.peaks(level);
            peaks.truncate(SHOWN_PEAKS);
            peaks
        };
        json!({
            "totals": ledger.totals(),
            "forgotten_messages": ledger.forgotten_messages(),
            "forgotten_calls": ledger.forgotten_calls(),
            "max_per_second": {
                "bot": peaks(Level::Bot),
                "app": peaks(Level::App),
                "chat": peaks(Level::Chat),
                "user": peaks(Level::User),
                "card": peaks(Level::Card),
            },
            "max_per_minute": { "app": peaks(Level::AppMinute) },
        })
    });
    Json(view).into_response()
}

async fn messages(State(gate): State<Gate>, Query(filter): Query<Filter>) -> Response {
    Json(gate.sim.ledger(|ledger| newest_messages(ledger, &filter))).into_response()
}

fn newest_messages(ledger: &Ledger, filter: &Filter) -> Vec<Message> {
    let matches = |message: &&Message| {
        same(filter.chat.as_deref(), Some(&*message.chat))
            && same(filter.app.as_deref(), Some(&*message.app))
            && same(filter.reply_to.as_deref(), message.reply_to.as_deref())
            && same(filter.uuid.as_deref(), message.uuid.as_deref())
    };
    let newest = ledger
        .messages()
        .rev()
        .filter(matches)
        .take(filter.limit.unwrap_or(DEFAULT_LIMIT));
    let mut found: Vec<Message> = newest.cloned().collect();
    found.reverse();
    found
}

async fn calls(State(gate): State<Gate>, Query(filter): Query<Filter>) -> Response {
    let found = gate.sim.ledger(|ledger| {
        let matches = |call: &&crate::ledger::Call| {
            same(filter.chat.as_deref(), call.chat.as_deref())
                && same(filter.app.as_deref(), Some(&*call.app))
                && same(filter.reply_to.as_deref(), call.reply_to.as_deref())
                && same(filter.uuid.as_deref(), call.uuid.as_deref())
        };
        let newest = ledger
            .calls()
            .rev()
            .filter(matches)
            .take(filter.limit.unwrap_or(DEFAULT_LIMIT));
        let mut found: Vec<_> = newest.cloned().collect();
        found.reverse();
        found
    });
    Json(found).into_response()
}

fn same(wanted: Option<&str>, actual: Option<&str>) -> bool {
    wanted.is_none() || wanted == actual
}

async fn add_messages(State(gate): State<Gate>, Json(messages): Json<Vec<PushedMessage>>) -> StatusCode {
    for message in messages {
        gate.sim.add_message(&message.message_id, &message.chat_id);
    }
    StatusCode::NO_CONTENT
}

async fn add_chat(State(gate): State<Gate>, Json(chat): Json<P2pChat>) -> StatusCode {
    gate.sim.add_p2p(&chat.chat_id, &chat.open_id);
    StatusCode::NO_CONTENT
}

async fn set_member(State(gate): State<Gate>, Json(membership): Json<Membership>) -> StatusCode {
    gate.sim
        .set_member(&membership.app_id, &membership.chat_id, membership.member);
    StatusCode::NO_CONTENT
}

async fn revoke(State(gate): State<Gate>, Json(revocation): Json<Revocation>) -> StatusCode {
    gate.sim.revoke_tokens(revocation.app_id.as_deref());
    StatusCode::NO_CONTENT
}

async fn faults(State(gate): State<Gate>) -> Response {
    let view = |rule: Rule| RuleView {
        id: rule.id.0,
        fault: rule.fault.name.to_string(),
        seen: rule.seen,
        fired: rule.fired,
    };
    Json(gate.sim.faults().into_iter().map(view).collect::<Vec<_>>()).into_response()
}

async fn add_fault(State(gate): State<Gate>, Json(request): Json<FaultRequest>) -> Response {
    let (scope, fault) = match rule(request) {
        Ok(rule) => rule,
        Err(complaint) => return (StatusCode::BAD_REQUEST, complaint).into_response(),
    };
    match gate.sim.fault(scope, fault) {
        Ok(id) => Json(json!({ "id": id.0 })).into_response(),
        Err(error) => (StatusCode::CONFLICT, error.to_string()).into_response(),
    }
}

fn rule(request: FaultRequest) -> Result<(Scope, Fault), String> {
    let api = match request.api.as_deref() {
        None => None,
        Some(name) => match Api::ALL.into_iter().find(|api| api.name() == name) {
            Some(api) => Some(api),
            None => return Err(format!("no such api `{name}`")),
        },
    };
    let time = Duration::from_millis(request.ms.unwrap_or(0));
    let status = request.status.unwrap_or(500);
    let commit = request.commit.unwrap_or(false);
    let mut fault = match request.fault.as_str() {
        "rate_limited" => {
            let reset = Duration::try_from_secs_f64(request.reset.unwrap_or(1.0));
            Fault::rate_limited(reset.map_err(|error| format!("reset: {error}"))?)
        }
        "chat_limited" => Fault::chat_limited(),
        "monthly_quota" => Fault::monthly_quota(),
        "server_error" => Fault::server_error(status),
        "commit_then_error" => Fault::commit_then_error(status),
        "commit_then_reset" => Fault::commit_then_reset(),
        "reset" => Fault::reset(),
        "slow" => Fault::slow(time),
        "hold" => Fault::hold(time),
        "silent" => Fault::silent(commit),
        "token_revoked" => Fault::token_revoked(),
        "malformed" => Fault::malformed(commit),
        "garbage" => Fault::garbage(commit),
        "packed" => Fault::packed(),
        "code" => match request.code {
            Some(code) => Fault::code(
                request.status.unwrap_or(400),
                code,
                request.msg.as_deref().unwrap_or("planted"),
            ),
            None => return Err("`code` needs a `code`".to_owned()),
        },
        other => return Err(format!("no such fault `{other}`")),
    };
    if let (Answer::Refuse { http, .. }, Some(status)) = (&mut fault.answer, request.status) {
        *http = status;
    }
    if !matches!(&*fault.name, "slow" | "hold") {
        fault.late = time;
    }
    let scope = Scope {
        api,
        app: request.app.map(Into::into),
        chat: request.chat.map(Into::into),
        message: request.message.map(Into::into),
        skip: request.nth.map_or(0, |nth| nth.saturating_sub(1)),
        times: request.times.or(request.nth.map(|_| 1)),
        probability: request.probability,
    };
    Ok((scope, fault))
}

async fn clear_faults(State(gate): State<Gate>, Query(rule): Query<RuleId>) -> Response {
    let removed = gate.sim.clear_faults(rule.id.map(FaultId));
    Json(json!({ "removed": removed })).into_response()
}

async fn limits(State(gate): State<Gate>) -> Response {
    show_limits(&gate.sim.limits())
}

async fn set_limits(State(gate): State<Gate>, Json(request): Json<LimitsRequest>) -> Response {
    let set = |current: &mut Option<u32>, setting: Option<Setting>| match setting {
        Some(Setting::Limit(limit)) => *current = Some(limit),
        Some(Setting::Word(Word::Off)) => *current = None,
        None => {}
    };
    let mut limits = gate.sim.limits();
    set(&mut limits.app_per_second, request.app_per_second);
    set(&mut limits.app_per_minute, request.app_per_minute);
    set(&mut limits.chat_per_second, request.chat_per_second);
    set(&mut limits.user_per_second, request.user_per_second);
    set(&mut limits.card_per_second, request.card_per_second);
    gate.sim.set_limits(limits.clone());
    show_limits(&limits)
}

fn show_limits(limits: &Limits) -> Response {
    let show = |limit: Option<u32>| limit.map_or_else(|| json!("off"), |limit| json!(limit));
    Json(json!({
        "app_per_second": show(limits.app_per_second),
        "app_per_minute": show(limits.app_per_minute),
        "chat_per_second": show(limits.chat_per_second),
        "user_per_second": show(limits.user_per_second),
        "card_per_second": show(limits.card_per_second),
    }))
    .into_response()
}
