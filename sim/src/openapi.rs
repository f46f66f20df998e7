//! The Open API as a bot sees it: routes, and the shape of answers (`docs/design/feishu-protocol.md` §5 to §7).
//!
//! | module | job |
//! |---|---|
//! | [`body`] | request bodies: fields, types, sizes |
//! | [`send`] | one call, from arrival to answer |
//! | [`target`] | where it aims |
//! | [`admit`] | whether it may: faults, limits, uuid |
//! | [`effect`] | what it does |
//! | [`respond`] | envelopes, headers, and answers that are faults |
//! | [`token`] | tenant access tokens |
//! | [`limits`] | strict rolling limits |
//! | [`uuid`] | the platform's idempotency |
//! | [`chats`] | chats, messages, members, card tokens |
//! | [`refusals`] | every error, by number |

mod admit;
mod body;
pub(crate) mod chats;
mod effect;
pub(crate) mod limits;
pub(crate) mod refusals;
pub(crate) mod respond;
mod send;
mod target;
pub(crate) mod token;
pub(crate) mod uuid;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::{get, patch, post};
use bytes::Bytes;
use serde::Serialize;

use crate::clock::monotonic_us;
use crate::server::Gate;
use admit::Incoming;
use target::Target;

/// Above every size the platform accepts, so that its own refusals are what a client sees.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// An API the simulator knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `POST /open-apis/auth/v3/tenant_access_token/internal`
    Token,
    /// `POST /open-apis/im/v1/messages`
    Create,
    /// `POST /open-apis/im/v1/messages/:message_id/reply`
    Reply,
    /// `PUT /open-apis/im/v1/messages/:message_id`
    Edit,
    /// `PATCH /open-apis/im/v1/messages/:message_id`
    Patch,
    /// `POST /open-apis/interactive/v1/card/update`
    CardUpdate,
    /// `POST /open-apis/im/v1/messages/:message_id/reactions`
    React,
    /// `DELETE /open-apis/im/v1/messages/:message_id`
    Recall,
}

impl Api {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Token,
        Self::Create,
        Self::Reply,
        Self::Edit,
        Self::Patch,
        Self::CardUpdate,
        Self::React,
        Self::Recall,
    ];

    /// Its name in the ledger and the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Create => "create",
            Self::Reply => "reply",
            Self::Edit => "edit",
            Self::Patch => "patch",
            Self::CardUpdate => "card_update",
            Self::React => "react",
            Self::Recall => "recall",
        }
    }
}

/// An error of the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) http: u16,
    pub(crate) code: i64,
    pub(crate) msg: Cow<'static, str>,
    /// The field at fault and what is wrong with it.
    pub(crate) field: Option<(&'static str, &'static str)>,
    /// The limit that was hit (0: not told) and the time until it frees.
    pub(crate) limited: Option<(u32, Duration)>,
}

/// The Open API's routes. A wrong path or method is answered as the platform does: 404 in plain text.
pub(crate) fn routes() -> Router<Gate> {
    Router::new()
        .route(
            "/open-apis/auth/v3/tenant_access_token/internal",
            post(tenant_access_token),
        )
        .route("/open-apis/bot/v3/info", get(bot_info))
        .route("/open-apis/im/v1/messages", post(create))
        .route(
            "/open-apis/im/v1/messages/{message_id}",
            patch(patch_card).put(edit).delete(recall),
        )
        .route("/open-apis/im/v1/messages/{message_id}/reply", post(reply))
        .route("/open-apis/im/v1/messages/{message_id}/reactions", post(react))
        .route("/open-apis/interactive/v1/card/update", post(card_update))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

async fn tenant_access_token(State(gate): State<Gate>, body: Bytes) -> Response {
    send::issue_token(&gate, &body).await
}

/// Needs no scope and counts against no limit here.
async fn bot_info(State(gate): State<Gate>, headers: HeaderMap) -> Response {
    let app = gate
        .sim
        .state()
        .tokens
        .authenticate(authorization(&headers), monotonic_us());
    respond::bot(app)
}

async fn create(
    State(gate): State<Gate>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (target, draft) = body::create(query.get("receive_id_type").map(String::as_str), &body);
    let incoming = Incoming::new(Api::Create, authorization(&headers), target, draft);
    send::perform(&gate, incoming).await
}

async fn reply(
    State(gate): State<Gate>,
    Path(message_id): Path<Arc<str>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Some(Target::Reply(message_id));
    let incoming = Incoming::new(Api::Reply, authorization(&headers), target, body::reply(&body));
    send::perform(&gate, incoming).await
}

async fn edit(State(gate): State<Gate>, Path(message_id): Path<Arc<str>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = Some(Target::Message(message_id));
    let incoming = Incoming::new(Api::Edit, authorization(&headers), target, body::edit(&body));
    send::perform(&gate, incoming).await
}

async fn patch_card(
    State(gate): State<Gate>,
    Path(message_id): Path<Arc<str>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Some(Target::Message(message_id));
    let incoming = Incoming::new(Api::Patch, authorization(&headers), target, body::patch(&body));
    send::perform(&gate, incoming).await
}

async fn recall(State(gate): State<Gate>, Path(message_id): Path<Arc<str>>, headers: HeaderMap) -> Response {
    let target = Some(Target::Message(message_id));
    let incoming = Incoming::new(Api::Recall, authorization(&headers), target, Ok(body::nothing()));
    send::perform(&gate, incoming).await
}

async fn react(
    State(gate): State<Gate>,
    Path(message_id): Path<Arc<str>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = Some(Target::Reply(message_id));
    let incoming = Incoming::new(Api::React, authorization(&headers), target, body::reaction(&body));
    send::perform(&gate, incoming).await
}

async fn card_update(State(gate): State<Gate>, headers: HeaderMap, body: Bytes) -> Response {
    let (target, draft) = body::card_update(&body);
    let incoming = Incoming::new(Api::CardUpdate, authorization(&headers), target, draft);
    send::perform(&gate, incoming).await
}

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())
}
