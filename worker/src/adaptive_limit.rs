//! The adaptive limit of a receiver: what refusals for a chat's or person's limit (230020) teach (additive increase, multiplicative
//! decrease).
//!
//! Our own sends never exceed a configured limit, so such a refusal means that others share it: another program's bots in the
//! chat, or a limit that is lower than what is configured. Two things follow. The chat is **paused**, 1 s doubling to 30 s,
//! across all its events until one is accepted. And it gets less **room**: half of its count, then one more for each
//! [`RECOVERY`] without a refusal, between 1 a window and what is configured.
//!
//! Kept by each process for the bots that it serves: whoever takes a bot over learns anew, at the price of one refusal.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::cache::Level;
use openclaw_common::telemetry;

use crate::recent::Recent;

/// Receivers remembered: those that refused something lately.
const REMEMBERED: usize = 10_000;
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// One more a window after so long: slow against a window, so that a shared chat is refused seldom.
const RECOVERY: Duration = Duration::from_secs(30);

/// All receivers that refused something lately.
#[derive(Debug)]
pub(crate) struct AdaptiveLimits {
    by_key: Mutex<Recent<String, AdaptiveLimit>>,
}

/// One receiver.
#[derive(Debug)]
struct AdaptiveLimit {
    /// The next pause; `None` once something was accepted.
    next: Option<Duration>,
    paused_until: Instant,
    /// Sends a window, when it was last reduced.
    room: u32,
    reduced: Instant,
}

impl AdaptiveLimits {
    pub(crate) fn new() -> Self {
        Self {
            by_key: Mutex::new(Recent::new(REMEMBERED)),
        }
    }

    /// The receiver refused: how long to pause it. `count` is what its level allows, `None` without one.
    pub(crate) fn refused(&self, key: &str, count: Option<u32>, now: Instant) -> Duration {
        let mut limits = self.lock();
        if limits.get(key).is_none() {
            limits.insert(key.to_owned(), AdaptiveLimit::new(count, now));
        }
        let Some(limit) = limits.get(key) else {
            return SHORTEST;
        };
        let pause = limit.refused(count, now);
        let room = limit.room;
        drop(limits);
        if count.is_some_and(|count| room < count) {
            tracing::info!(level = key, room, "others share the limit of {key}: fewer sends for it");
        }
        self.report(now);
        pause
    }

    /// The receiver accepted something: its next pause is the shortest again.
    pub(crate) fn accepted(&self, key: &str) {
        if let Some(limit) = self.lock().get(key) {
            limit.next = None;
        }
    }

    /// Gives the level what room its receiver is known to have.
    pub(crate) fn narrow(&self, level: &mut Level, now: Instant) {
        let mut limits = self.lock();
        let Some(limit) = limits.get(level.key.as_str()) else {
            return;
        };
        let room = limit.room_now(now);
        if room < level.count {
            level.count = room;
        } else if limit.next.is_none() {
            limits.remove(level.key.as_str());
            drop(limits);
            self.report(now);
        }
    }

    fn report(&self, now: Instant) {
        let reduced = self.lock().values().filter(|limit| limit.is_reduced(now)).count();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        telemetry::REDUCED_CHATS.set(reduced as f64);
    }

    fn lock(&self) -> MutexGuard<'_, Recent<String, AdaptiveLimit>> {
        // Nothing panics while it is held.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdaptiveLimit {
    fn new(count: Option<u32>, now: Instant) -> Self {
        Self {
            next: None,
            paused_until: now,
            room: count.unwrap_or(u32::MAX),
            reduced: now,
        }
    }

    fn refused(&mut self, count: Option<u32>, now: Instant) -> Duration {
        // Of several on the wire at once the first one has said it.
        if now < self.paused_until {
            return self.paused_until - now;
        }
        if let Some(count) = count {
            self.room = (self.room_now(now).min(count) / 2).max(1);
            self.reduced = now;
        }
        let pause = self.next.unwrap_or(SHORTEST);
        self.next = Some((pause * 2).min(LONGEST));
        self.paused_until = now + pause;
        pause
    }

    fn room_now(&self, now: Instant) -> u32 {
        let steps = now.saturating_duration_since(self.reduced).as_secs() / RECOVERY.as_secs();
        self.room.saturating_add(u32::try_from(steps).unwrap_or(u32::MAX))
    }

    /// For the metric: a level's own count is not known here, and at most a few dozen.
    fn is_reduced(&self, now: Instant) -> bool {
        self.room < u32::MAX && now.saturating_duration_since(self.reduced) < RECOVERY * 60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const KEY: &str = "c:oc_1";

    fn room(limits: &AdaptiveLimits, now: Instant) -> u32 {
        let mut level = Level {
            key: KEY.to_owned(),
            count: 5,
            window: SECOND,
        };
        limits.narrow(&mut level, now);
        level.count
    }

    #[test]
    fn a_chat_that_goes_on_refusing_is_paused_twice_as_long_each_time_until_it_accepts() {
        let (limits, mut now) = (AdaptiveLimits::new(), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let pause = limits.refused(KEY, Some(5), now);
            assert_eq!(pause, seconds * SECOND);
            // Another bot's send to it was on the wire.
            assert_eq!(limits.refused(KEY, Some(5), now + pause / 2), pause / 2);
            now += pause;
        }
        assert_eq!(
            limits.refused("c:oc_2", Some(5), now),
            SECOND,
            "other chats are not concerned"
        );
        limits.accepted(KEY);
        assert_eq!(limits.refused(KEY, Some(5), now), SECOND);
    }

    #[test]
    fn a_shared_chat_gets_half_and_one_more_now_and_then() {
        let (limits, start) = (AdaptiveLimits::new(), Instant::now());
        assert_eq!(room(&limits, start), 5);
        limits.refused(KEY, Some(5), start);
        assert_eq!(room(&limits, start), 2);
        // Several refusals of one moment are one.
        limits.refused(KEY, Some(5), start);
        assert_eq!(room(&limits, start), 2);
        limits.refused(KEY, Some(5), start + SECOND);
        limits.refused(KEY, Some(5), start + 4 * SECOND);
        assert_eq!(room(&limits, start + 4 * SECOND), 1, "never nothing");
        limits.accepted(KEY);
        let rooms: Vec<u32> = (0..6)
            .map(|steps| room(&limits, start + 4 * SECOND + RECOVERY * steps))
            .collect();
        assert_eq!(rooms, [1, 2, 3, 4, 5, 5]);
    }

    #[test]
    fn a_chat_without_a_limit_is_paused_only() {
        let (limits, now) = (AdaptiveLimits::new(), Instant::now());
        assert_eq!(limits.refused(KEY, None, now), SECOND);
        assert_eq!(room(&limits, now), 5);
    }
}
