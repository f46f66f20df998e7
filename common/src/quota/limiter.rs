//! What a sender calls before it sends.

mod any;
mod patience;

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::any::Reservation;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::patience::Patience;
use super::fallback::{Admitted, Fallback, Source};
use super::lines::{Later, Lines, Place};
use super::{BOT, JITTER, LARGEST_SEARCHED, LATE_GUARD, Offer, Urgency};
use crate::cache::{Cache, Level, Slot, Take};
use crate::priority::Priority;

/// After a failed call: long enough not to spin, short against a send's interval.
const RETRY: Duration = Duration::from_millis(50);
/// Whoever must wait longer than this waits in the Store and not in memory (`docs/design/delivery.md` §5).
const PARK: Duration = Duration::from_secs(300);

/// The gate before every send: one a process, shared by all its senders.
pub struct Quota {
    cache: Arc<dyn Cache>,
    horizon: Duration,
    lines: Lines,
    fallback: Mutex<Fallback>,
    arrivals: AtomicU64,
    asked: AtomicU64,
    missed: AtomicU64,
}

/// Leave to send one message, **now**.
#[derive(Clone, Debug)]
pub struct Permit {
    /// From the call to the permit.
    pub waited: Duration,
    /// Whether this process gave it alone, because the cache is down.
    pub degraded: bool,
    from: Instant,
    latest: Instant,
    slot: Option<Slot>,
    id: u64,
}

impl Permit {
    /// Whether the send may still start. Whoever did anything slow since the permit asks this, and takes a new one if not.
    #[must_use]
    pub fn in_time(&self) -> bool {
        Instant::now() <= self.latest
    }
}

/// Why there is no permit. Neither is a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The caller's token was cancelled.
    #[error("cancelled while waiting for a slot")]
    Cancelled,
    /// The wait is too long to be held in memory (a long pause): put it into the Store and come back.
    #[error("no slot for {} s", .0.as_secs())]
    Park(Duration),
}

/// While a send is on its way its slot is renewed this often: sooner than another's reservation can rely on its old time
/// (a window less the horizon).
const HOLD: Duration = Duration::from_millis(400);
/// Of a permit that counts against nothing.
const NO_ID: u64 = u64::MAX;

enum Answer {
    Slot(Held),
    /// `limited`: a limit says so, and not a cache that is late or away.
    Later {
        at: Instant,
        level: usize,
        limited: bool,
    },
}

#[derive(Debug)]
struct Held {
    at: Instant,
    /// From when it counts: a guard before the latest arrival of a send that is in time.
    from: Instant,
    latest: Instant,
    /// Of the cache; `None` when this process gave it alone.
    slot: Option<Slot>,
    /// Of this process's own log.
    id: u64,
}

impl fmt::Debug for Quota {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Quota")
            .field("waiting", &self.waiting())
            .field("degraded", &self.is_degraded())
            .finish_non_exhaustive()
    }
}

