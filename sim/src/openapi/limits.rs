//! The platform's limits, strict: never more than N admitted calls in any rolling window, measured at arrival.
//!
//! Whether the real windows slide or stand is not published (`docs/design/feishu-protocol.md` §7.1). Sliding is the strictest
//! reading: who passes here passes there. A refused call does not count against the limit that refused it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::rolling::{MINUTE_US, SECOND_US};

/// Below this many keys nothing is swept.
const SWEEP_FLOOR: usize = 10_000;

/// What is enforced; `None` switches a limit off. The defaults are the platform's published figures
/// (`docs/design/feishu-protocol.md` §7.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls of one API by one app in a second: HTTP 429, 99991400.
    pub app_per_second: Option<u32>,
    /// Calls of one API by one app in a minute: HTTP 429, 99991400.
    pub app_per_minute: Option<u32>,
    /// Messages into one group in a second, shared by all bots: HTTP 400, 230020.
    pub chat_per_second: Option<u32>,
    /// Messages to one person in a second: HTTP 400, 230020.
    pub user_per_second: Option<u32>,
    /// Patches of one card in a second: HTTP 400, 230020.
    pub card_per_second: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            app_per_second: Some(50),
            app_per_minute: Some(1000),
            chat_per_second: Some(5),
            user_per_second: Some(5),
            card_per_second: Some(5),
        }
    }
}

impl Limits {
    /// Nothing is refused; the ledger still counts every level.
    #[must_use]
    pub fn off() -> Self {
        Self {
            app_per_second: None,
            app_per_minute: None,
            chat_per_second: None,
            user_per_second: None,
            card_per_second: None,
        }
    }

    pub(crate) fn app_rules(&self) -> [Rule; 2] {
        [
            Rule::new(self.app_per_second, SECOND_US),
            Rule::new(self.app_per_minute, MINUTE_US),
        ]
    }
}

/// At most `limit` calls in any `window_us`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    limit: Option<u32>,
    window_us: u64,
}

impl Rule {
    pub(crate) fn new(limit: Option<u32>, window_us: u64) -> Self {
        Self { limit, window_us }
    }

    pub(crate) fn per_second(limit: Option<u32>) -> Self {
        Self::new(limit, SECOND_US)
    }
}

/// The rule that refused, and when the next call would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) limit: u32,
    pub(crate) reset: Duration,
}

/// Admitted calls by key.
#[derive(Debug, Default)]
pub(crate) struct Windows {
    admitted: HashMap<Arc<str>, VecDeque<u64>>,
    sweep_at: usize,
}

impl Windows {
    /// Whether one more call at `now_us` would pass every rule.
    pub(crate) fn check(&self, key: &str, now_us: u64, rules: &[Rule]) -> Result<(), Full> {
        let admitted = self.admitted.get(key);
        for rule in rules {
            let Some(limit) = rule.limit else { continue };
            let oldest = match (limit, admitted) {
                (0, _) => Some(now_us),
                (_, None) => None,
                // The limit-th newest call: if it is still inside the window, the window is full.
                (_, Some(calls)) => calls
                    .len()
                    .checked_sub(limit as usize)
                    .and_then(|index| calls.get(index))
                    .copied(),
            };
            let Some(oldest) = oldest else { continue };
            let age = now_us.saturating_sub(oldest);
            if age < rule.window_us {
                return Err(Full {
                    limit,
                    reset: Duration::from_micros(rule.window_us - age),
                });
            }
        }
        Ok(())
    }

    /// Counts a call that [`Windows::check`] let pass.
    pub(crate) fn take(&mut self, key: &Arc<str>, now_us: u64, rules: &[Rule]) {
        let Some(window_us) = rules
            .iter()
            .filter(|rule| rule.limit.is_some())
            .map(|rule| rule.window_us)
            .max()
        else {
            return;
        };
        if self.admitted.len() >= self.sweep_at.max(SWEEP_FLOOR) {
            // A key idle for the longest window there is constrains nothing.
            self.admitted.retain(|_, calls| {
                calls
                    .back()
                    .is_some_and(|last| now_us.saturating_sub(*last) < MINUTE_US)
            });
            self.sweep_at = 2 * self.admitted.len();
        }
        let calls = self.admitted.entry(key.clone()).or_default();
        while calls
            .front()
            .is_some_and(|first| now_us.saturating_sub(*first) >= window_us)
        {
            calls.pop_front();
        }
        calls.push_back(now_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [Rule; 2] = [
        Rule {
            limit: Some(5),
            window_us: SECOND_US,
        },
        Rule {
            limit: Some(8),
            window_us: MINUTE_US,
        },
    ];

    fn admit(windows: &mut Windows, now_us: u64) -> Result<(), Full> {
        let key: Arc<str> = "k".into();
        windows.check(&key, now_us, &RULES)?;
        windows.take(&key, now_us, &RULES);
        Ok(())
    }

    #[test]
    fn the_sixth_call_passes_one_window_after_the_first_and_not_a_microsecond_earlier() {
        let mut windows = Windows::default();
        for now_us in 0..5 {
            assert_eq!(admit(&mut windows, now_us), Ok(()));
        }
        let full = Full {
            limit: 5,
            reset: Duration::from_micros(1),
        };
        assert_eq!(admit(&mut windows, SECOND_US - 1), Err(full));
        assert_eq!(admit(&mut windows, SECOND_US), Ok(()));
        // The second call is still inside.
        assert_eq!(admit(&mut windows, SECOND_US), Err(full));
    }

    #[test]
    fn the_longer_window_holds_when_the_shorter_is_free() {
        let mut windows = Windows::default();
        for turn in 0..8 {
            assert_eq!(admit(&mut windows, turn * SECOND_US), Ok(()));
        }
        let full = Full {
            limit: 8,
            reset: Duration::from_secs(50),
        };
        assert_eq!(admit(&mut windows, 10 * SECOND_US), Err(full));
        assert_eq!(admit(&mut windows, MINUTE_US), Ok(()));
    }

    #[test]
    fn a_limit_of_nothing_lets_nothing_pass_and_no_limit_lets_everything() {
        let windows = Windows::default();
        assert!(windows.check("k", 0, &[Rule::per_second(Some(0))]).is_err());
        assert!(windows.check("k", 0, &[Rule::per_second(None)]).is_ok());
    }
}
