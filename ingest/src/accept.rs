//! Claim, publish, mark: the only place where an event becomes ours (`reliability.md` §3).
//!
//! ```text
//! done    -> 200
//! claimed -> publish, wait for the confirm -> 200, then mark it done
//!                                          -> not confirmed: give the claim back, 503
//! busy    -> another push of it is being stored: look again until it is done or given up
//! no cache in time -> publish without a claim
//! ```
//!
//! The claim is only a filter, wrong at most in the direction of "unknown": what it lets through twice, the store drops.
//! Once begun this runs to its end, whether or not the client still waits: dying between the publish and the mark costs a
//! duplicate, never an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openclaw_common::cache::{Cache, Claim};
use openclaw_common::envelope::{Envelope, EventKey};
use openclaw_common::queue::{Link, PublishError, Queue};
use openclaw_common::seal::KeyRing;
use openclaw_common::telemetry;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::overload::Permit;
use crate::reply::Refusal;

/// One question to the cache (`reliability.md` D8).
const CACHE: Duration = Duration::from_millis(50);
/// The mark is set behind the answer; a cache this slow counts as down.
const MARK: Duration = Duration::from_millis(500);
/// Publish and confirm. With the release that makes less than 1.6 s.
const PUBLISH: Duration = Duration::from_millis(1500);
/// How long a claim holds: longer than the publish, shorter than Feishu's first re-push at 15 s.
const CLAIM: Duration = Duration::from_secs(5);
/// Between two looks at an event that another push is storing.
const POLL: Duration = Duration::from_millis(50);
/// How long after the request began it looks.
const LOOK_UNTIL: Duration = Duration::from_millis(2200);

/// An event that is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// By this push.
    New,
    /// By an earlier one.
    Before,
}

/// The way into the queue.
pub(crate) struct Acceptor {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) keys: Arc<KeyRing>,
    /// Everything that outlives its request.
    pub(crate) tasks: TaskTracker,
    link: watch::Receiver<Link>,
    /// Makes this process's claims different from all others.
    process: u64,
    claims: AtomicU64,
}

impl Acceptor {
    pub(crate) fn new(queue: Arc<dyn Queue>, cache: Arc<dyn Cache>, keys: Arc<KeyRing>) -> Self {
        Self {
            link: queue.link(),
            queue,
            cache,
            keys,
            tasks: TaskTracker::new(),
            process: rand::random(),
            claims: AtomicU64::new(0),
        }
    }

    /// Whether a publish has a chance now. While the broker is away or blocked, waiting for a timeout helps nobody.
    pub(crate) fn check_link(&self) -> Result<(), Refusal> {
        match &*self.link.borrow() {
            Link::Up => Ok(()),
            Link::Blocked(_) | Link::Down(_) => Err(Refusal::unavailable()),
        }
    }

    /// Stores an event, or finds that it is stored. `permit` is held until all is done.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        mut envelope: Envelope,
        dedup_ttl: Duration,
        begun: Instant,
        permit: Permit,
    ) -> Result<Stored, Refusal> {
        let body = std::mem::take(&mut envelope.body);
        envelope.body = self.keys.seal(&envelope.key, body).map_err(|error| {
            tracing::error!(bot = %envelope.bot, event = %envelope.key, %error, "an event could not be sealed");
            Refusal::unavailable()
        })?;
        let (answer, stored) = oneshot::channel();
        let acceptor = self.clone();
        self.tasks.spawn(async move {
            acceptor.store(Arc::new(envelope), dedup_ttl, begun, answer).await;
            drop(permit);
        });
        // The sender is dropped without an answer only when the task panicked.
        stored.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }

    async fn store(
        &self,
        envelope: Arc<Envelope>,
        dedup_ttl: Duration,
        begun: Instant,
        answer: oneshot::Sender<Result<Stored, Refusal>>,
    ) {
        // A client that has gone does not need its answer.
        let reply = |result| drop(answer.send(result));
        let key = &envelope.key;
        let claim = format!("{:x}-{:x}", self.process, self.claims.fetch_add(1, Ordering::Relaxed));
        match self.claim(key, &claim, begun).await {
            Claimed::Ours | Claimed::Unfiltered => {}
            Claimed::Done => return reply(Ok(Stored::Before)),
            Claimed::Others => return reply(Err(Refusal::unavailable())),
        }
        let published = timeout(PUBLISH, self.queue.publish(envelope.clone()))
            .await
            .unwrap_or_else(|_| Err(PublishError::Unknown("no confirm in time".to_owned())));
        match published {
            Ok(()) => {
                reply(Ok(Stored::New));
                if let Err(error) = in_time(MARK, self.cache.finish(key, dedup_ttl)).await {
                    tracing::debug!(event = %key, error, "stored, but not marked: the next push of it is stored again");
                }
            }
            Err(error) => {
                tracing::debug!(bot = %envelope.bot, event = %key, %error, "not stored");
                // Before the answer, so that the re-push it provokes finds the way free. Also after an unknown outcome: a
                // copy that appears later is one more, and the store drops it.
                if let Err(error) = in_time(CACHE, self.cache.release(key, &claim)).await {
                    tracing::debug!(event = %key, error, "the claim ends by itself");
                }
                reply(Err(Refusal::unavailable()));
            }
        }
    }

    async fn claim(&self, key: &EventKey, claim: &str, begun: Instant) -> Claimed {
        loop {
            match in_time(CACHE, self.cache.claim(key, claim, CLAIM)).await {
                Ok(Claim::Claimed) => return Claimed::Ours,
                Ok(Claim::Done) => return Claimed::Done,
                Ok(Claim::Busy) if begun.elapsed() + POLL < LOOK_UNTIL => tokio::time::sleep(POLL).await,
                Ok(Claim::Busy) => return Claimed::Others,
                Err(error) => {
                    tracing::debug!(event = %key, error, "stored without the duplicate filter");
                    telemetry::UNFILTERED.add(1);
                    return Claimed::Unfiltered;
                }
            }
        }
    }
}

enum Claimed {
    Ours,
    Done,
    /// Another push of it was being stored all the time.
    Others,
    /// The cache did not answer in time; it may still have taken the claim.
    Unfiltered,
}

async fn in_time<T, E: std::fmt::Display>(
    limit: Duration,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(limit, call).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}
