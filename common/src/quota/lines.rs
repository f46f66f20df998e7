//! Who may ask next.
//!
//! As long as answers are slots, everybody asks at once. Whoever is told "later" queues at the level that stands in the way,
//! by urgency and then in order of arrival, and so does who comes after for the same level; when the level opens, the head of its line asks for
//! itself, and each slot lets twice as many follow. So a full bot with two hundred lanes costs one question a slot, and a full
//! chat holds up nobody but its own.
//!
//! A sender that waits at its chat must not snatch its bot's next slot from a more urgent one that waits at the bot: whoever
//! comes to the head of a line goes on to a line of its other levels where somebody more urgent stands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{ToldToWait, Urgency};
use crate::cache::Level;
use crate::priority::Priority;

/// Most senders of one line that ask at the same time: enough to use 10,000/s over a round trip of some milliseconds.
const WIDEST: usize = 64;

/// Who goes first in a line: the more urgent, then who arrived first.
type Rank = (Priority, u64);

#[derive(Debug, Default)]
pub(super) struct Lines {
    by_level: Mutex<HashMap<String, Line>>,
}

#[derive(Debug)]
struct Line {
    /// Not worth asking before.
    opens: Instant,
    /// Whether a limit says so, and not a cache that is late or away.
    limited: bool,
    /// Questions asked before then were answered without what has been returned since.
    reopened: Option<Instant>,
    /// How many may ask at once.
    width: usize,
    asking: usize,
    waiting: BTreeMap<Rank, Arc<Notify>>,
}

/// A sender's place: outside, waiting in one line, or asking for its line. Leaves by itself when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    lines: &'a Lines,
    levels: &'a [Level],
    urgency: &'a Urgency,
    rank: Rank,
    wake: Arc<Notify>,
    level: Option<String>,
    /// While a limit makes this line wait.
    told: Option<ToldToWait>,
    asking: bool,
    /// When its turn came last.
    asked: Instant,
}

/// What whoever asked in vain was told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Later {
    /// Not worth asking before.
    pub(super) opens: Instant,
    /// Whether a limit says so, and not a cache that is late or away.
    pub(super) limited: bool,
}

enum Turn {
    Now,
    At(Instant),
    WhenCalled,
    /// In another line now: look again.
    Moved,
}

