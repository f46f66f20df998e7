//! `POST /v1/messages`: somebody wants something sent. From here on it is an event like all others: the same queue, the
//! same quota, the same outcome.
//!
//! **Idempotency.** The event's key is made from the `Idempotency-Key` and the receiver of the order (the bot or pool), so the
//! Store keeps it to one message for as long as it keeps the row. Another body under the same key is told at once
//! while the cache remembers the first (409); else the worker, which can compare with the first copy, makes a dead letter of
//! it. So that it gets there, the duplicate filter knows a send by key **and** body.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Method, Response, header};
use openclaw_common::bot::{Bot, BotSet};
use openclaw_common::envelope::{Envelope, EventKey, Origin, SEND};
use openclaw_common::time::now_ms;

use crate::accept::Stored;
use crate::body::Longest;
use crate::node::{ANSWER, Node, traceparent};
use crate::order::{self, Through};
use crate::reply::{Code, Refusal, Reply, respond};
use crate::{address, body};

const LONGEST_KEY: usize = 255;
/// The keys of sends begin so, and nobody else's.
pub(crate) const SEND_KEYS: &str = "snd_";

pub(crate) async fn send(
    State(node): State<Arc<Node>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let begun = Instant::now();
    let (head, body) = request.into_parts();
    let client = address::client(peer.ip(), &head.headers, &node.config.security.trusted_proxies);
    let outcome = async {
        // `allowed_ips` and `safe_paths` are about Feishu's pushes; here the token decides.
        node.authorize(&head.headers)?;
        if head.method != Method::POST {
            return Err(Refusal::new(Code::Method, "messages are sent with POST"));
        }
        let client = client.unwrap_or(peer.ip());
        node.order(&head.headers, body, client, begun).await
    };
    let outcome = tokio::time::timeout(ANSWER, outcome)
        .await
        .unwrap_or_else(|_| Err(Refusal::unavailable()))
        .map_err(uncertain);
    node.finish(&head, None, client, begun, &outcome);
    respond(&outcome)
}

/// Feishu pushes an event under the same id again; a program that sends anew without a key would send twice.
fn uncertain(refusal: Refusal) -> Refusal {
    match refusal.code {
        Code::Unavailable => Refusal::new(
            Code::Unavailable,
            "it is not certain whether the message was stored: with an `Idempotency-Key` it is safe to send it again",
        ),
        _ => refusal,
    }
}

impl Node {
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.bearers.is_empty() {
            return Err(Refusal::new(
                Code::Unauthorized,
                "the send API is off: this node has no `api.tokens`",
            ));
        }
        let given = headers.get(header::AUTHORIZATION);
        match given.is_some_and(|given| self.bearers.allow(given.as_bytes())) {
            true => Ok(()),
            false => Err(Refusal::new(
                Code::Unauthorized,
                "give one of `api.tokens` as `Authorization: Bearer …`",
            )),
        }
    }

    async fn order(&self, headers: &HeaderMap, body: Body, client: IpAddr, begun: Instant) -> Result<Reply, Refusal> {
        let idempotency_key = idempotency_key(headers)?;
        let longest = Longest {
            any: self.config.security.max_body,
            unsigned: None,
        };
        let (raw, permit) = body::read(headers, body, longest, client, &self.overload).await?;
        let now = now_ms();
        let (through, order) = order::parse(&raw, now)?;
        drop(raw);
        let bots = self.bots.now();
        let receiver = receiver(&bots, &through)?;
        let app_id = &receiver.credentials.app_id;
        let id = id(app_id, idempotency_key);
        let body = order.encode();
        let print = blake3::hash(&body);
        let envelope = Envelope {
            key: EventKey::new(app_id.clone(), id.clone()),
            bot: receiver.id.clone(),
            origin: Origin::Send,
            event_type: SEND.into(),
            chat: order.to.into(),
            tenant: "".into(),
            created_ms: now,
            received_ms: now,
            traceparent: traceparent(headers).map(Into::into),
            body,
        };
        let ttl = receiver.message.dedup_ttl;
        let first = match idempotency_key {
            Some(_) => Some(self.first_body(&envelope.key, print.as_bytes(), ttl).await?),
            None => None,
        };
        let known_as = EventKey::new(app_id.clone(), format!("{id}#{}", &print.to_hex()[..16]));
        let stored = self.store(receiver, envelope, known_as, begun, permit).await;
        if let (Err(_), Some(FirstBody { key, ours: true })) = (&stored, first) {
            // Not stored: whoever comes next under this key may bring another body.
            if let Err(error) = self.acceptor.cache.remove_if(&key, print.as_bytes()).await {
                tracing::debug!(%error, "the body of a refused send is remembered for a while");
            }
        }
        let known = stored? == Stored::Before;
        Ok(Reply::Queued { id, known })
    }

    /// Notes a body under its key, or finds that it is the one noted before. A cache that is away knows nothing.
    async fn first_body(&self, key: &EventKey, print: &[u8], ttl: Duration) -> Result<FirstBody, Refusal> {
        let cache = &self.acceptor.cache;
        let key = format!("send:{key}");
        let ours = cache.set_if_absent(&key, print, ttl).await.unwrap_or(false);
        if !ours
            && let Ok(Some(first)) = cache.get(&key).await
            && first != print
        {
            return Err(Refusal::new(
                Code::IdempotencyConflict,
                "Idempotency-Key: another message was sent under this key",
            ));
        }
        Ok(FirstBody { key, ours })
    }
}

struct FirstBody {
    key: String,
    /// Whether nobody had noted one before.
    ours: bool,
}

fn receiver<'bots>(bots: &'bots BotSet, through: &Through) -> Result<&'bots Arc<Bot>, Refusal> {
    let missing =
        |kind: &str, name: &str| Refusal::new(Code::NoSuchBot, format!("{kind}: no {kind} `{name}` is configured"));
    match through {
        Through::Bot(name) => bots.get(name).ok_or_else(|| missing("bot", name)),
        Through::Pool(name) => {
            let pool = bots.pool(name).ok_or_else(|| missing("pool", name))?;
            Ok(&pool.stand_in)
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let plain = |key: &&str| (1..=LONGEST_KEY).contains(&key.len());
    let key = key.to_str().ok().filter(plain);
    key.map(Some)
        .ok_or_else(|| Refusal::malformed(format!("Idempotency-Key: must be 1 to {LONGEST_KEY} ASCII characters")))
}

/// The same for everybody who gives the same key, and never an id of Feishu's.
fn id(app_id: &str, idempotency_key: Option<&str>) -> String {
    let sixteen = match idempotency_key {
        Some(key) => {
            let mut hasher = blake3::Hasher::new_derive_key("openclaw send v1");
            hasher.update(app_id.as_bytes()).update(b"\0").update(key.as_bytes());
            let mut sixteen = [0; 16];
            hasher.finalize_xof().fill(&mut sixteen);
            sixteen
        }
        None => rand::random(),
    };
    format!("{SEND_KEYS}{}", hex::encode(sixteen))
}
