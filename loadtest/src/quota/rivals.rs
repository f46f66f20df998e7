//! The token bucket and the exact sliding log beside ours: the same lanes, a real Redis of its own for each, the same uneven
//! way, the same judge. The first two exist here only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use openclaw_backends::caches;
use openclaw_common::cache::{Cache as _, Level};
use openclaw_common::quota::{HORIZON, Quota};
use openclaw_common::secret::Secret;
use openclaw_sim::clock::monotonic_us;
use rand::Rng as _;
use redis::Script;
use redis::aio::MultiplexedConnection;
use testkit::{RedisProcess, Servers, eventually};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Extent;
use super::arrivals::{Arrivals, PER_SECOND};
use super::stage::{SHARED, SPREAD};
use super::steady::{BOTS, WORKERS, least_of, mean_of};
use crate::plot::{Axis, Chart, Line};
use crate::report::{Report, Row, page, percent, say};

const SECONDS: f64 = 60.0;
/// Before measuring: first bursts, and the silence of a cache that has just begun.
const SETTLE_US: u64 = 5_000_000;
/// Of the plot.
const SHOWN: f64 = 15.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    TokenBucket,
    SlidingLog,
    Ours,
}

/// What a worker asks before it sends.
#[derive(Clone)]
enum Gate {
    Script(MultiplexedConnection, Arc<Script>),
    Ours(Arc<Quota>),
}

type Sends = Arc<Mutex<Vec<(Vec<String>, u64)>>>;

pub(super) async fn run(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let seconds = extent.seconds(SECONDS);
    let mut lines = Vec::new();
    for (name, algorithm) in [
        ("token bucket, capacity 5, 5/s", Algorithm::TokenBucket),
        ("exact sliding log", Algorithm::SlidingLog),
        ("ours", Algorithm::Ours),
    ] {
        say(&format!("side by side: {name}"));
        let (begun, arrivals) = measure(algorithm, seconds).await?;
        let from = begun + SETTLE_US;
        let violations = arrivals.violations(0, u64::MAX);
        let bots = arrivals.used("bot ", from, u64::MAX);
        let chat = mean_of(&arrivals.used(&format!("chat {SHARED}"), from, u64::MAX));
        report.add(Row {
            what: format!("side by side: {name}"),
            figure: format!(
                "{violations} violations of {} sends; at most {} in a second",
                arrivals.sends(),
                arrivals.fullest("")
            ),
            beside: format!(
                "use: bots {} (worst {}), shared chat {}; {seconds:.0} s, ±10 ms",
                percent(mean_of(&bots)),
                percent(least_of(&bots)),
                percent(chat)
            ),
            goal: if algorithm == Algorithm::Ours {
                "0 violations"
            } else {
                ""
            }
            .to_owned(),
            reached: (algorithm == Algorithm::Ours).then_some(violations == 0),
        });
        let until = from + (SHOWN * 1e6) as u64;
        lines.push(Line {
            name,
            points: arrivals.plotted(&format!("chat {SHARED}"), from, until),
        });
    }
    if extent.published() {
        Chart {
            title: "Sends into the shared chat in the second that ends here (limit 5)",
            x: Axis {
                label: "seconds",
                range: 0.0..SHOWN,
            },
            y: Axis {
                label: "sends in a rolling second",
                range: 0.0..(2 * PER_SECOND + 1) as f64,
            },
            lines,
        }
        .write(&page("quota-rivals.svg"))?;
    }
    Ok(())
}

/// The lanes of the steady run, without the rest of the product: ask, travel, arrive.
async fn measure(algorithm: Algorithm, seconds: f64) -> anyhow::Result<(u64, Arrivals)> {
    let redis = Servers::redis().await;
    let stop = CancellationToken::new();
    let sends = Sends::default();
    let mut gates = Vec::new();
    for _ in 0..WORKERS {
        gates.push(gate(algorithm, &redis).await?);
    }
    let begun = monotonic_us();
    let mut lanes = JoinSet::new();
    for bot in 0..BOTS {
        let gate = gates.get(bot % WORKERS).context("a gate for each worker")?;
        let chats = [SHARED.to_owned(), format!("{bot}-0"), format!("{bot}-1")];
        for chat in chats {
            let names = vec![format!("bot {bot}"), format!("chat {chat}")];
            lanes.spawn(lane(gate.clone(), names, sends.clone(), stop.clone()));
        }
    }
    sleep(Duration::from_micros(SETTLE_US) + Duration::from_secs_f64(seconds)).await;
    stop.cancel();
    for ended in lanes.join_all().await {
        ended?;
    }
    let sends = std::mem::take(&mut *sends.lock().unwrap_or_else(PoisonError::into_inner));
    Ok((begun, Arrivals::of(sends)))
}

async fn gate(algorithm: Algorithm, redis: &RedisProcess) -> anyhow::Result<Gate> {
    let text = match algorithm {
        Algorithm::TokenBucket => include_str!("rivals/token_bucket.lua"),
        Algorithm::SlidingLog => include_str!("rivals/sliding_log.lua"),
        Algorithm::Ours => {
            let cache = caches::redis::Redis::connect(&Secret::new(redis.url()))?;
            eventually("the cache reaches Redis", Duration::from_secs(10), async || {
                cache.ping().await.is_ok()
            })
            .await;
            return Ok(Gate::Ours(Arc::new(Quota::new(Arc::new(cache), 4, HORIZON))));
        }
    };
    let connection = redis::Client::open(redis.url())?
        .get_multiplexed_async_connection()
        .await?;
    Ok(Gate::Script(connection, Arc::new(Script::new(text))))
}

/// A lane with endless messages, one on its way at a time.
async fn lane(gate: Gate, names: Vec<String>, sends: Sends, stop: CancellationToken) -> anyhow::Result<()> {
    let levels: Vec<Level> = names
        .iter()
        .map(|name| Level {
            // What the fallback knows bots by is of no matter here: Redis stays up.
            key: name.replace(' ', ":"),
            count: 5,
            window: Duration::from_secs(1),
        })
        .collect();
    let travel = async || {
        let time = SPREAD.mul_f64(rand::rng().random());
        sleep(time).await;
        let mut sends = sends.lock().unwrap_or_else(PoisonError::into_inner);
        sends.push((names.clone(), monotonic_us()));
    };
    while !stop.is_cancelled() {
        match &gate {
            Gate::Ours(quota) => {
                let Ok(permit) = quota.acquire(&levels, &stop).await else {
                    break;
                };
                quota.sending(&levels, permit, travel()).await;
            }
            Gate::Script(connection, script) => {
                let mut connection = connection.clone();
                let mut call = script.prepare_invoke();
                for level in &levels {
                    call.key(&level.key);
                }
                call.arg(rand::rng().random::<u64>());
                match call.invoke_async::<u64>(&mut connection).await? {
                    0 => travel().await,
                    wait => sleep(Duration::from_micros(wait)).await,
                }
            }
        }
    }
    Ok(())
}
