//! The cache in Redis 7 or later: shared by all processes. Needs `maxmemory-policy noeviction`: an evicted slot log is
//! a limit forgotten.
//!
//! | key | what |
//! |---|---|
//! | `openclaw:dd:<hash>` | dedup filter: `p:<token>` while claimed, `d` when done |
//! | `openclaw:{quota}:<level>:<window ms>` | slots of a level, a sorted set; one hash tag, because a check is one script |
//! | `openclaw:{quota}:<level>:pause` | until when the level grants nothing |
//! | `openclaw:{quota}:born`, `openclaw:{quota}:late` | since when this server remembers; the widest late guard in use |
//! | `openclaw:workers`, `openclaw:notes:{openclaw:workers}` | live workers by expiry, and what they announced |
//! | `openclaw:{quota}:probe`, `openclaw:{quota}:probe:log` | nothing: whether the server does what a limit needs |
//! | `openclaw:kv:<key>` | values; keys that begin with `openclaw:` stand as they are |

pub(crate) mod checkup;
mod filter;
mod guard;
mod link;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation};
use tokio::time::Instant;

use self::filter::Filter;
use self::guard::Guard;
use self::link::{Epoch, Link};
use openclaw_common::cache::{Cache, CacheError, Claim, Level, Member, Slot, Take};
use openclaw_common::envelope::EventKey;
use openclaw_common::quota::{JITTER, LATE_GUARD, QUIET};
use openclaw_common::secret::Secret;

/// Time limit of every call but the filter's.
const LIMIT: Duration = Duration::from_millis(100);

/// Written to see whether the server does what a limit needs.
const PROBE: [&str; 2] = ["openclaw:{quota}:probe", "openclaw:{quota}:probe:log"];
const PROBE_LIFE: Duration = Duration::from_secs(10);
/// The widest late guard in use.
const LATE: &str = "openclaw:{quota}:late";
const BORN: &str = "openclaw:{quota}:born";
const WORKERS: &str = "openclaw:workers";
// The tag is the other key's whole name, so that both are in one slot.
const NOTES: &str = "openclaw:notes:{openclaw:workers}";

macro_rules! script {
    ($($file:literal)+) => {
        Script::new(concat!($(include_str!(concat!("redis/", $file, ".lua"))),+))
    };
}

/// The cache in Redis, over one supervised connection.
#[derive(Debug)]
pub struct Redis {
    link: Arc<Link>,
    filter: Filter,
    guard: Guard,
    /// Makes slots of this process unlike those of any other.
    process: String,
    next: AtomicU64,
    take: Script,
    hold: Script,
    pause: Script,
    remove_if: Script,
    beat: Script,
    leave: Script,
    probe: Script,
}

impl Redis {
    /// Returns at once, also when Redis is down: it connects, and reconnects, in the background. Within a Tokio runtime.
    ///
    /// # Errors
    /// When the URL is malformed: the configuration's fault.
    pub fn connect(url: &Secret) -> Result<Self, CacheError> {
        let link = Arc::new(Link::open(
            url,
            script!("now" "born"),
            BORN,
            vec![script!("now" "born" "take")],
        )?);
        Ok(Self {
            filter: Filter::new(link.clone()),
            link,
            guard: Guard::new(),
            process: format!("{:016x}", rand::random::<u64>()),
            next: AtomicU64::new(0),
            take: script!("now" "born" "take"),
            hold: script!("now" "hold"),
            pause: script!("now" "pause"),
            remove_if: script!("remove_if"),
            beat: script!("now" "beat"),
            leave: script!("leave"),
            probe: probe(),
        })
    }

    async fn run<T: FromRedisValue>(&self, limit: Duration, call: &ScriptInvocation<'_>) -> Result<T, CacheError> {
        self.run_on(&self.link.epoch()?, limit, call).await
    }

