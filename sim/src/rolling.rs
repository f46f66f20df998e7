//! How many calls fell into the fullest rolling window: exact, online, and in bounded memory.
//!
//! The window is half-open: two calls exactly one window apart are *not* in the same window. Calendar seconds would
//! hide a burst that straddles two of them, which is the very mistake a quota makes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

/// One second in microseconds, the window of every per-second limit.
pub const SECOND_US: u64 = 1_000_000;

/// One minute in microseconds.
pub const MINUTE_US: u64 = 60 * SECOND_US;

/// The fullest window seen for one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peak {
    /// What was counted: an app, a chat, a user or a card.
    pub key: Arc<str>,
    /// Calls in the fullest window.
    pub count: usize,
    /// When the window's last call arrived, monotonic microseconds.
    pub at_us: u64,
}

/// The running maximum for one key. It remembers only the calls of the last window.
#[derive(Clone, Debug, Default)]
pub struct Rolling {
    recent: VecDeque<u64>,
    count: usize,
    at_us: u64,
}

impl Rolling {
    /// Adds a call; times must not decrease. Returns how many calls the window ending here holds, this one included.
    pub fn record(&mut self, at_us: u64, window_us: u64) -> usize {
        while self
            .recent
            .front()
            .is_some_and(|first| at_us.saturating_sub(*first) >= window_us)
        {
            self.recent.pop_front();
        }
        self.recent.push_back(at_us);
        if self.recent.len() > self.count {
            self.count = self.recent.len();
            self.at_us = at_us;
        }
        self.recent.len()
    }

    /// The most calls any window held.
    #[must_use]
    pub fn max(&self) -> usize {
        self.count
    }

    fn is_idle(&self, now_us: u64, window_us: u64) -> bool {
        self.recent
            .back()
            .is_none_or(|last| now_us.saturating_sub(*last) >= window_us)
    }
}

/// The most of `times` (in any order) that fall into one window.
#[must_use]
pub fn max_in_any_window(times: impl IntoIterator<Item = u64>, window_us: u64) -> usize {
    let mut sorted: Vec<u64> = times.into_iter().collect();
    sorted.sort_unstable();
    let mut rolling = Rolling::default();
    for at_us in sorted {
        rolling.record(at_us, window_us);
    }
    rolling.max()
}

/// Running maxima by key. Above its capacity, idle keys are folded into one peak, so that a long run neither grows nor
/// forgets its worst window.
#[derive(Debug)]
pub(crate) struct RollingSet {
    window_us: u64,
    capacity: usize,
    sweep_at: usize,
    entries: HashMap<Arc<str>, Rolling>,
    folded: Option<Peak>,
}

impl RollingSet {
    pub(crate) fn new(window_us: u64, capacity: usize) -> Self {
        Self {
            window_us,
            capacity,
            sweep_at: capacity,
            entries: HashMap::new(),
            folded: None,
        }
    }

    pub(crate) fn record(&mut self, key: &Arc<str>, at_us: u64) {
        if let Some(rolling) = self.entries.get_mut(key) {
            rolling.record(at_us, self.window_us);
            return;
        }
        if self.entries.len() >= self.sweep_at {
            self.fold_idle(at_us);
        }
        self.entries
            .entry(key.clone())
            .or_default()
            .record(at_us, self.window_us);
    }

    fn fold_idle(&mut self, now_us: u64) {
        let (window_us, folded) = (self.window_us, &mut self.folded);
        self.entries.retain(|key, rolling| {
            if !rolling.is_idle(now_us, window_us) {
                return true;
            }
            if folded.as_ref().is_none_or(|peak| rolling.count > peak.count) {
                *folded = Some(Peak {
                    key: key.clone(),
                    count: rolling.count,
                    at_us: rolling.at_us,
                });
            }
            false
        });
        // Keys active within one window are bounded by the call rate; doubling keeps the sweep's cost constant per call.
        self.sweep_at = self.capacity.max(2 * self.entries.len());
    }

    /// Every key's peak, the fullest first.
    pub(crate) fn peaks(&self) -> Vec<Peak> {
        let live = self.entries.iter().map(|(key, rolling)| Peak {
            key: key.clone(),
            count: rolling.count,
            at_us: rolling.at_us,
        });
        let mut peaks: Vec<Peak> = live.chain(self.folded.clone()).collect();
        peaks.sort_by(|left, right| right.count.cmp(&left.count).then_with(|| left.key.cmp(&right.key)));
        peaks
    }
}
