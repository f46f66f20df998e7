//! The slot algorithm, a sliding-window log of reserved sends, as a pure function of time: the memory cache and the local fallback run it, and the script in Redis
//! is tested against it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{GUARD, LARGEST_SEARCHED, QUIET};
use crate::cache::Level;

/// Idle levels are dropped at most this often, microseconds: a pass over the levels of one window costs well under a send.
const SWEEP_EVERY: u64 = 1_000_000;

/// Every level's slots. Times are microseconds since an origin that the caller keeps; the log reads no clock.
#[derive(Debug)]
pub struct SlidingWindowLog {
    levels: HashMap<String, State>,
    born: u64,
    next: u64,
    swept: u64,
}

/// The answer to [`SlidingWindowLog::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// A slot, taken.
    Slot {
        /// When to send.
        at: u64,
        /// Tells it from another slot at the same time.
        id: u64,
    },
    /// Nothing was taken.
    Later {
        /// When to ask again.
        again: u64,
        /// Index of the level that stands in the way.
        level: usize,
    },
}

#[derive(Debug, Default)]
struct State {
    paused_until: u64,
    /// One a window: an app has a limit a second and one a minute under the same key.
    windows: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    window: u64,
    /// Sorted by time, then id.
    slots: VecDeque<(u64, u64)>,
}

impl SlidingWindowLog {
    /// A log that has no memory of what was sent before `born`, and is therefore silent at first.
    #[must_use]
    pub fn new(born: u64) -> Self {
        Self {
            levels: HashMap::new(),
            born,
            next: 0,
            swept: born,
        }
    }

    /// Forgets nothing, but is silent again as if it had: others may have sent what it does not know of.
    pub fn quieten(&mut self, now: u64) {
        self.born = self.born.max(now);
    }

    /// Takes the earliest slot that fits every level, at most `horizon` ahead.
    pub fn take(&mut self, now: u64, levels: &[Level], horizon: Duration) -> Offer {
        self.sweep(now);
        if let Some(level) = levels.iter().position(|level| level.count == 0) {
            let again = now.saturating_add(micros(levels[level].window + GUARD));
            return Offer::Later { again, level };
        }
        if levels.is_empty() {
            let id = self.record(now, levels, now);
            return Offer::Slot { at: now, id };
        }
        let quiet = self.born.saturating_add(micros(QUIET.saturating_add(horizon)));
        let horizon = micros(horizon);
        match self.find(now, now.max(quiet), levels, horizon) {
            Ok(at) => {
                let id = self.record(now, levels, at);
                Offer::Slot { at, id }
            }
            Err((again, level)) => Offer::Later { again, level },
        }
    }

    /// Whether what is noted here alone keeps every slot further ahead than `horizon`: then when to ask for one, and the index
    /// of the level that stands in the way. Whatever is not noted here could only make it later.
    #[must_use]
    pub fn closed(&self, now: u64, levels: &[Level], horizon: Duration) -> Option<(u64, usize)> {
        self.find(now, now, levels, micros(horizon)).err()
    }

    /// The earliest slot from `from` on that fits every level, unless it is further ahead than `horizon`: then when to ask
    /// again, and the level that stands in the way.
    fn find(&self, now: u64, from: u64, levels: &[Level], horizon: u64) -> Result<u64, (u64, usize)> {
        let paused = levels.iter().map(|level| self.paused_until(level)).max().unwrap_or(0);
        let mut at = from.max(paused);
        let mut moved = true;
        let mut narrowest = 0;
        while moved {
            moved = false;
            for (index, level) in levels.iter().enumerate() {
                let fits = self.earliest(level, at);
                if fits > at {
                    (at, narrowest, moved) = (fits, narrowest.max(index), true);
                }
            }
        }
        if at <= now.saturating_add(horizon) {
            return Ok(at);
        }
        // The level that alone is closed until then holds up all who share it. When only the combination is, blame the
        // last one named of those that matter: the narrowest, whose other senders lose least by waiting too.
        let alone = levels.iter().position(|level| {
            let from = from.max(self.paused_until(level));
            self.earliest(level, from) == at
        });
        // Half a horizon early, so that the next answer reserves the slot before it passes.
        let again = at.saturating_sub(horizon / 2).max(now);
        Err((again, alone.unwrap_or(narrowest)))
    }

    /// Notes a slot that somebody else granted, and gives its id.
    pub fn record(&mut self, now: u64, levels: &[Level], at: u64) -> u64 {
        self.sweep(now);
        let id = self.next;
        self.next += 1;
        for level in levels {
            self.entry(level).insert(now, at, id);
        }
        id
    }

