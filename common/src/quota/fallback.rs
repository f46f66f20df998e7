//! What a process may send while the cache is down: little, but never too much.
//!
//! Its board is fed with every grant in normal times, so it starts from this process's true history. What others sent it
//! cannot know, so it is silent when it starts, when it first serves a bot (another process may have served it a moment
//! ago), and when the cache returns, for as long as another's last slots can still count.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{BOT, Board, Offer, QUIET};
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

#[derive(Debug)]
pub(super) struct Fallback {
    origin: Instant,
    horizon: Duration,
    max_workers: u32,
    board: Board,
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
            board: Board::new(0),
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
            self.board.quieten(since);
            self.mode = Mode::Alone { probe: now + PROBE };
        }
    }

    /// Notes a slot that the cache granted for `at` and that counts from `from`, unless this process knows better: of sends
    /// whose answers came late and whose news did not reach the cache in time, and of what a cache forgot. Both times are this
    /// machine's, so there is nothing to tolerate: for what one process sends, the limit holds whatever the cache says.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        levels: &[Level],
        at: Instant,
        from: Instant,
    ) -> Result<u64, (Instant, usize)> {
        let slot = self.micros(at);
        for (index, level) in levels.iter().enumerate() {
            let fits = self.board.earliest(level, slot);
            if fits > slot {
                return Err((self.origin + Duration::from_micros(fits), index));
            }
        }
        let (now, from) = (self.micros(now), self.micros(from));
        Ok(self.board.record(now, levels, from))
    }

    /// The slot is not used, or the room not kept any more.
    pub(super) fn give_back(&mut self, levels: &[Level], at: Instant, id: u64) {
        let at = self.micros(at);
        self.board.give_back(levels, at, id);
    }

    /// Keeps room for one send at `at` that is not granted yet: what this process is granted around it is not admitted.
    pub(super) fn keep(&mut self, now: Instant, levels: &[Level], at: Instant) -> u64 {
        let (now, at) = (self.micros(now), self.micros(at));
        self.board.record(now, levels, at)
    }

    /// Counts a slot as if its send arrived `now`, and says from when it counts.
    pub(super) fn hold(&mut self, now: Instant, levels: &[Level], at: Instant, id: u64) -> Instant {
        let (now, at) = (self.micros(now), self.micros(at));
        let held = self.board.hold(now, levels, at, id);
        self.instant(held)
    }

    pub(super) fn pause(&mut self, key: &str, until: Instant) {
        let until = self.micros(until);
        self.board.pause(key, until);
    }

    /// Takes a slot of this process's share.
    pub(super) fn take(&mut self, now: Instant, levels: &[Level]) -> Offer {
        let now = self.micros(now);
        if let Some((index, bot)) = levels.iter().enumerate().find(|(_, level)| level.key.starts_with(BOT))
            && !self.board.remembers(now, &bot.key)
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
        self.board.take(now, &shares, self.horizon)
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
