//! The one connection to Redis: supervised, so that a caller gets an answer in time or an error at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rand::Rng;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisError, Script, ServerErrorKind,
};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{asking, checkup, probe};
use openclaw_common::cache::CacheError;
use openclaw_common::checkup::Finding;
use openclaw_common::secret::Secret;

/// One attempt to connect, the handshake included.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest pause between attempts. Short, because workers that come back at different times use different limits meanwhile.
const RECONNECT: Duration = Duration::from_millis(500);
/// How often an idle link is tried, and how long it may take to answer.
const PROBE: Duration = Duration::from_secs(1);
/// Commands that time out in a row before the link counts as dead: one may be the server's fork, three are a black hole.
const TIMEOUTS: u32 = 3;
/// A timer that fires so much too late says that this process was busy.
const LAG: Duration = Duration::from_millis(5);
/// How often a busy process listens for one answer.
const HEARINGS: u32 = 6;
/// Commands that may wait to be written; beyond it callers wait, and time out, instead of growing memory.
const UNWRITTEN: usize = 4096;

/// Hands out the live connection, if there is one, and replaces it in the background.
#[derive(Debug)]
pub(super) struct Link {
    current: Arc<Current>,
    /// Ends with the link.
    _supervisor: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Current {
    epoch: ArcSwapOption<Epoch>,
    /// Why there is none, as last heard.
    trouble: ArcSwapOption<String>,
}

/// Makes connections that are fit for use.
struct Greeter {
    client: Client,
    born: Script,
    born_key: &'static str,
    known: Vec<Script>,
}

/// One connection, from its handshake to its first failure.
#[derive(Debug)]
pub(super) struct Epoch {
    connection: MultiplexedConnection,
    /// The server process behind it. Another one may have lost what this one knew.
    pub(super) run_id: String,
    timeouts: AtomicU32,
    failed: Notify,
}

impl Link {
    /// Starts connecting and returns at once. Must be called within a Tokio runtime. Each new connection first runs `born`
    /// with its key and the server's run id: the quiet time of a server that forgot begins then and not with the first
    /// send. A server that does not do what a limit needs, such as a replica, counts as down. The server learns the `known`
    /// scripts then too: in the first calls' time limits there is no room for it.
    pub(super) fn open(
        url: &Secret,
        born: Script,
        born_key: &'static str,
        known: Vec<Script>,
    ) -> Result<Self, CacheError> {
        let settings = TcpSettings::default().set_nodelay(true);
        let client = url
            .expose()
            .into_connection_info()
            .and_then(|info| Client::open(info.set_tcp_settings(settings)))
            // The library's text may quote the address, and with it a password.
            .map_err(|error| CacheError(format!("the Redis URL is not usable: {}", error.category())))?;
        let current = Arc::new(Current::default());
        let supervisor = tokio::spawn(supervise(
            Greeter {
                client,
                born,
                born_key,
                known,
            },
            current.clone(),
        ));
        Ok(Self {
            current,
            _supervisor: AbortOnDropHandle::new(supervisor),
        })
    }

    /// The connection as it is now.
    pub(super) fn epoch(&self) -> Result<Arc<Epoch>, CacheError> {
        self.current.epoch.load_full().ok_or_else(|| {
            let trouble = self.current.trouble.load();
            let reason = trouble.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            CacheError(format!("not connected to Redis{reason}"))
        })
    }

