//! Claim, publish, mark: the only place where an event becomes ours (`docs/design/delivery.md` §3).
//!
//! ```text
//! done    -> 200
//! claimed -> publish, wait for the confirm -> 200, then mark it done
//!                                          -> not confirmed: give the claim back, 503
//! busy    -> another node is storing it: look again until it is done or given up
//! no cache in time -> publish without a claim
//! ```
//!
//! Pushes of one event that meet in this process share one such course and its result, cache or no cache. What this process
//! has stored it remembers for a minute, for the moments in which the cache does not answer, or not yet.
//!
//! The claim is only a filter, wrong at most in the direction of "unknown": what it lets through twice, the store drops.
//! Once begun this runs to its end, whether or not the client still waits: dying between the publish and the mark costs a
//! duplicate, never an event.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::cache::{Cache, Claim};
use openclaw_common::envelope::{Envelope, EventKey};
use openclaw_common::fail_point::fail_point;
use openclaw_common::queue::{Link, Queue};
use openclaw_common::seal::{KeyRing, Part};
use openclaw_common::telemetry;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::carry::Carried;
use crate::marks::Marks;
use crate::reply::Refusal;

/// How long a claim holds: longer than a publish takes (1.5 s at most, by the queue's own limit), and less than [`LOOK_UNTIL`],
/// so that the claim of a node that died ends within the request that a load balancer passes on to another node.
const CLAIM: Duration = Duration::from_secs(2);
/// Between two looks at an event that another node is storing.
const POLL: Duration = Duration::from_millis(50);
/// How long after the request began it looks.
const LOOK_UNTIL: Duration = Duration::from_millis(2200);
/// How long the process's first connection to the broker is waited for: the publish still has its time after it.
const FIRST_LINK: Duration = Duration::from_secs(1);
/// How long this process remembers what it has stored: beyond Feishu's first re-push.
const REMEMBERED: Duration = Duration::from_secs(60);
/// So many at most: some MiB.
const MOST_REMEMBERED: usize = 20_000;

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
    marks: Marks,
    link: watch::Receiver<Link>,
    /// Makes this process's claims different from all others.
    process: u64,
    claims: AtomicU64,
    known: Mutex<Known>,
}

/// What this process knows about events without the cache.
#[derive(Default)]
struct Known {
    /// What is being stored here now, with the way to tell those who came later, if any. At most one for each request.
    storing: HashMap<EventKey, Option<watch::Sender<Option<Outcome>>>>,
    stored: Memory,
}

/// What was stored here lately. It is asked when the cache has no answer: then a process stores an event once, and not once
/// for every push.
#[derive(Default)]
struct Memory {
    keys: HashSet<EventKey>,
    /// With the end of each one's memory, oldest first.
    order: VecDeque<(Instant, EventKey)>,
}

impl Memory {
    fn has(&self, key: &EventKey) -> bool {
        self.keys.contains(key)
    }

    fn keep(&mut self, key: &EventKey, time: Duration) {
        let now = Instant::now();
        while let Some((until, _)) = self.order.front()
            && (*until < now || self.order.len() >= MOST_REMEMBERED)
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        if self.keys.insert(key.clone()) {
            self.order.push_back((now + time, key.clone()));
        }
    }
}