    async fn run_on<T: FromRedisValue>(
        &self,
        epoch: &Arc<Epoch>,
        limit: Duration,
        call: &ScriptInvocation<'_>,
    ) -> Result<T, CacheError> {
        let exchange = async |mut connection| call.invoke_async(&mut connection).await;
        self.link.run(epoch, limit, exchange).await
    }

    async fn command<T: FromRedisValue>(&self, limit: Duration, command: &Cmd) -> Result<T, CacheError> {
        let exchange = async |mut connection| command.query_async(&mut connection).await;
        self.link.run(&self.link.epoch()?, limit, exchange).await
    }
}

#[async_trait]
impl Cache for Redis {
    async fn claim(&self, key: &EventKey, token: &str, ttl: Duration) -> Result<Claim, CacheError> {
        let claim = format!("p:{token}");
        let mut command = redis::cmd("SET");
        command
            .arg(dedup_key(key))
            .arg(&claim)
            .arg("NX")
            .arg("GET")
            .arg("PX")
            .arg(millis(ttl));
        let held: Option<String> = self.filter.call(command).await?;
        Ok(match held.as_deref() {
            None => Claim::Claimed,
            Some("d") => Claim::Done,
            // Its answer may have been lost.
            Some(held) if held == claim => Claim::Claimed,
            Some(_) => Claim::Busy,
        })
    }

    async fn finish(&self, events: &[(EventKey, Duration)]) -> Result<(), CacheError> {
        let mut pipeline = Pipeline::with_capacity(events.len());
        for (key, ttl) in events {
            let set = pipeline.cmd("SET").arg(dedup_key(key)).arg("d");
            set.arg("PX").arg(millis(*ttl)).ignore();
        }
        let exchange = async |mut connection| pipeline.query_async(&mut connection).await;
        self.link.run(&self.link.epoch()?, filter::LIMIT, exchange).await
    }

    async fn release(&self, key: &EventKey, token: &str) -> Result<(), CacheError> {
        let mut call = self.remove_if.prepare_invoke();
        call.key(dedup_key(key)).arg(format!("p:{token}"));
        self.run(filter::LIMIT, &call).await
    }

    async fn take(&self, levels: &[Level], horizon: Duration) -> Result<Take, CacheError> {
        if levels.is_empty() {
            let slot = Slot(String::new());
            return Ok(Take::Granted {
                wait: Duration::ZERO,
                slack: LATE_GUARD,
                slot,
            });
        }
        let epoch = self.link.epoch()?;
        let late = self.guard.now();
        let nonce = format!("{}:{}", self.process, self.next.fetch_add(1, Ordering::Relaxed));
        let mut call = self.take.prepare_invoke();
        call.key(BORN).key(LATE);
        call.arg(&epoch.run_id)
            .arg(nonce)
            .arg(micros(horizon))
            .arg(micros(QUIET));
        call.arg(micros(late)).arg(micros(JITTER)).arg(micros(LATE_GUARD));
        for level in levels {
            call.key(log_key(level)).key(pause_key(&level.key));
            call.arg(level.count).arg(micros(level.window));
        }
        let asked = Instant::now();
        let (granted, wait, rest): (bool, u64, redis::Value) = self.run_on(&epoch, LIMIT, &call).await?;
        let round_trip = asked.elapsed();
        self.guard.saw(round_trip);
        let wait = Duration::from_micros(wait);
        let unreadable = |_| CacheError("take.lua answered something else".to_owned());
        Ok(if granted {
            let slot = Slot(redis::from_redis_value(rest).map_err(unreadable)?);
            Take::Granted {
                wait,
                slack: late.saturating_sub(round_trip),
                slot,
            }
        } else {
            let level = redis::from_redis_value(rest).map_err(unreadable)?;
            Take::Later { wait, level }
        })
    }

