//! The obvious ingest: the product's HTTP, verification and decryption; then one SET NX and one awaited publish a request.
//! No mark after the confirm, so a crash between the two loses the event for ten minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use openclaw_common::crypto;
use openclaw_common::serve::{self, Limits};
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::topology;

const CHANNELS: usize = 8;
const DEDUP_SECONDS: u64 = 600;

#[derive(Clone)]
struct Naive {
    channels: Arc<[Channel]>,
    turn: Arc<AtomicUsize>,
    redis: MultiplexedConnection,
}

pub(super) async fn serve(listener: TcpListener, amqp_url: &str, redis_url: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(amqp_url, ConnectionProperties::default()).await?;
    let mut channels = Vec::with_capacity(CHANNELS);
    for _ in 0..CHANNELS {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        channels.push(channel);
    }
    let naive = Naive {
        channels: channels.into(),
        turn: Arc::default(),
        redis: redis::Client::open(redis_url)?
            .get_multiplexed_async_connection()
            .await?,
    };
    let router = Router::new().route("/webhook/{bot}", post(accept)).with_state(naive);
    serve::serve(listener, router, Limits::default(), CancellationToken::new()).await;
    Ok(())
}

async fn accept(
    State(naive): State<Naive>,
    Path(bot): Path<String>,
    headers: HeaderMap,
    raw: Bytes,
) -> (StatusCode, &'static str) {
    match naive.take(&bot, &headers, &raw).await {
        Ok(()) => (StatusCode::OK, "{}"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "{}"),
    }
}

#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow)]
    encrypt: &'a str,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    event: Event<'a>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    message_id: &'a str,
}

impl Naive {
    async fn take(&self, bot: &str, headers: &HeaderMap, raw: &[u8]) -> anyhow::Result<()> {
        let header = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let (timestamp, nonce) = (header("x-lark-request-timestamp"), header("x-lark-request-nonce"));
        // The name every world gives a bot's key.
        let key = format!("key-of-{bot}");
        if !crypto::verify_sha256(header("x-lark-signature"), timestamp, nonce, &key, raw) {
            return Err(anyhow!("a forgery"));
        }
        let wrapper: Wrapper<'_> = serde_json::from_slice(raw)?;
        let plain = crypto::decrypt(&key, wrapper.encrypt)?;
        let document: Document<'_> = serde_json::from_slice(&plain)?;
        let mut set = redis::cmd("SET");
        set.arg(format!("naive:{}", document.event.message.message_id)).arg(1);
        set.arg("NX").arg("EX").arg(DEDUP_SECONDS);
        let fresh: Option<String> = set.query_async(&mut self.redis.clone()).await?;
        if fresh.is_none() {
            return Ok(());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.channels.len();
        let channel = self.channels.get(turn).context("no channels")?;
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(topology::EVENTS.into(), bot.into(), options, &plain, persistent);
        match sent.await?.await? {
            Confirmation::Ack(None) => Ok(()),
            other => Err(anyhow!("not stored: {other:?}")),
        }
    }
}
