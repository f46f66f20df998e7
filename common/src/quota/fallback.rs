//! What a process may send while the cache is down: little, but never too much.
//!
//! Its log is fed with every grant in normal times, so it starts from this process's true history. What others sent it
//! cannot know, so it is silent when it starts, when it first serves a bot (another process may have served it a moment
//! ago), and when the cache returns, for as long as another's last slots can still count.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{BOT, LATE_GUARD, Offer, QUIET, SlidingWindowLog};
use crate::cache::Level;

/// How long calls must have failed before the process goes on alone: a server that forks or stalls for a moment is not down.
const PATIENCE: Duration = Duration::from_millis(500);
/// Failures further apart than this are not one outage.
const SPELL: Duration = Duration::from_secs(2);
/// How often the cache is tried while it is down.
const PROBE: Duration = Duration::from_millis(250);
/// How much later than this one another process may notice that the cache is back: its link's longest pause between
/// attempts, and a probe. Until then it sends from its own fallback.
const RETURN_SKEW: Duration = Duration::from_millis(750);
/// A bot not asked for during this long counts as served anew.
const SERVED: Duration = Duration::from_secs(60);

/// Tokio's timers wake to within this: who has less left would wake too late.
const TICK: Duration = Duration::from_millis(1);

/// Where the next answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The cache.
    Cache,
    /// Nobody knows: see whether the cache is back, then ask again.
    Probe,
    /// This process alone.
    Local,
    /// Nobody before then.
    Silence(Instant),
}

/// A slot of the cache that this process's own log has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// When to send.
    pub(super) at: Instant,
    /// From when it counts: a guard before the latest arrival of a send that is in time.
    pub(super) from: Instant,
    /// Tells it from another one on the log.
    pub(super) id: u64,
}

#[derive(Debug)]
pub(super) struct Fallback {
    origin: Instant,
    horizon: Duration,
    max_workers: u32,
    log: SlidingWindowLog,
    mode: Mode,
    /// While alone: since when each bot has been served, and when it was last asked for.
    served: HashMap<String, (u64, u64)>,
    /// Bots that others may send for too.
    shared: HashSet<String>,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Shared { failing: Option<Spell> },
    Alone { probe: Instant },
    Returning { until: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Instant,
    last: Instant,
}

impl Fallback {
    pub(super) fn new(max_workers: u32, horizon: Duration) -> Self {
        Self {
            origin: Instant::now(),
            horizon,
            max_workers: max_workers.max(1),
            log: SlidingWindowLog::new(0),
            mode: Mode::Shared { failing: None },
            served: HashMap::new(),
            shared: HashSet::new(),
        }
    }

    pub(super) fn share(&mut self, bots: HashSet<String>) {
        self.shared = bots;
    }

    pub(super) fn degraded(&self) -> bool {
        !matches!(self.mode, Mode::Shared { .. })
    }

    pub(super) fn source(&mut self, now: Instant) -> Source {
        match self.mode {
            Mode::Shared { .. } => Source::Cache,
            Mode::Alone { probe } if now < probe => Source::Local,
            Mode::Alone { .. } => {
                self.mode = Mode::Alone { probe: now + PROBE };
                Source::Probe
            }
            Mode::Returning { until } if now < until => Source::Silence(until),
            Mode::Returning { .. } => {
                tracing::info!("quota: back to the shared limits");
                self.served.clear();
                self.mode = Mode::Shared { failing: None };
                Source::Cache
            }
        }
    }

    /// A call of the cache was answered.
    pub(super) fn answered(&mut self, now: Instant) {
        match &mut self.mode {
            Mode::Shared { failing } => *failing = None,
            Mode::Alone { .. } => {
                let until = now + QUIET + self.horizon + RETURN_SKEW;
                self.mode = Mode::Returning { until };
            }
            Mode::Returning { .. } => {}
        }
    }

    /// A call of the cache failed.
    pub(super) fn failed(&mut self, now: Instant, error: &dyn std::fmt::Display) {
        let Mode::Shared { failing } = &mut self.mode else {
            return;
        };
        let spell = failing.filter(|spell| now.saturating_duration_since(spell.last) < SPELL);
        let since = spell.map_or(now, |spell| spell.since);
        *failing = Some(Spell { since, last: now });
        if now.saturating_duration_since(since) >= PATIENCE {
            tracing::warn!(%error, "quota: the cache is down; going on with this process's share of the limits");
            // Since the first failure nobody was granted anything; what was granted before lies at most a horizon ahead.
            let since = self.micros(since);
            self.log.quieten(since);
            self.mode = Mode::Alone { probe: now + PROBE };
        }
    }

    /// When the cache is worth asking, if not now, and the level that stands in the way: what this process itself was granted
    /// keeps the next slot further away than any answer may lie. A full bot then costs one call of the cache a slot, and not
    /// another one for each answer "later".
    pub(super) fn closed(&self, now: Instant, levels: &[Level]) -> Option<(Instant, usize)> {
        let (again, level) = self.log.closed(self.micros(now), levels, self.horizon)?;
        Some((self.instant(again), level))
    }

