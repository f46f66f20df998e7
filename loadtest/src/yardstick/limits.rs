//! What the shared servers take from their own best client when nothing else is in the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use redis::aio::MultiplexedConnection;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;
use world::World;

use crate::topology;

const CHANNELS: usize = 4;
/// More buys latency only.
const WINDOW: usize = 128;
const BODY: [u8; 1_024] = [b'x'; 1_024];

const IN_FLIGHT: usize = 512;

const ROWS: usize = 500;
const WRITERS: usize = 4;

/// Confirmed publishes a second: persistent, pipelined, over the bots' own queues in turn.
pub(crate) async fn broker(world: &World, lasting: Duration) -> anyhow::Result<f64> {
    let shared = world.shared.as_ref().context("no broker")?;
    let connection = Connection::connect(shared.rabbitmq.amqp_url(), ConnectionProperties::default()).await?;
    let bots: Arc<[Arc<str>]> = world.bots.iter().map(|recipient| Arc::clone(&recipient.bot)).collect();
    // Kept open until the connection closes: lapin cannot close a connection with a channel half closed.
    let mut open = Vec::new();
    for _ in 0..CHANNELS {
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        open.push(channel);
    }
    let (begun, mut channels) = (Instant::now(), JoinSet::new());
    for (number, channel) in open.iter().cloned().enumerate() {
        channels.spawn(publish(channel, number, Arc::clone(&bots), begun + lasting));
    }
    let rate = sum(channels).await? as f64 / begun.elapsed().as_secs_f64();
    connection.close(200, "measured".into()).await?;
    Ok(rate)
}

async fn publish(channel: Channel, offset: usize, bots: Arc<[Arc<str>]>, until: Instant) -> anyhow::Result<u64> {
    let (mut unconfirmed, mut confirmed) = (FuturesUnordered::new(), 0);
    let mut next = offset;
    loop {
        while unconfirmed.len() < WINDOW && Instant::now() < until {
            let bot = bots.get(next % bots.len()).context("no bots")?;
            next += 1;
            let persistent = BasicProperties::default().with_delivery_mode(2);
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(topology::EVENTS.into(), (&**bot).into(), options, &BODY, persistent);
            unconfirmed.push(sent.await?);
        }
        match unconfirmed.next().await {
            Some(Ok(Confirmation::Ack(None))) => confirmed += 1,
            Some(other) => return Err(anyhow!("a publish of the yardstick failed: {other:?}")),
            None => return Ok(confirmed),
        }
    }
}

/// `SET NX` a second over one multiplexed connection.
pub(crate) async fn redis(world: &World, lasting: Duration) -> anyhow::Result<f64> {
    let shared = world.shared.as_ref().context("no Redis")?;
    let client = redis::Client::open(shared.redis.url())?;
    let connection = client.get_multiplexed_async_connection().await?;
    let (begun, number, mut tasks) = (Instant::now(), Arc::new(AtomicU64::new(0)), JoinSet::new());
    for _ in 0..IN_FLIGHT {
        tasks.spawn(set(connection.clone(), Arc::clone(&number), begun + lasting));
    }
    Ok(sum(tasks).await? as f64 / begun.elapsed().as_secs_f64())
}

async fn set(mut connection: MultiplexedConnection, number: Arc<AtomicU64>, until: Instant) -> anyhow::Result<u64> {
    let mut done = 0;
    while Instant::now() < until {
        let key = format!("limit:{}", number.fetch_add(1, Ordering::Relaxed));
        let mut command = redis::cmd("SET");
        command.arg(key).arg(1).arg("NX").arg("PX").arg(600_000);
        command.query_async::<Option<String>>(&mut connection).await?;
        done += 1;
    }
    Ok(done)
}

/// Rows a second into a table with a primary key and one index, 500 a statement by `UNNEST`.
pub(crate) async fn database(world: &World, lasting: Duration) -> anyhow::Result<f64> {
    let shared = world.shared.as_ref().context("no database")?;
    let connections = u32::try_from(WRITERS)?;
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .connect(shared.database.url())
        .await?;
    sqlx::query("CREATE TABLE limit_rows (id uuid PRIMARY KEY, bot text NOT NULL, body bytea NOT NULL)")
        .execute(&pool)
        .await?;
    sqlx::query("CREATE INDEX limit_rows_bot ON limit_rows (bot)")
        .execute(&pool)
        .await?;
    let (begun, mut writers) = (Instant::now(), JoinSet::new());
    for _ in 0..WRITERS {
        let (pool, until) = (pool.clone(), begun + lasting);
        writers.spawn(async move {
            let mut rows = 0;
            while Instant::now() < until {
                rows += insert(&pool).await?;
            }
            anyhow::Ok(rows)
        });
    }
    let rate = sum(writers).await? as f64 / begun.elapsed().as_secs_f64();
    sqlx::query("DROP TABLE limit_rows").execute(&pool).await?;
    pool.close().await;
    Ok(rate)
}

async fn insert(pool: &sqlx::PgPool) -> anyhow::Result<u64> {
    let bots: Vec<String> = (0..ROWS).map(|row| format!("bot{}", row % 20)).collect();
    let bodies = vec![BODY.to_vec(); ROWS];
    let inserted = sqlx::query(
        "INSERT INTO limit_rows SELECT gen_random_uuid(), bot, body FROM UNNEST($1::text[], $2::bytea[]) AS new (bot, body)",
    )
    .bind(bots)
    .bind(bodies)
    .execute(pool);
    Ok(inserted.await?.rows_affected())
}

async fn sum(mut tasks: JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    let mut all = 0;
    while let Some(ended) = tasks.join_next().await {
        all += ended.context("a yardstick ended by a bug")??;
    }
    Ok(all)
}