    /// Returns a slot under which nothing was or will be sent, before or after its time.
    pub fn give_back(&mut self, levels: &[Level], at: u64, id: u64) {
        for level in levels {
            for entry in self
                .levels
                .get_mut(&level.key)
                .into_iter()
                .flat_map(|state| &mut state.windows)
            {
                if let Ok(index) = entry.slots.binary_search(&(at, id)) {
                    entry.slots.remove(index);
                }
            }
        }
    }

    /// Counts a slot as if its send arrived `now`, and says from when it counts: the guard that every slot carries is for
    /// arrivals after it, and this one is not later than now.
    pub fn hold(&mut self, now: u64, levels: &[Level], at: u64, id: u64) -> u64 {
        let held = now.saturating_sub(micros(GUARD));
        for level in levels {
            let state = self.levels.get_mut(&level.key);
            for entry in state.into_iter().flat_map(|state| &mut state.windows) {
                if let Ok(index) = entry.slots.binary_search(&(at, id)) {
                    entry.slots.remove(index);
                    entry.insert(now, held, id);
                }
            }
        }
        held
    }

    /// Grants nothing of a level before `until`.
    pub fn pause(&mut self, key: &str, until: u64) {
        let state = self.levels.entry(key.to_owned()).or_default();
        state.paused_until = state.paused_until.max(until);
    }

    /// Whether a level has a slot that still counts.
    #[must_use]
    pub fn remembers(&self, now: u64, key: &str) -> bool {
        self.levels
            .get(key)
            .is_some_and(|state| state.windows.iter().any(|entry| entry.live(now)))
    }

    /// How many levels are held: only those with something that still counts, give or take a second.
    #[must_use]
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    fn paused_until(&self, level: &Level) -> u64 {
        self.levels.get(&level.key).map_or(0, |state| state.paused_until)
    }

    /// The earliest time from `from` on at which one more slot fits this level, its pause aside.
    #[must_use]
    pub fn earliest(&self, level: &Level, from: u64) -> u64 {
        let window = micros(level.window + GUARD);
        self.levels
            .get(&level.key)
            .and_then(|state| state.windows.iter().find(|entry| entry.window == window))
            .map_or(from, |entry| entry.earliest(level.count, from))
    }

    fn entry(&mut self, level: &Level) -> &mut Window {
        let window = micros(level.window + GUARD);
        let windows = &mut self.levels.entry(level.key.clone()).or_default().windows;
        let index = windows
            .iter()
            .position(|entry| entry.window == window)
            .unwrap_or(windows.len());
        if index == windows.len() {
            windows.push(Window {
                window,
                slots: VecDeque::new(),
            });
        }
        &mut windows[index]
    }

    fn sweep(&mut self, now: u64) {
        if now < self.swept.saturating_add(SWEEP_EVERY) {
            return;
        }
        self.swept = now;
        self.levels.retain(|_, state| {
            state.windows.retain(|entry| entry.live(now));
            state.paused_until > now || !state.windows.is_empty()
        });
    }
}

impl Window {
    fn live(&self, now: u64) -> bool {
        self.slots
            .back()
            .is_some_and(|(at, _)| at.saturating_add(self.window) > now)
    }

    fn insert(&mut self, now: u64, at: u64, id: u64) {
        while self
            .slots
            .front()
            .is_some_and(|(oldest, _)| oldest.saturating_add(self.window) <= now)
        {
            self.slots.pop_front();
        }
        // Named twice among the levels of one send, it still is one send.
        if let Err(index) = self.slots.binary_search(&(at, id)) {
            self.slots.insert(index, (at, id));
        }
    }

    /// The earliest time from `from` on that leaves at most `count` slots in every window.
    fn earliest(&self, count: u32, from: u64) -> u64 {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let Some(rest) = self.slots.len().checked_sub(count) else {
            return from;
        };
        let time = |index: usize| self.slots[index].0;
        if count > LARGEST_SEARCHED as usize {
            return from.max(time(rest).saturating_add(self.window));
        }
        // Each run of `count` slots shorter than a window forbids the open interval in which one more would make
        // `count + 1` of them. The intervals' ends ascend, so one pass leaves all of them.
        let mut at = from;
        for first in 0..=rest {
            let (oldest, newest) = (time(first), time(first + count - 1));
            let end = oldest.saturating_add(self.window);
            if newest < end && at < end && at.saturating_add(self.window) > newest {
                at = end;
            }
        }
        at
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
