//! Who may ask next.
//!
//! As long as answers are slots, everybody asks at once. Whoever is told "later" queues at the level that stands in the way,
//! in order of arrival, and so does who comes after for the same level; when the level opens, the head of its line asks for
//! itself, and each slot lets twice as many follow. So a full bot with two hundred lanes costs one question a slot, and a full
//! chat holds up nobody but its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::cache::Level;

/// Most senders of one line that ask at the same time: enough to use 10,000/s over a round trip of some milliseconds.
const WIDEST: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lines {
    by_level: Mutex<HashMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    /// Not worth asking before.
    opens: Instant,
    /// How many may ask at once.
    width: usize,
    asking: usize,
    /// By order of arrival.
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// A sender's place: outside, waiting in one line, or asking for its line. Leaves by itself when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    lines: &'a Lines,
    order: u64,
    wake: Arc<Notify>,
    level: Option<String>,
    asking: bool,
}

enum Turn {
    Now,
    At(Instant),
    WhenCalled,
}

impl Lines {
    /// A place behind those who wait for one of these levels, if anybody does. `order` is the time of arrival.
    pub(super) fn arrive(&self, order: u64, levels: &[Level]) -> Place<'_> {
        let mut place = Place {
            lines: self,
            order,
            wake: Arc::new(Notify::new()),
            level: None,
            asking: false,
        };
        let mut lines = self.lock();
        if let Some(level) = levels.iter().find(|level| lines.contains_key(&level.key)) {
            place.join(&mut lines, &level.key, None);
        }
        drop(lines);
        place
    }

    /// Whether anybody waits for one of these levels.
    pub(super) fn is_waited_for(&self, levels: &[Level]) -> bool {
        let lines = self.lock();
        levels.iter().any(|level| lines.contains_key(&level.key))
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().values().map(|line| line.waiting.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        // Nothing panics while it is held.
        self.by_level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn call(&self) {
        let free = self.width.saturating_sub(self.asking);
        for wake in self.waiting.values().take(free) {
            wake.notify_one();
        }
    }
}

impl Place<'_> {
    /// Waits until it is this sender's turn to ask.
    pub(super) async fn turn(&mut self) {
        loop {
            match self.look() {
                Turn::Now => return,
                Turn::At(opens) => {
                    tokio::select! {
                        () = sleep_until(opens) => {}
                        () = self.wake.notified() => {}
                    }
                }
                Turn::WhenCalled => self.wake.notified().await,
            }
        }
    }

    fn look(&mut self) -> Turn {
        let mut lines = self.lines.lock();
        let Some(line) = self.level.as_ref().and_then(|level| lines.get_mut(level)) else {
            return Turn::Now;
        };
        let free = line.width.saturating_sub(line.asking);
        if self.asking {
            Turn::Now
        } else if !line.waiting.keys().take(free).any(|order| *order == self.order) {
            Turn::WhenCalled
        } else if Instant::now() < line.opens {
            Turn::At(line.opens)
        } else {
            line.waiting.remove(&self.order);
            line.asking += 1;
            self.asking = true;
            Turn::Now
        }
    }

    /// The answer was a slot: out of the line, and more may follow.
    pub(super) fn served(&mut self) {
        self.leave(&mut self.lines.lock(), true);
    }

    /// The answer was "later": back into the line of the level that stands in the way.
    pub(super) fn told_later(&mut self, level: &str, opens: Instant) {
        let mut lines = self.lines.lock();
        if self.level.as_deref() == Some(level)
            && let Some(line) = lines.get_mut(level)
        {
            line.asking -= usize::from(self.asking);
            self.asking = false;
            line.width = 1;
            line.opens = line.opens.max(opens);
            line.waiting.insert(self.order, self.wake.clone());
            line.call();
            return;
        }
        self.leave(&mut lines, false);
        self.join(&mut lines, level, Some(opens));
    }

    fn join(&mut self, lines: &mut HashMap<String, Line>, level: &str, opens: Option<Instant>) {
        let line = lines.entry(level.to_owned()).or_insert_with(|| Line {
            opens: Instant::now(),
            width: 1,
            asking: 0,
            waiting: BTreeMap::new(),
        });
        if let Some(opens) = opens {
            line.opens = line.opens.max(opens);
            line.width = 1;
        }
        line.waiting.insert(self.order, self.wake.clone());
        // An earlier arrival than the head takes the head's place.
        line.call();
        self.level = Some(level.to_owned());
    }

    fn leave(&mut self, lines: &mut HashMap<String, Line>, served: bool) {
        let Some(level) = self.level.take() else {
            return;
        };
        let Some(line) = lines.get_mut(&level) else {
            return;
        };
        line.waiting.remove(&self.order);
        line.asking -= usize::from(self.asking);
        self.asking = false;
        if served {
            line.width = (line.width * 2).min(WIDEST);
        }
        if line.waiting.is_empty() && line.asking == 0 {
            lines.remove(&level);
        } else {
            line.call();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let lines = self.lines;
        self.leave(&mut lines.lock(), false);
    }
}