    /// Notes a slot that the cache granted for `at` and that is good until `latest`, unless this process knows better: of sends
    /// whose answers came late and whose news did not reach the cache in time, and of what a cache forgot. All times are this
    /// machine's, so there is nothing to tolerate: for what one process sends, the limit holds whatever the cache says.
    ///
    /// Answers tell a slot's time to within their round trip, and they overtake each other, so one that fits in the cache may
    /// seem too early here by a moment. It is used a moment later.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        levels: &[Level],
        at: Instant,
        latest: Instant,
    ) -> Result<Admitted, (Instant, usize)> {
        let mut slot = self.micros(at);
        let mut moved = true;
        while moved {
            moved = false;
            for (index, level) in levels.iter().enumerate() {
                let fits = self.log.earliest(level, slot);
                if fits <= slot {
                    continue;
                }
                if self.instant(fits) + TICK > latest {
                    return Err((self.instant(fits), index));
                }
                (slot, moved) = (fits, true);
            }
        }
        let from = latest - LATE_GUARD;
        let id = self.log.record(self.micros(now), levels, self.micros(from));
        let at = self.instant(slot).max(at);
        Ok(Admitted { at, from, id })
    }

    /// The slot is not used, or the room not kept any more.
    pub(super) fn give_back(&mut self, levels: &[Level], at: Instant, id: u64) {
        let at = self.micros(at);
        self.log.give_back(levels, at, id);
    }

    /// Keeps room for one send at `at` that is not granted yet: what this process is granted around it is not admitted.
    pub(super) fn keep(&mut self, now: Instant, levels: &[Level], at: Instant) -> u64 {
        let (now, at) = (self.micros(now), self.micros(at));
        self.log.record(now, levels, at)
    }

    /// Counts a slot as if its send arrived `now`, and says from when it counts.
    pub(super) fn hold(&mut self, now: Instant, levels: &[Level], at: Instant, id: u64) -> Instant {
        let (now, at) = (self.micros(now), self.micros(at));
        let held = self.log.hold(now, levels, at, id);
        self.instant(held)
    }

    pub(super) fn pause(&mut self, key: &str, until: Instant) {
        let until = self.micros(until);
        self.log.pause(key, until);
    }

    /// Takes a slot of this process's share.
    pub(super) fn take(&mut self, now: Instant, levels: &[Level]) -> Offer {
        let now = self.micros(now);
        if let Some((index, bot)) = levels.iter().enumerate().find(|(_, level)| level.key.starts_with(BOT))
            && !self.log.remembers(now, &bot.key)
        {
            let recent = now.saturating_sub(duration_micros(SERVED));
            self.served.retain(|_, (_, last)| *last >= recent);
            let (since, last) = self.served.entry(bot.key.clone()).or_insert((now, now));
            *last = now;
            let again = *since + duration_micros(QUIET + self.horizon);
            if now < again {
                return Offer::Later { again, level: index };
            }
        }
        let share = |level: &Level| Level {
            key: level.key.clone(),
            count: match level.count {
                0 => 0,
                count if level.key.starts_with(BOT) && !self.shared.contains(&level.key) => own_share(count),
                count => (count / self.max_workers).max(1),
            },
            window: level.window,
        };
        let shares: Vec<Level> = levels.iter().map(share).collect();
        self.log.take(now, &shares, self.horizon)
    }

    pub(super) fn instant(&self, micros: u64) -> Instant {
        self.origin + Duration::from_micros(micros)
    }

    fn micros(&self, at: Instant) -> u64 {
        duration_micros(at.saturating_duration_since(self.origin))
    }
}

/// Four fifths, at least one.
fn own_share(count: u32) -> u32 {
    (count - count.div_ceil(5)).max(1)
}

fn duration_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(2);

    fn two_a_second() -> Vec<Level> {
        vec![Level {
            key: "b:1".to_owned(),
            count: 2,
            window: Duration::from_secs(1),
        }]
    }

    fn latest(at: Instant) -> Instant {
        at + LATE_GUARD - ROUND_TRIP
    }

    #[test]
    fn a_slot_that_a_later_one_overtook_on_its_way_is_used_a_moment_later() {
        let mut fallback = Fallback::new(4, super::super::HORIZON);
        let levels = two_a_second();
        let start = fallback.origin + Duration::from_secs(10);
        let after = |millis| start + Duration::from_millis(millis);
        let mut admit = |at| fallback.admit(start, &levels, at, latest(at));
        admit(start).unwrap();
        // Counts from 3 ms on, so a third one may be sent from 1,028 on.
        admit(after(5)).unwrap();
        // The cache has put it a window behind the second one, and it is known to within two milliseconds.
        admit(after(1029)).unwrap();
        let overtaken = admit(after(1027)).unwrap();
        assert_eq!(overtaken.at, after(1028), "a window after the second one");
        assert_eq!(overtaken.from, after(1025));
    }

    #[test]
    fn a_slot_that_would_break_the_limit_is_refused_until_it_does_not() {
        let mut fallback = Fallback::new(4, super::super::HORIZON);
        let levels = two_a_second();
        let start = fallback.origin + Duration::from_secs(10);
        let first = [start; 2].map(|at| fallback.admit(start, &levels, at, latest(at)).unwrap());
        // Its answer takes half a second, and the cache does not hear of it.
        let answered = start + Duration::from_millis(500);
        fallback.hold(answered, &levels, first[1].from, first[1].id);
        let at = start + Duration::from_millis(1025);
        fallback.admit(answered, &levels, at, latest(at)).unwrap();
        let refused = fallback.admit(answered, &levels, at, latest(at)).unwrap_err();
        assert_eq!(refused, (answered + Duration::from_secs(1), 0));
    }
}