impl Acceptor {
    pub(crate) fn new(queue: Arc<dyn Queue>, cache: Arc<dyn Cache>, keys: Arc<KeyRing>) -> Self {
        Self {
            link: queue.link(),
            marks: Marks::new(cache.clone()),
            queue,
            cache,
            keys,
            tasks: TaskTracker::new(),
            process: rand::random(),
            claims: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// Whether a publish has a chance now. While the broker is away or blocked, waiting for a timeout helps nobody; the first
    /// connection of a process is waited for, because its port is open before.
    pub(crate) async fn check_link(&self) -> Result<(), Refusal> {
        let mut link = self.link.clone();
        match timeout(FIRST_LINK, link.wait_for(|link| *link != Link::Connecting)).await {
            Ok(Ok(link)) if *link == Link::Up => Ok(()),
            _ => Err(Refusal::unavailable()),
        }
    }

    /// Stores an event, or finds that it is stored: `known_as` is what the filter goes by. `held` is dropped when all is done, client or no client.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        mut envelope: Envelope,
        known_as: EventKey,
        dedup_ttl: Duration,
        begun: Instant,
        held: impl Send + 'static,
    ) -> Result<Stored, Refusal> {
        let body = std::mem::take(&mut envelope.body);
        envelope.body = self.keys.seal(&envelope, Part::Body, body).map_err(|error| {
            tracing::error!(bot = %envelope.bot, event = %envelope.key, %error, "an event could not be sealed");
            Refusal::unavailable()
        })?;
        let running = match self.lock().storing.entry(known_as.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(None);
                None
            }
            Entry::Occupied(mut entry) => {
                let tell = entry.get_mut().get_or_insert_with(|| watch::channel(None).0);
                Some(tell.subscribe())
            }
        };
        if let Some(mut running) = running {
            let wait = LOOK_UNTIL.saturating_sub(begun.elapsed());
            return match timeout(wait, running.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) if outcome.is_some_and(|outcome| outcome != Outcome::NotStored) => Ok(Stored::Before),
                _ => Err(Refusal::unavailable()),
            };
        }
        let mut course = Course {
            acceptor: self.clone(),
            key: known_as,
            outcome: None,
        };
        let work = async move {
            let outcome = course.run(Arc::new(envelope), dedup_ttl, begun).await;
            course.outcome = Some(outcome);
            drop((course, held));
            outcome
        };
        match Carried::new(work, &self.tasks).await {
            Outcome::Stored(stored) => Ok(stored),
            Outcome::NotStored => Err(Refusal::unavailable()),
        }
    }

    /// Waits for everything that was begun.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.marks.close().await;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn claim(&self, key: &EventKey, claim: &str, begun: Instant) -> Claimed {
        loop {
            match self.cache.claim(key, claim, CLAIM).await {
                Ok(Claim::Claimed) => return Claimed::Ours,
                Ok(Claim::Done) => return Claimed::Done,
                // Its mark is on the way, or lost; or the claim is one of our own whose answer was not heard.
                Ok(Claim::Busy) if self.lock().stored.has(key) => return Claimed::Done,
                Ok(Claim::Busy) if begun.elapsed() + POLL < LOOK_UNTIL => tokio::time::sleep(POLL).await,
                Ok(Claim::Busy) => return Claimed::Others,
                Err(error) => {
                    tracing::debug!(event = %key, %error, "the duplicate filter does not answer");
                    return Claimed::Unfiltered;
                }
            }
        }
    }
}

/// What a claim came to.
enum Claimed {
    Ours,
    Done,
    /// Another node was storing it all the time.
    Others,
    /// The cache did not answer in time; it may still have taken the claim.
    Unfiltered,
}

/// How a course ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stored(Stored),
    NotStored,
}

/// One event on its way into the queue. Leaves the list when dropped, also by a panic.
struct Course {
    acceptor: Arc<Acceptor>,
    key: EventKey,
    outcome: Option<Outcome>,
}

impl Drop for Course {
    fn drop(&mut self) {
        let tell = self.acceptor.lock().storing.remove(&self.key).flatten();
        if let (Some(tell), Some(outcome)) = (tell, self.outcome) {
            tell.send_replace(Some(outcome));
        }
    }
}

impl Course {
    async fn run(&self, envelope: Arc<Envelope>, dedup_ttl: Duration, begun: Instant) -> Outcome {
        let Acceptor { queue, cache, .. } = &*self.acceptor;
        let key = &self.key;
        let number = self.acceptor.claims.fetch_add(1, Ordering::Relaxed);
        let claim = format!("{:x}-{number:x}", self.acceptor.process);
        match self.acceptor.claim(key, &claim, begun).await {
            Claimed::Unfiltered if self.acceptor.lock().stored.has(key) => return Outcome::Stored(Stored::Before),
            Claimed::Ours => fail_point("I1", &key.key),
            Claimed::Unfiltered => {
                telemetry::UNFILTERED.add(1);
                tracing::debug!(event = %key, "stored without the duplicate filter");
                fail_point("I1", &key.key);
            }
            Claimed::Done => return Outcome::Stored(Stored::Before),
            Claimed::Others => return Outcome::NotStored,
        }
        match queue.publish(envelope.clone()).await {
            Ok(()) => {
                fail_point("I3", &key.key);
                self.acceptor.lock().stored.keep(key, dedup_ttl.min(REMEMBERED));
                self.acceptor.marks.add(key.clone(), dedup_ttl);
                Outcome::Stored(Stored::New)
            }
            Err(error) => {
                tracing::debug!(bot = %envelope.bot, event = %key, %error, "not stored");
                // Before the answer, so that the re-push it provokes finds the way free. Also after an unknown outcome: a
                // copy that appears later is one more, and the store drops it.
                if let Err(error) = cache.release(key, &claim).await {
                    tracing::debug!(event = %key, %error, "the claim ends by itself");
                }
                Outcome::NotStored
            }
        }
    }
}