    async fn give_back(&self, levels: &[Level], slot: &Slot) -> Result<(), CacheError> {
        if levels.is_empty() {
            return Ok(());
        }
        // No script: the first one of a new server has to be sent twice, and a question may be on its way right behind.
        let mut pipeline = Pipeline::with_capacity(levels.len());
        for level in levels {
            pipeline.zrem(log_key(level), &slot.0).ignore();
        }
        let exchange = async |mut connection| pipeline.query_async(&mut connection).await;
        self.link.run(&self.link.epoch()?, LIMIT, exchange).await
    }

    async fn hold(&self, levels: &[Level], slot: &Slot) -> Result<Slot, CacheError> {
        if levels.is_empty() {
            return Ok(slot.clone());
        }
        let mut call = self.hold.prepare_invoke();
        call.key(LATE).arg(&slot.0).arg(micros(LATE_GUARD)).arg(micros(JITTER));
        for level in levels {
            call.key(log_key(level));
        }
        // The member keeps its name, only its score moves.
        self.run::<()>(LIMIT, &call).await?;
        Ok(slot.clone())
    }

    async fn pause(&self, key: &str, pause: Duration) -> Result<(), CacheError> {
        let mut call = self.pause.prepare_invoke();
        call.key(pause_key(key)).arg(micros(pause));
        self.run(LIMIT, &call).await
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.command(LIMIT, redis::cmd("GET").arg(&*value_key(key))).await
    }

    async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), CacheError> {
        let mut command = redis::cmd("SET");
        command.arg(&*value_key(key)).arg(value).arg("PX").arg(millis(ttl));
        self.command(LIMIT, &command).await
    }

    async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, CacheError> {
        let mut command = redis::cmd("SET");
        command
            .arg(&*value_key(key))
            .arg(value)
            .arg("NX")
            .arg("PX")
            .arg(millis(ttl));
        self.command(LIMIT, &command).await
    }

    async fn remove_if(&self, key: &str, value: &[u8]) -> Result<(), CacheError> {
        let mut call = self.remove_if.prepare_invoke();
        call.key(&*value_key(key)).arg(value);
        self.run(LIMIT, &call).await
    }

    async fn beat(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, CacheError> {
        let mut call = self.beat.prepare_invoke();
        call.key(WORKERS)
            .key(NOTES)
            .arg(&member.id)
            .arg(&member.note)
            .arg(micros(ttl));
        let live: Vec<(String, String)> = self.run(LIMIT, &call).await?;
        Ok(live.into_iter().map(|(id, note)| Member { id, note }).collect())
    }

    async fn leave(&self, id: &str) -> Result<(), CacheError> {
        let mut call = self.leave.prepare_invoke();
        call.key(WORKERS).key(NOTES).arg(id);
        self.run(LIMIT, &call).await
    }

    async fn ping(&self) -> Result<(), CacheError> {
        // A server without memory, a replica, one whose user may run no scripts: they answer PING, and grant nothing.
        self.run(LIMIT, &asking(&self.probe)).await
    }
}

/// Tells whether a server does what a limit needs.
fn probe() -> Script {
    script!("now" "probe")
}

fn asking(probe: &Script) -> ScriptInvocation<'_> {
    let mut call = probe.prepare_invoke();
    call.key(&PROBE).arg(millis(PROBE_LIFE));
    call
}

/// 128 bits of an event's identity: short in memory, and nothing of it readable.
fn dedup_key(key: &EventKey) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(key.app_id.as_bytes())
        .update(b"|")
        .update(key.key.as_bytes());
    let hash = hasher.finalize();
    format!("openclaw:dd:{}", hex::encode(&hash.as_bytes()[..16]))
}

fn log_key(level: &Level) -> String {
    format!("openclaw:{{quota}}:{}:{}", level.key, level.window.as_millis())
}

fn pause_key(key: &str) -> String {
    format!("openclaw:{{quota}}:{key}:pause")
}

fn value_key(key: &str) -> Cow<'_, str> {
    if key.starts_with("openclaw:") {
        Cow::Borrowed(key)
    } else {
        Cow::Owned(format!("openclaw:kv:{key}"))
    }
}

/// Redis refuses an expiry of 0.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