impl Quota {
    /// The gate over `cache`. `max_workers` is the most processes that will ever share the limits: it divides the shared
    /// ones while the cache is down, which keeps a limit only if it is at least `max_workers`. `horizon` is normally
    /// [`super::HORIZON`].
    pub fn new(cache: Arc<dyn Cache>, max_workers: u32, horizon: Duration) -> Self {
        Self {
            cache,
            horizon,
            lines: Lines::default(),
            fallback: Mutex::new(Fallback::new(max_workers, horizon)),
            arrivals: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// [`Quota::acquire_as`] for an answer.
    ///
    /// # Errors
    /// As there.
    pub async fn acquire(&self, levels: &[Level], cancel: &CancellationToken) -> Result<Permit, Refused> {
        self.acquire_as(levels, &Urgency::new(Priority::Answer), cancel).await
    }

    /// Waits until one message may be sent that counts against all `levels`, the widest first, the narrowest (a chat) last.
    /// Whoever is more urgent goes first, then who came first; only who missed a slot asks at once for the next. The caller
    /// sends at once.
    ///
    /// # Errors
    /// [`Refused`]: cancelled, or a wait of minutes. An unreachable cache is no error, only slower.
    pub async fn acquire_as(
        &self,
        levels: &[Level],
        urgency: &Urgency,
        cancel: &CancellationToken,
    ) -> Result<Permit, Refused> {
        let came = Instant::now();
        if levels.is_empty() {
            return Ok(Permit {
                waited: Duration::ZERO,
                degraded: false,
                from: came,
                latest: came + LATE_GUARD,
                slot: None,
                id: NO_ID,
            });
        }
        let order = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let mut answer = None;
        loop {
            let held = match answer.take() {
                Some(Answer::Slot(held)) => held,
                Some(Answer::Later { .. }) | None => {
                    let mut place = self.lines.arrive(order, urgency, levels);
                    let waiting = self.wait_for_slot(&mut place, levels, came);
                    cancel.run_until_cancelled(waiting).await.ok_or(Refused::Cancelled)??
                }
            };
            if cancel.run_until_cancelled(sleep_until(held.at)).await.is_none() {
                self.give_back(levels, held).await;
                return Err(Refused::Cancelled);
            }
            let now = Instant::now();
            if now <= held.latest {
                return Ok(Permit {
                    waited: now - came,
                    degraded: held.slot.is_none(),
                    from: held.from,
                    latest: held.latest,
                    slot: held.slot,
                    id: held.id,
                });
            }
            self.missed.fetch_add(1, Ordering::Relaxed);
            // Nothing was sent under it. Both go out together, or a sender that is farther from the cache than others would
            // only ever find what it returns taken.
            self.asked.fetch_add(1, Ordering::Relaxed);
            let exchange = async { tokio::join!(self.return_slot(levels, held), self.ask(levels)).1 };
            answer = Some(cancel.run_until_cancelled(exchange).await.ok_or(Refused::Cancelled)?);
        }
    }

    /// Carries out a send under its permit. The platform counts arrivals, and an arrival lies anywhere between slot and
    /// answer, so a slot counts from its answer: a late one keeps it (a slow network or a busy machine would break the limit),
    /// an early one gives back most of the guard. While there is none, the slot is renewed.
    pub async fn sending<T>(&self, levels: &[Level], mut permit: Permit, send: impl Future<Output = T>) -> T {
        let mut send = std::pin::pin!(send);
        // Arrivals until here are paid for by the guard that every slot carries.
        let covered = permit.latest + JITTER;
        // Of a large limit the guard is a small part: not worth a call of the cache for each send.
        let precise = levels.iter().any(|level| level.count <= LARGEST_SEARCHED);
        let mut renew = Instant::now() + HOLD;
        loop {
            tokio::select! {
                biased;
                answer = &mut send => {
                    if precise || Instant::now() > covered {
                        self.hold(levels, &mut permit).await;
                    }
                    return answer;
                }
                () = sleep_until(renew) => {
                    self.hold(levels, &mut permit).await;
                    renew = Instant::now() + HOLD;
                }
            }
        }
    }

    async fn hold(&self, levels: &[Level], permit: &mut Permit) {
        permit.from = self.fallback().hold(Instant::now(), levels, permit.from, permit.id);
        let Some(slot) = &permit.slot else { return };
        match self.cache.hold(levels, slot).await {
            Ok(slot) => permit.slot = Some(slot),
            Err(error) => tracing::debug!(%error, "quota: a slow send is not known to the others"),
        }
    }

    /// Grants nothing of the level `key` for `pause`, in every process: what the platform asked for.
    pub async fn pause(&self, key: &str, pause: Duration) {
        self.fallback().pause(key, Instant::now() + pause);
        if let Err(error) = self.cache.pause(key, pause).await {
            tracing::warn!(%error, level = key, "quota: a pause reached this process only");
        }
    }

    /// Whether this process is on its own share, because the cache is down or has just come back.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.fallback().degraded()
    }

    /// Bots that several processes may send for at a time, by the keys of their levels: the members of pools. While the cache
    /// is down each process has a share of them only.
    pub fn share(&self, bots: HashSet<String>) {
        self.fallback().share(bots);
    }

    /// How many senders wait in a line now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lines.waiting()
    }