impl Lines {
    /// A place behind those who wait for one of these levels, if anybody does. `order` is the time of arrival.
    pub(super) fn arrive<'a>(&'a self, order: u64, urgency: &'a Urgency, levels: &'a [Level]) -> Place<'a> {
        let mut place = Place {
            lines: self,
            levels,
            urgency,
            rank: (urgency.now(), order),
            wake: Arc::new(Notify::new()),
            level: None,
            told: None,
            asking: false,
            asked: Instant::now(),
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

    /// A slot was returned: those who were told "later" because it was taken may ask from `opens` on.
    pub(super) fn reopen(&self, levels: &[Level], opens: Instant) {
        let mut lines = self.lock();
        for level in levels {
            if let Some(line) = lines.get_mut(&level.key) {
                line.opens = line.opens.min(opens);
                line.reopened = Some(Instant::now());
                line.call();
            }
        }
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
    /// Somebody who asked at `asked` was told "later".
    fn close(&mut self, later: Later, asked: Instant) {
        let Later { opens, limited } = later;
        self.limited = limited;
        if self.reopened.is_none_or(|reopened| reopened < asked) {
            self.opens = self.opens.max(opens);
        }
        self.width = 1;
    }

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
            self.hurry();
            match self.look() {
                Turn::Now => {
                    self.asked = Instant::now();
                    return;
                }
                Turn::At(opens) => {
                    tokio::select! {
                        () = sleep_until(opens) => {}
                        () = self.wake.notified() => {}
                        () = self.urgency.exceeds(self.rank.0) => {}
                    }
                }
                Turn::WhenCalled => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = self.urgency.exceeds(self.rank.0) => {}
                    }
                }
                Turn::Moved => {}
            }
        }
    }

    /// Moves up when this send has become more urgent.
    fn hurry(&mut self) {
        let urgency = self.urgency.now();
        if urgency >= self.rank.0 {
            return;
        }
        let mut lines = self.lines.lock();
        if let Some(line) = self.level.as_ref().and_then(|level| lines.get_mut(level))
            && let Some(wake) = line.waiting.remove(&self.rank)
        {
            line.waiting.insert((urgency, self.rank.1), wake);
            line.call();
        }
        self.rank.0 = urgency;
    }

    fn look(&mut self) -> Turn {
        let mut lines = self.lines.lock();
        let Some(line) = self.level.as_ref().and_then(|level| lines.get_mut(level)) else {
            return Turn::Now;
        };
        let free = line.width.saturating_sub(line.asking);
        if self.asking {
            Turn::Now
        } else if !line.waiting.keys().take(free).any(|rank| *rank == self.rank) {
            Turn::WhenCalled
        } else if Instant::now() < line.opens {
            Turn::At(line.opens)
        } else if let Some(level) = self.yields_at(&lines) {
            self.leave(&mut lines, false);
            self.join(&mut lines, &level, None);
            Turn::Moved
        } else if let Some(line) = self.level.as_ref().and_then(|level| lines.get_mut(level)) {
            line.waiting.remove(&self.rank);
            line.asking += 1;
            self.asking = true;
            Turn::Now
        } else {
            Turn::Now
        }
    }

    /// Another level of this send at which somebody more urgent waits.
    fn yields_at(&self, lines: &HashMap<String, Line>) -> Option<String> {
        self.levels
            .iter()
            .filter(|level| self.level.as_ref() != Some(&level.key))
            .find(|level| {
                let first = lines.get(&level.key).and_then(|line| line.waiting.first_key_value());
                first.is_some_and(|((priority, _), _)| *priority < self.rank.0)
            })
            .map(|level| level.key.clone())
    }

    /// The answer was a slot: out of the line, and more may follow.
    pub(super) fn served(&mut self) {
        self.leave(&mut self.lines.lock(), true);
    }

    /// The answer was "later": back into the line of the level that stands in the way.
    pub(super) fn told_later(&mut self, level: &str, later: Later) {
        let mut lines = self.lines.lock();
        if self.level.as_deref() == Some(level)
            && let Some(line) = lines.get_mut(level)
        {
            line.asking -= usize::from(self.asking);
            self.asking = false;
            line.close(later, self.asked);
            line.waiting.insert(self.rank, self.wake.clone());
            line.call();
            self.told = line.limited.then(|| self.urgency.told_to_wait());
            return;
        }
        self.leave(&mut lines, false);
        self.join(&mut lines, level, Some(later));
    }

    fn join(&mut self, lines: &mut HashMap<String, Line>, level: &str, later: Option<Later>) {
        let line = lines.entry(level.to_owned()).or_insert_with(|| Line {
            opens: Instant::now(),
            limited: false,
            reopened: None,
            width: 1,
            asking: 0,
            waiting: BTreeMap::new(),
        });
        if let Some(later) = later {
            line.close(later, self.asked);
        }
        line.waiting.insert(self.rank, self.wake.clone());
        // An earlier arrival than the head takes the head's place.
        line.call();
        self.told = line.limited.then(|| self.urgency.told_to_wait());
        self.level = Some(level.to_owned());
    }

    fn leave(&mut self, lines: &mut HashMap<String, Line>, served: bool) {
        self.told = None;
        let Some(level) = self.level.take() else {
            return;
        };
        let Some(line) = lines.get_mut(&level) else {
            return;
        };
        line.waiting.remove(&self.rank);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn later(opens: Instant) -> Later {
        Later { opens, limited: true }
    }

    fn level(key: &str) -> [Level; 1] {
        [Level {
            key: key.to_owned(),
            count: 1,
            window: std::time::Duration::from_secs(1),
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stands_in_a_line_that_a_limit_has_closed_was_told_to_wait() {
        let (lines, levels) = (Lines::default(), level("c:1"));
        let [first, second, other] = [(); 3].map(|()| Urgency::new(Priority::Answer));
        let second_from_now = Instant::now() + std::time::Duration::from_secs(1);
        let mut asking = lines.arrive(0, &first, &levels);
        assert!(!first.was_told_to_wait(), "it has not asked yet");
        asking.told_later("c:1", later(second_from_now));
        let waiting = lines.arrive(1, &second, &levels);
        assert!(first.was_told_to_wait() && second.was_told_to_wait());
        asking.turn().await;
        asking.served();
        assert!(!first.was_told_to_wait() && second.was_told_to_wait());
        drop(waiting);
        assert!(!second.was_told_to_wait(), "it has gone");

        let mut asking = lines.arrive(2, &other, &levels);
        let opens = Instant::now() + std::time::Duration::from_secs(1);
        asking.told_later("c:1", Later { opens, limited: false });
        assert!(!other.was_told_to_wait(), "the cache is late, which is no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_from_before_a_slot_was_returned_does_not_close_the_line_again() {
        let (lines, urgency) = (Lines::default(), Urgency::new(Priority::Answer));
        let levels = level("b:1");
        let second = Instant::now() + std::time::Duration::from_secs(1);
        let mut place = lines.arrive(0, &urgency, &levels);
        place.told_later("b:1", later(second));
        place.turn().await;
        lines.reopen(&levels, Instant::now());
        place.told_later("b:1", later(second + std::time::Duration::from_secs(1)));
        place.turn().await;
        assert_eq!(Instant::now(), second, "the answer was older than the return");
        tokio::time::advance(std::time::Duration::from_millis(1)).await;
        place.turn().await;
        place.told_later("b:1", later(second + std::time::Duration::from_secs(1)));
        place.turn().await;
        assert_eq!(Instant::now(), second + std::time::Duration::from_secs(1));
    }
}
