//! When the next transaction begins, and how many are on their way beside each other.
//!
//! A transaction costs the database something by itself, so a batch had better grow while another one is written. But where
//! each commit waits long for the disk, what comes meanwhile would wait for the rest of that and then for all of its own, with
//! the processors idle: there the next one begins after a part of the latency that is seen. The disk does not mind, because
//! commits that come together share a sync; and no more transactions are begun than a quick disk would be given.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Only a batch that large begins beside another one whatever that takes.
const LARGE: usize = 64;
/// Transactions on their way at once where commits are quick: the database works on one while the disk is waited for.
const TOGETHER: usize = 2;
/// The same where they are slow.
const TOGETHER_SLOW: usize = 4;
/// So much of a commit's time is the work on a row; the rest is the same for one row and for many.
const PER_ROW: Duration = Duration::from_micros(50);
/// A commit that takes longer, without its rows, waits for the disk: no processor works that long on it.
const SLOW: Duration = Duration::from_millis(8);
/// So many commits in a row must be slow. A busy machine makes many of them late, but hardly ever all: then smaller batches
/// would only make it busier.
const RECENT: usize = 16;

/// A commit that was answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    pub(super) rows: usize,
    pub(super) time: Duration,
}

/// What to do with what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It begins.
    Begin,
    /// It begins then, unless a transaction ends or the batch is large before.
    At(Instant),
    /// It gathers until a transaction ends or it is large.
    Gather,
}

/// The pace of one kind of transactions.
#[derive(Debug)]
pub(super) struct Pace {
    /// Transactions that the database takes beside each other, of this kind.
    most: usize,
    running: usize,
    /// When the newest began.
    begun: Option<Instant>,
    /// What the last commits took, and that without the work on their rows; oldest first.
    recent: VecDeque<(Duration, Duration)>,
}

impl Pace {
    /// For a database that takes `most` transactions of this kind beside each other.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            running: 0,
            begun: None,
            recent: VecDeque::with_capacity(RECENT),
        }
    }

    /// What to do with a batch of `rows`.
    pub(super) fn next(&self, rows: usize, now: Instant) -> Next {
        if rows == 0 {
            return Next::Gather;
        }
        if self.running == 0 || (rows >= LARGE && self.running < self.most.min(TOGETHER)) {
            return Next::Begin;
        }
        let Some((spacing, begun)) = self.spacing().zip(self.begun) else {
            return Next::Gather;
        };
        if self.running >= self.most.min(TOGETHER_SLOW) {
            return Next::Gather;
        }
        let at = begun + spacing;
        if at <= now { Next::Begin } else { Next::At(at) }
    }

    /// A transaction has begun.
    pub(super) fn begins(&mut self, now: Instant) {
        self.running += 1;
        self.begun = Some(now);
    }

    /// A transaction has ended, and if it went well, took that long.
    pub(super) fn ended(&mut self, took: Option<Took>) {
        self.running = self.running.saturating_sub(1);
        if let Some(Took { rows, time }) = took {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            let work = PER_ROW * u32::try_from(rows).unwrap_or(u32::MAX);
            self.recent.push_back((time, time.saturating_sub(work)));
        }
    }

    /// The time between two beginnings where commits are slow: so that as many as may be on their way are.
    fn spacing(&self) -> Option<Duration> {
        let slow = self.recent.len() == RECENT && self.recent.iter().all(|(_, waited)| *waited >= SLOW);
        let quickest = self.recent.iter().map(|(took, _)| *took).min().filter(|_| slow)?;
        Some(quickest / u32::try_from(TOGETHER_SLOW).unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(2);
    const DISK: Duration = Duration::from_millis(12);

    /// A database that serves `time` a commit, at which rows arrive evenly.
    struct Play {
        pace: Pace,
        now: Instant,
        /// When each that runs ends, and its rows.
        running: Vec<(Instant, Took)>,
        rows: usize,
        /// Rows of each that has begun.
        begun: Vec<usize>,
        /// The most on their way at once.
        beside: usize,
    }

    impl Play {
        fn new(most: usize) -> Self {
            Self {
                pace: Pace::new(most),
                now: Instant::now(),
                running: Vec::new(),
                rows: 0,
                begun: Vec::new(),
                beside: 0,
            }
        }

        /// A second in steps of a millisecond, `rows` arriving in each, while the `n`-th commit takes `time(n)`.
        fn second(&mut self, rows: usize, time: impl Fn(usize) -> Duration) {
            (self.beside, self.begun) = (0, Vec::new());
            for _ in 0..1000 {
                self.now += Duration::from_millis(1);
                self.rows += rows;
                let now = self.now;
                let (ended, running) = std::mem::take(&mut self.running)
                    .into_iter()
                    .partition(|(end, _)| *end <= now);
                self.running = running;
                for (_, took) in ended {
                    self.pace.ended(Some(took));
                }
                while self.pace.next(self.rows.min(500), now) == Next::Begin {
                    let rows = std::mem::take(&mut self.rows);
                    let time = time(self.begun.len());
                    self.pace.begins(now);
                    self.running.push((now + time, Took { rows, time }));
                    self.begun.push(rows);
                    self.beside = self.beside.max(self.running.len());
                }
            }
        }
    }

    #[test]
    fn quick_commits_follow_one_another() {
        let mut play = Play::new(4);
        play.second(2, |_| QUICK);
        assert_eq!(play.beside, 1);
    }

    #[test]
    fn a_large_batch_begins_beside_one_other() {
        let mut play = Play::new(4);
        play.second(50, |_| DISK / 2);
        assert_eq!(play.beside, 2);
    }

    #[test]
    fn slow_commits_run_beside_each_other_but_no_more_than_a_quick_disk_is_given() {
        let (mut slow, mut quick) = (Play::new(4), Play::new(4));
        slow.second(2, |_| DISK);
        slow.second(2, |_| DISK);
        quick.second(2, |_| QUICK);
        assert_eq!(slow.beside, 4);
        let largest = slow.begun.iter().max();
        assert!(largest.is_some_and(|rows| *rows <= 8), "evenly: {:?}", slow.begun);
        assert!(slow.begun.len() > 250, "{}", slow.begun.len());
        assert!(
            slow.begun.len() < quick.begun.len(),
            "{} {}",
            slow.begun.len(),
            quick.begun.len()
        );
    }

    #[test]
    fn a_disk_that_is_quick_again_gets_one_at_a_time_at_once() {
        let mut play = Play::new(4);
        play.second(2, |_| DISK);
        assert_eq!(play.beside, 4);
        play.second(2, |_| QUICK);
        play.second(2, |_| QUICK);
        assert_eq!(play.beside, 1);
    }

    #[test]
    fn a_busy_machine_that_makes_most_commits_late_gets_no_smaller_batches() {
        let mut play = Play::new(4);
        for _ in 0..3 {
            play.second(1, |number| if number % 10 == 0 { QUICK } else { 4 * DISK });
            assert_eq!(play.beside, 1);
        }
    }

    #[test]
    fn the_work_on_many_rows_is_no_slow_disk() {
        let mut play = Play::new(4);
        for _ in 0..3 {
            play.second(20, |_| PER_ROW * 400 + QUICK);
            assert!(play.beside <= 2, "{}", play.beside);
        }
    }

    #[test]
    fn no_more_run_than_the_database_takes_beside_each_other() {
        for most in [0, 1, 2, 3] {
            let mut play = Play::new(most);
            for rows in [2, 50] {
                play.second(rows, |_| DISK);
                assert!(play.beside <= most.max(1), "{} of {most}", play.beside);
            }
        }
    }
}