    /// Runs one exchange on a connection, within `limit`.
    pub(super) async fn run<T, F>(
        &self,
        epoch: &Arc<Epoch>,
        limit: Duration,
        exchange: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, CacheError>
    where
        T: FromRedisValue,
        F: Future<Output = Result<T, RedisError>>,
    {
        match heard_within(limit, exchange(epoch.connection.clone())).await {
            Ok(Ok(value)) => {
                epoch.timeouts.store(0, Ordering::Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                if breaks(&error) {
                    self.current.end(epoch);
                }
                Err(CacheError(error.to_string()))
            }
            Err(_) => {
                if epoch.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS {
                    self.current.end(epoch);
                }
                Err(CacheError(format!(
                    "no answer from Redis within {} ms",
                    limit.as_millis()
                )))
            }
        }
    }
}

/// Awaits an answer for `limit`, and again when this process itself was too busy to hear it: its own lag is no outage of the
/// server, and would switch off a filter and a limit that work.
async fn heard_within<T>(limit: Duration, answer: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut answer = std::pin::pin!(answer);
    let mut hearing = 1;
    loop {
        let begun = Instant::now();
        match timeout(limit, answer.as_mut()).await {
            Err(_) if hearing < HEARINGS && begun.elapsed() > limit + LAG => hearing += 1,
            heard => return heard,
        }
    }
}

impl Current {
    /// Stops handing a connection out and wakes the supervisor, unless it has been replaced already.
    fn end(&self, epoch: &Arc<Epoch>) {
        self.epoch.compare_and_swap(&Some(epoch.clone()), None);
        epoch.failed.notify_one();
    }
}

/// Whether the connection is of no more use: broken, or to a server that has become a replica.
fn breaks(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

async fn supervise(greeter: Greeter, current: Arc<Current>) {
    let mut pause = Duration::ZERO;
    let mut said = HashSet::new();
    loop {
        match timeout(CONNECT, greeter.connect())
            .await
            .unwrap_or_else(|_| Err(timed_out()))
        {
            Ok((epoch, findings)) => {
                tracing::info!("connected to Redis");
                // Once a process: a server that comes back is mostly the same one.
                for finding in findings
                    .into_iter()
                    .filter(|finding| said.insert(finding.detail.clone()))
                {
                    tracing::warn!(dependency = finding.what, to_do = finding.to_do, "{}", finding.detail);
                }
                pause = Duration::ZERO;
                let epoch = Arc::new(epoch);
                current.epoch.store(Some(epoch.clone()));
                let reason = watch(&epoch).await;
                current.trouble.store(Some(Arc::new(reason.clone())));
                current.end(&epoch);
                tracing::warn!(reason, "lost Redis; going on without it");
            }
            Err(error) => {
                if pause.is_zero() {
                    tracing::warn!(%error, "cannot reach Redis; going on without it");
                }
                current.trouble.store(Some(Arc::new(error.to_string())));
                pause = (pause * 2).clamp(Duration::from_millis(50), RECONNECT);
                let jitter = rand::rng().random_range(0.5..=1.0);
                sleep(pause.mul_f64(jitter)).await;
            }
        }
    }
}

/// Waits until a connection is of no more use; says why.
async fn watch(epoch: &Epoch) -> String {
    loop {
        tokio::select! {
            () = epoch.failed.notified() => return "a command failed".to_owned(),
            () = sleep(PROBE) => {}
        }
        let mut connection = epoch.connection.clone();
        let probe = redis::cmd("PING");
        match timeout(PROBE, probe.exec_async(&mut connection)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return timed_out().to_string(),
        }
    }
}

impl Greeter {
    async fn connect(&self) -> Result<(Epoch, Vec<Finding>), RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(UNWRITTEN);
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let about = checkup::about(&mut connection).await?;
        let run_id = checkup::field(&about, "run_id").unwrap_or("unknown").to_owned();
        let mut born = self.born.prepare_invoke();
        born.key(self.born_key).arg(&run_id);
        let _nothing: redis::Value = born.invoke_async(&mut connection).await?;
        asking(&probe()).invoke_async::<()>(&mut connection).await?;
        for script in &self.known {
            script.prepare_invoke().load_async(&mut connection).await?;
        }
        let epoch = Epoch {
            connection,
            run_id,
            timeouts: AtomicU32::new(0),
            failed: Notify::new(),
        };
        Ok((epoch, checkup::judge(&about)))
    }
}

fn timed_out() -> RedisError {
    RedisError::from((ErrorKind::Io, "no answer in time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    /// An answer that comes after `server`, to a process that is kept busy for `busy` from the start.
    async fn heard(server: Duration, busy: Duration) -> bool {
        let answer = tokio::spawn(sleep(server));
        let hearing = tokio::spawn(heard_within(LIMIT, answer));
        tokio::task::yield_now().await;
        std::thread::sleep(busy);
        matches!(hearing.await, Ok(Ok(_)))
    }

    #[tokio::test]
    async fn an_answer_in_time_is_heard_however_busy_the_process() {
        assert!(heard(Duration::from_millis(20), Duration::ZERO).await);
        assert!(heard(Duration::from_millis(60), Duration::from_millis(80)).await);
        assert!(!heard(Duration::from_millis(500), Duration::ZERO).await);
        assert!(!heard(Duration::from_millis(500), Duration::from_millis(80)).await);
    }
}
