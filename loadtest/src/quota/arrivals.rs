//! The judge: what arrived at the platform when, held against every limit.
//!
//! **Violation**: an arrival that is the (N+1)th or later of a half-open rolling window, so two arrivals exactly one window
//! apart do not share one. Refused calls and repeats count: what matters is what the client let through.
//!
//! **Use** of a limit of N in W, in a stretch: `k * W` by the time from the first arrival to the one `k * N` later, `k` as
//! large as there are arrivals. A sender that wastes nothing has 1, wherever in a burst the stretch begins and ends.

use std::collections::BTreeMap;

use openclaw_sim::rolling::{MINUTE_US, SECOND_US};
use openclaw_sim::{Api, Sim};

/// What OpenClaw promises by default, and the platform demands, a second.
pub(super) const PER_SECOND: usize = 5;
const APP_PER_SECOND: usize = 50;
const APP_PER_MINUTE: usize = 1000;

/// Every arrival, by level.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    levels: BTreeMap<String, Level>,
    sends: usize,
}

/// The arrivals that count against one limit.
#[derive(Debug)]
pub(super) struct Level {
    limit: usize,
    window_us: u64,
    /// Ascending.
    times_us: Vec<u64>,
}

impl Arrivals {
    /// Everything the simulated platform was asked to send.
    pub(super) fn at(sim: &Sim) -> Self {
        let mut arrivals = Self::default();
        sim.ledger(|ledger| {
            for call in ledger.calls().filter(|call| call.api != Api::Token) {
                let api = format!("app {}/{}", call.app, call.api.name());
                arrivals.add(format!("{api} a second"), (APP_PER_SECOND, SECOND_US), call.at_us);
                arrivals.add(format!("{api} a minute"), (APP_PER_MINUTE, MINUTE_US), call.at_us);
                let receivers = [("chat", &call.chat), ("user", &call.user)];
                let receivers = receivers.map(|(kind, id)| id.as_ref().map(|id| (kind, id)));
                let named = receivers.into_iter().flatten().chain([("bot", &call.app)]);
                for (kind, id) in named {
                    arrivals.add(format!("{kind} {id}"), (PER_SECOND, SECOND_US), call.at_us);
                }
                arrivals.sends += 1;
            }
        });
        arrivals.sorted()
    }

    /// Arrivals that were written down elsewhere: levels of five a second, and when.
    pub(super) fn of(sends: impl IntoIterator<Item = (Vec<String>, u64)>) -> Self {
        let mut arrivals = Self::default();
        for (levels, at_us) in sends {
            for level in levels {
                arrivals.add(level, (PER_SECOND, SECOND_US), at_us);
            }
            arrivals.sends += 1;
        }
        arrivals.sorted()
    }

    fn add(&mut self, name: String, (limit, window_us): (usize, u64), at_us: u64) {
        let level = self.levels.entry(name).or_insert(Level {
            limit,
            window_us,
            times_us: Vec::new(),
        });
        level.times_us.push(at_us);
    }

    /// Calls are written down when they are decided, which need not be in the order they came.
    fn sorted(mut self) -> Self {
        for level in self.levels.values_mut() {
            level.times_us.sort_unstable();
        }
        self
    }

    /// All sends.
    pub(super) fn sends(&self) -> usize {
        self.sends
    }

    /// Violations of every level from `from` until `until`; the window may have begun earlier.
    pub(super) fn violations(&self, from: u64, until: u64) -> usize {
        self.levels.values().map(|level| level.violations(from, until)).sum()
    }

    /// The fullest window of the levels whose names begin so, of those with five a second.
    pub(super) fn fullest(&self, kind: &str) -> usize {
        let levels = self.levels.iter().filter(|(name, _)| name.starts_with(kind));
        let rolling = levels.flat_map(|(_, level)| level.rolling());
        rolling.map(|(_, count)| count).max().unwrap_or(0)
    }

    /// Use of each level whose name begins so, in name order.
    pub(super) fn used(&self, kind: &str, from: u64, until: u64) -> Vec<f64> {
        let levels = self.levels.iter().filter(|(name, _)| name.starts_with(kind));
        levels.map(|(_, level)| level.used(from, until)).collect()
    }

    /// How many arrivals of a level lie in a stretch.
    pub(super) fn count(&self, name: &str, from: u64, until: u64) -> usize {
        self.levels
            .get(name)
            .map_or(0, |level| level.between(from, until).len())
    }

    /// For a plot: seconds since `from`, and how many arrivals the second that ends there holds.
    pub(super) fn plotted(&self, name: &str, from: u64, until: u64) -> Vec<(f64, f64)> {
        let rolling = self.levels.get(name).map(Level::rolling).unwrap_or_default();
        let inside = rolling.into_iter().filter(|(at_us, _)| (from..until).contains(at_us));
        inside
            .map(|(at_us, count)| ((at_us - from) as f64 / 1e6, count as f64))
            .collect()
    }
}

impl Level {
    fn between(&self, from: u64, until: u64) -> &[u64] {
        let begin = self.times_us.partition_point(|at| *at < from);
        let end = self.times_us.partition_point(|at| *at < until);
        self.times_us.get(begin..end).unwrap_or_default()
    }

    fn violations(&self, from: u64, until: u64) -> usize {
        let newest = self.times_us.iter().skip(self.limit);
        let pairs = self.times_us.iter().zip(newest);
        pairs
            .filter(|(oldest, newest)| *newest - *oldest < self.window_us && (from..until).contains(*newest))
            .count()
    }

    fn used(&self, from: u64, until: u64) -> f64 {
        let times = self.between(from, until);
        let rounds = times.len().saturating_sub(1) / self.limit;
        match (times.first(), times.get(rounds * self.limit)) {
            (Some(first), Some(last)) if last > first => {
                (rounds as u64 * self.window_us) as f64 / (last - first) as f64
            }
            _ => 0.0,
        }
    }

    /// At each arrival: how many the window that ends with it holds.
    fn rolling(&self) -> Vec<(u64, usize)> {
        let mut oldest = 0;
        let counted = self.times_us.iter().enumerate().map(|(newest, at)| {
            while self
                .times_us
                .get(oldest)
                .is_some_and(|first| at - first >= self.window_us)
            {
                oldest += 1;
            }
            (*at, newest + 1 - oldest)
        });
        counted.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(times_us: impl IntoIterator<Item = u64>) -> Arrivals {
        Arrivals::of(times_us.into_iter().map(|at_us| (vec!["bot x".to_owned()], at_us)))
    }

    #[test]
    fn the_sixth_inside_a_second_is_a_violation_and_one_a_second_after_the_first_is_not() {
        let at = |sixth| arrivals([0, 1, 2, 3, 4, sixth]).violations(0, u64::MAX);
        assert_eq!((at(SECOND_US - 1), at(SECOND_US)), (1, 0));
    }

    #[test]
    fn bursts_of_five_at_once_every_second_are_full_use_and_a_first_burst_alone_is_none() {
        let bursts = (0..100u64).map(|number| number / 5 * SECOND_US);
        assert_eq!(arrivals(bursts).used("bot", 0, u64::MAX), [1.0]);
        let cut = (3..98u64).map(|number| number / 5 * SECOND_US);
        assert_eq!(
            arrivals(cut).used("bot", 0, u64::MAX),
            [1.0],
            "a stretch may begin inside a burst"
        );
        assert_eq!(arrivals([0; 5]).used("bot", 0, u64::MAX), [0.0]);
    }
}
