//! The running node: its routes, its stop, one request from headers to answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response};
use axum::routing::any;
use openclaw_common::bearer::Bearers;
use openclaw_common::bot::{Bot, Bots};
use openclaw_common::cache::Cache;
use openclaw_common::config::Config;
use openclaw_common::envelope::{Envelope, EventKey};
use openclaw_common::fail_point::fail_point;
use openclaw_common::health::{Health, health_routes};
use openclaw_common::queue::Queue;
use openclaw_common::seal::KeyRing;
use openclaw_common::serve::{Limits, serve};
use openclaw_common::telemetry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accept::{Acceptor, Stored};
use crate::body::Longest;
use crate::gate::Gates;
use crate::identify::{Push, identify};
use crate::overload::{Capacity, Overload, Permit};
use crate::reply::{Code, Refusal, Reply, respond};
use crate::{address, body, card, report, route, send, verify};

/// The answer at the latest: half a second before Feishu gives up.
pub(crate) const ANSWER: Duration = Duration::from_millis(2500);

/// What an ingest node works with.
pub struct Ingest {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// Whom it serves; followed as it changes.
    pub bots: Bots,
    /// Where events go.
    pub queue: Arc<dyn Queue>,
    /// The duplicate filter.
    pub cache: Arc<dyn Cache>,
    /// What bodies are sealed with; the empty ring leaves them in the clear.
    pub keys: Arc<KeyRing>,
    /// Served beside the webhook, and told when the node drains.
    pub health: Health,
    /// How it stops.
    pub drain: Drain,
}

/// How a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Not ready any more but still serving, until every load balancer has noticed.
    pub grace: Duration,
    /// Then, for what is still open: requests, and events being stored.
    pub finish: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            finish: Duration::from_secs(3),
        }
    }
}

/// Serves until `shutdown`, then drains; returns when every event that was begun is stored or refused, at the latest
/// after [`Drain`]'s times.
pub async fn run(ingest: Ingest, listener: TcpListener, shutdown: CancellationToken) {
    let Ingest { health, drain, .. } = &ingest;
    let (health, drain) = (health.clone(), *drain);
    telemetry::install();
    let routes = health_routes(&health, &ingest.config.monitoring);
    let node = Arc::new(Node {
        acceptor: Arc::new(Acceptor::new(ingest.queue, ingest.cache, ingest.keys)),
        gates: Gates::default(),
        overload: Overload::new(Capacity::default()),
        report: report::Report::new(ingest.config.log.access),
        bearers: Bearers::new(&ingest.config.api),
        config: ingest.config,
        bots: ingest.bots,
    });
    let router = Router::new()
        .route("/v1/messages", any(send::send))
        .fallback(push)
        .with_state(node.clone())
        .merge(routes);
    let limits = Limits {
        finish: drain.finish,
        proxies: node.config.security.trusted_proxies.clone(),
        ..Limits::default()
    };
    let stop = CancellationToken::new();
    let stopping = async {
        shutdown.cancelled().await;
        health.drain();
        tracing::info!(grace_ms = drain.grace.as_millis(), "draining");
        tokio::time::sleep(drain.grace).await;
        stop.cancel();
        Instant::now() + drain.finish
    };
    let watched = node.clone();
    let watching = tokio::spawn(async move { watched.gates.watch(&watched.bots, &watched.acceptor.queue).await });
    let (deadline, ()) = tokio::join!(stopping, serve(listener, router, limits, stop.clone()));
    watching.abort();
    let acceptor = &node.acceptor;
    if tokio::time::timeout_at(deadline.into(), acceptor.close())
        .await
        .is_err()
    {
        tracing::warn!(
            events = acceptor.tasks.len(),
            "stopped while events were being stored; Feishu pushes them again"
        );
    }
}

pub(crate) struct Node {
    pub(crate) config: Arc<Config>,
    pub(crate) bots: Bots,
    pub(crate) acceptor: Arc<Acceptor>,
    pub(crate) overload: Arc<Overload>,
    /// Who may use the send API.
    pub(crate) bearers: Bearers,
    gates: Gates,
    report: report::Report,
}