    /// Questions put to the cache or the fallback so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Slots so far whose sender woke too late and had to take another.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    async fn wait_for_slot(&self, place: &mut Place<'_>, levels: &[Level], came: Instant) -> Result<Held, Refused> {
        let mut patience = Patience::new(self, levels, came);
        loop {
            place.turn().await;
            patience.ask();
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.ask(levels).await {
                Answer::Slot(held) => {
                    place.served();
                    return Ok(held);
                }
                Answer::Later { at, level, limited } => {
                    let wait = at.saturating_duration_since(Instant::now());
                    if wait > PARK {
                        return Err(Refused::Park(wait));
                    }
                    let opens = patience.told_later(&levels[level], at);
                    place.told_later(&levels[level].key, Later { opens, limited });
                }
            }
        }
    }

    async fn ask(&self, levels: &[Level]) -> Answer {
        loop {
            let now = Instant::now();
            let source = self.fallback().source(now);
            match source {
                Source::Cache => return self.ask_cache(levels).await,
                Source::Silence(until) => {
                    return Answer::Later {
                        at: until,
                        level: 0,
                        limited: false,
                    };
                }
                Source::Local => return self.ask_fallback(now, levels),
                Source::Probe => {
                    if self.cache.ping().await.is_ok() {
                        self.fallback().answered(Instant::now());
                    }
                }
            }
        }
    }

    async fn ask_cache(&self, levels: &[Level]) -> Answer {
        let closed = self.fallback().closed(Instant::now(), levels);
        if let Some((at, level)) = closed {
            return Answer::Later {
                at,
                level,
                limited: true,
            };
        }
        let answer = self.cache.take(levels, self.horizon).await;
        let now = Instant::now();
        match answer {
            Ok(Take::Granted { wait, slack, slot }) => {
                let at = now + wait;
                // What the round trip took of the late guard, the slot lies earlier than seen from here.
                let latest = at + slack;
                let admitted = {
                    let mut fallback = self.fallback();
                    fallback.answered(now);
                    fallback.admit(now, levels, at, latest)
                };
                match admitted {
                    Ok(Admitted { at, from, id }) => Answer::Slot(Held {
                        at,
                        from,
                        latest,
                        slot: Some(slot),
                        id,
                    }),
                    Err((later, level)) => {
                        self.return_to_cache(levels, &slot).await;
                        self.lines.reopen(levels, later);
                        Answer::Later {
                            at: later,
                            level,
                            limited: true,
                        }
                    }
                }
            }
            Ok(Take::Later { wait, level }) => {
                self.fallback().answered(now);
                Answer::Later {
                    at: now + wait,
                    level,
                    limited: true,
                }
            }
            Err(error) => {
                self.fallback().failed(now, &error);
                Answer::Later {
                    at: now + RETRY,
                    level: 0,
                    limited: false,
                }
            }
        }
    }

    fn ask_fallback(&self, now: Instant, levels: &[Level]) -> Answer {
        let mut fallback = self.fallback();
        match fallback.take(now, levels) {
            Offer::Slot { at, id } => {
                let at = fallback.instant(at);
                Answer::Slot(Held {
                    at,
                    from: at,
                    latest: at + LATE_GUARD,
                    slot: None,
                    id,
                })
            }
            Offer::Later { again, level } => Answer::Later {
                at: fallback.instant(again),
                level,
                limited: true,
            },
        }
    }

    /// Gives a slot to whoever waits for one of its levels.
    async fn give_back(&self, levels: &[Level], held: Held) {
        self.return_slot(levels, held).await;
        self.lines.reopen(levels, Instant::now());
    }

    async fn return_slot(&self, levels: &[Level], held: Held) {
        self.fallback().give_back(levels, held.from, held.id);
        if let Some(slot) = held.slot {
            self.return_to_cache(levels, &slot).await;
        }
    }

    async fn return_to_cache(&self, levels: &[Level], slot: &Slot) {
        if let Err(error) = self.cache.give_back(levels, slot).await {
            tracing::debug!(%error, "quota: a slot was not returned and stays unused");
        }
    }

    fn fallback(&self) -> MutexGuard<'_, Fallback> {
        // Nothing panics while it is held.
        self.fallback.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
