//! A bot that only fails stops trying: a breaker with a half-open probe.
//!
//! ```text
//! closed ─ TRIPS failures in a row ─▶ open ─ its interval is over ─▶ one probe ─ success ─▶ closed
//!                                       ▲                                └ failure: twice the interval ┘
//! ```
//!
//! What counts are failures of the platform or of the app as a whole; a refusal of one message shows that the platform works.
//! Pure functions of the time they are given.

use std::time::{Duration, Instant};

use crate::feishu::Outcome;

/// Failures in a row that open it: more than one unlucky moment of a bot's lanes, fewer than a queue full of attempts.
pub(crate) const TRIPS: u32 = 10;
/// From opening to the first probe.
const SHORTEST: Duration = Duration::from_secs(1);
/// Between two probes at most; what Feishu's recovery may cost.
const LONGEST: Duration = Duration::from_secs(30);
/// A probe that was not heard of for so long is lost, its lane stopped on the way: another may go.
const PROBE: Duration = Duration::from_secs(15);
/// Who finds a probe on its way looks again after this.
const LOOK: Duration = Duration::from_millis(250);

/// One bot's.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    interval: Duration,
    /// When the next probe may go.
    until: Instant,
}

/// Whether a send may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Like all others.
    Go,
    /// As the one that finds out whether the platform is back.
    Probe,
    /// Not before this.
    Later(Duration),
}

/// What an answer says about the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It works, whatever it thinks of this message.
    Good,
    /// It fails, or takes nothing of this app.
    Bad,
    /// Neither.
    Nothing,
}

impl Word {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Sent { .. } => Self::Good,
            Outcome::Permanent { needs_operator, .. } if !needs_operator => Self::Good,
            Outcome::Permanent { .. } | Outcome::Transient { .. } => Self::Bad,
            Outcome::Limited { .. } | Outcome::Unready { .. } => Self::Nothing,
        }
    }
}

impl Breaker {
    pub(crate) fn ask(&mut self, now: Instant) -> Leave {
        match &mut self.open {
            None => Leave::Go,
            Some(open) if now >= open.until => {
                // Until it is heard of, nobody else goes.
                open.until = now + PROBE;
                Leave::Probe
            }
            Some(open) => Leave::Later(open.until - now).at_least(LOOK),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Hears how a send ended; whether that changed anything. Stragglers of before it opened keep it open, not longer open.
    pub(crate) fn hear(&mut self, word: Word, probe: bool, now: Instant) -> bool {
        match (word, &mut self.open) {
            (Word::Nothing, Some(open)) if probe => {
                open.until = now + open.interval;
                false
            }
            (Word::Nothing, _) => false,
            (Word::Good, open) => {
                self.failures = 0;
                open.take().is_some()
            }
            (Word::Bad, Some(open)) => {
                if probe {
                    open.interval = (open.interval * 2).min(LONGEST);
                    open.until = now + open.interval;
                }
                false
            }
            (Word::Bad, None) => {
                self.failures += 1;
                if self.failures < TRIPS {
                    return false;
                }
                self.open = Some(Open {
                    interval: SHORTEST,
                    until: now + SHORTEST,
                });
                true
            }
        }
    }
}

impl Leave {
    fn at_least(self, shortest: Duration) -> Self {
        match self {
            Self::Later(wait) => Self::Later(wait.max(shortest)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for number in 1..=TRIPS {
            assert_eq!(breaker.hear(Word::Bad, false, now), number == TRIPS);
        }
        breaker
    }

    #[test]
    fn it_opens_after_so_many_failures_in_a_row_and_not_before() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..5 {
            for _ in 1..TRIPS {
                assert!(!breaker.hear(Word::Bad, false, now));
            }
            // A limit is no success.
            assert!(!breaker.hear(Word::Nothing, false, now));
            assert!(!breaker.hear(Word::Good, false, now));
        }
        assert_eq!(breaker.ask(now), Leave::Go);
        assert_eq!(opened(now).ask(now), Leave::Later(SECOND));
    }

    #[test]
    fn one_probe_goes_at_growing_intervals() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for seconds in [1, 2, 4, 8, 16, 30, 30, 30] {
            let wait = seconds * SECOND;
            assert_eq!(breaker.ask(now), Leave::Later(wait));
            now += wait;
            assert_eq!(breaker.ask(now), Leave::Probe);
            assert!(matches!(breaker.ask(now), Leave::Later(_)), "one at a time");
            // Stragglers do not lengthen the wait.
            assert!(!breaker.hear(Word::Bad, false, now));
            assert!(!breaker.hear(Word::Bad, true, now));
        }
        now += 30 * SECOND;
        assert_eq!(breaker.ask(now), Leave::Probe);
        assert!(breaker.hear(Word::Good, true, now), "it closes, once");
        assert!(!breaker.hear(Word::Good, false, now));
        assert_eq!(breaker.ask(now), Leave::Go);
        // And begins anew.
        assert!(!breaker.hear(Word::Bad, false, now));
        assert_eq!(breaker.ask(now), Leave::Go);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_does_not_keep_it_open_for_ever() {
        let now = Instant::now();
        let mut breaker = opened(now);
        assert_eq!(breaker.ask(now + SECOND), Leave::Probe);
        assert_eq!(breaker.ask(now + SECOND + PROBE), Leave::Probe);
        // A limit says nothing about the platform's health: the next one after the same interval.
        assert!(!breaker.hear(Word::Nothing, true, now + SECOND + PROBE));
        assert_eq!(breaker.ask(now + SECOND + PROBE), Leave::Later(SECOND));
    }
}