async fn push(
    State(node): State<Arc<Node>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let begun = Instant::now();
    let (head, body) = request.into_parts();
    let bots = node.bots.now();
    let bot = route::bot(&bots, &head.uri);
    let security = bot.map_or(&node.config.security, |bot| &bot.security);
    let client = address::client(peer.ip(), &head.headers, &security.trusted_proxies);
    let outcome = async {
        route::check(&bots, security, &head.uri)?;
        if !address::allowed(security, client) {
            return Err(Refusal::new(
                Code::ForbiddenAddress,
                "this address is not in `security.allowed_ips`",
            ));
        }
        if head.method != Method::POST {
            return Err(Refusal::new(Code::Method, "events are pushed with POST"));
        }
        let bot = bot.ok_or_else(route::no_such_bot)?;
        // A trusted proxy that names nobody is the one who asks.
        let client = client.unwrap_or(peer.ip());
        node.take(bot, &head.headers, body, client, begun).await
    };
    let outcome = tokio::time::timeout(ANSWER, outcome)
        .await
        .unwrap_or_else(|_| Err(Refusal::unavailable()));
    node.finish(&head, bot.map(|bot| &**bot), client, begun, &outcome);
    respond(&outcome)
}

impl Node {
    async fn take(
        &self,
        bot: &Bot,
        headers: &HeaderMap,
        body: Body,
        client: IpAddr,
        begun: Instant,
    ) -> Result<Reply, Refusal> {
        let longest = Longest {
            any: bot.security.max_body,
            unsigned: verify::longest_unsigned(bot, headers),
        };
        let (raw, permit) = body::read(headers, body, longest, client, &self.overload).await?;
        let opened = verify::open(bot, headers, raw)?;
        let (mut envelope, card) = match identify(bot, &opened)? {
            Push::Challenge(challenge) => return Ok(Reply::Challenge(challenge)),
            Push::Event { envelope, card } => (envelope, card),
        };
        drop(opened);
        envelope.traceparent = traceparent(headers).map(Into::into);
        if let Some(rate) = bot.security.rate_limit
            && !self.gates.of(&bot.id).within(rate, Instant::now())
        {
            return Err(Refusal::new(
                Code::RateLimited,
                "the bot gets more events than `security.rate_limit`",
            ));
        }
        let known_as = envelope.key.clone();
        let stored = self.store(bot, envelope, known_as, begun, permit).await?;
        fail_point("I5", "");
        Ok(match stored {
            _ if card => Reply::Card(card::answer(bot.feishu.card_toast.as_ref())),
            Stored::New => Reply::Accepted,
            Stored::Before => Reply::Duplicate,
        })
    }

    /// Into the queue of `bot`, if there is room.
    pub(crate) async fn store(
        &self,
        bot: &Bot,
        envelope: Envelope,
        known_as: EventKey,
        begun: Instant,
        permit: Permit,
    ) -> Result<Stored, Refusal> {
        let gate = self.gates.of(&bot.id);
        self.acceptor.check_link().await?;
        let Acceptor { queue, tasks, .. } = &*self.acceptor;
        let Some(room) = gate.room(&bot.id, bot.message.queue_size, queue, tasks).await else {
            return Err(Refusal::new(
                Code::QueueFull,
                "the bot's queue is full (`message.queue_size`): push the event again later",
            ));
        };
        fail_point("I0", &envelope.key.key);
        let ttl = bot.message.dedup_ttl;
        self.acceptor
            .accept(envelope, known_as, ttl, begun, (permit, room))
            .await
    }

    pub(crate) fn finish(
        &self,
        head: &Parts,
        bot: Option<&Bot>,
        client: Option<IpAddr>,
        begun: Instant,
        outcome: &Result<Reply, Refusal>,
    ) {
        let took = begun.elapsed();
        telemetry::ACCEPT_SECONDS.record(took);
        match outcome {
            Ok(reply) => telemetry::EVENTS.add(reply.result()),
            Err(refusal) => {
                telemetry::EVENTS.add(refusal.code.as_str());
                let server = refusal.code.status().is_server_error();
                telemetry::HTTP_ERRORS.add(if server { "5xx" } else { "4xx" });
            }
        }
        self.report.request(head, bot, client, took, outcome);
    }
}

/// A W3C trace context, when it is one.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = |(index, byte): (usize, u8)| match index {
        2 | 35 | 52 => byte == b'-',
        _ => is_hex(byte),
    };
    (text.len() == 55 && text.bytes().enumerate().all(fits)).then_some(text)
}
