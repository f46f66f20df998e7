//! Waits between retries and reconnects: the only module that touches the `backoff` crate.
//!
//! The crate is the owner's choice and unmaintained (RUSTSEC-2025-0012). Only its interval arithmetic is used; nothing of
//! it shows in a signature, so replacing it means replacing this file.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;

use crate::config::RetryPolicy;

/// How far a retry's wait may lie from the plan, as a fraction of it (`message.retry_policy`).
const RETRY_JITTER: f64 = 0.1;

/// The wait after try number `attempt` (the first try is 1): `backoff * multiplier^(attempt-1)` with 10 % jitter, never
/// longer than `max_backoff`.
#[must_use]
pub fn delay(policy: &RetryPolicy, attempt: u32) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let planned = policy.backoff.as_secs_f64() * policy.multiplier.powi(exponent);
    // Out of range (or not a number) means the growth has left every sensible wait behind.
    let planned = Duration::try_from_secs_f64(planned).unwrap_or(policy.max_backoff);
    let mut interval = ExponentialBackoffBuilder::new()
        .with_initial_interval(planned.min(policy.max_backoff))
        .with_randomization_factor(RETRY_JITTER)
        .with_max_elapsed_time(None)
        .build();
    next(&mut interval).min(policy.max_backoff)
}

/// The waits of a client that reconnects for ever: full jitter, so that a restarted server is not met by every client at
/// once, growing from `shortest` to `longest`.
#[derive(Debug)]
pub struct Reconnect {
    interval: ExponentialBackoff,
    shortest: Duration,
}

impl Reconnect {
    /// Waits are spread evenly between `shortest` and a bound that doubles with each wait, up to `longest`.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration) -> Self {
        // A factor of 1 spreads an interval over [0, 2 x interval]: half the longest wait is the largest interval.
        let interval = ExponentialBackoffBuilder::new()
            .with_initial_interval(shortest)
            .with_multiplier(2.0)
            .with_max_interval(longest / 2)
            .with_randomization_factor(1.0)
            .with_max_elapsed_time(None)
            .build();
        Self { interval, shortest }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        next(&mut self.interval).max(self.shortest)
    }

    /// Starts over, after a connection came up.
    pub fn reset(&mut self) {
        self.interval.reset();
    }
}

/// Without a longest elapsed time the crate always has a next interval; its own upper bound stands in for the impossible.
fn next(interval: &mut ExponentialBackoff) -> Duration {
    interval.next_backoff().unwrap_or(interval.max_interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(backoff_ms: u64, multiplier: f64, max_backoff_ms: u64) -> RetryPolicy {
        RetryPolicy {
            max_attempts: 8,
            backoff: Duration::from_millis(backoff_ms),
            multiplier,
            max_backoff: Duration::from_millis(max_backoff_ms),
        }
    }

    #[test]
    fn each_wait_is_the_planned_one_within_ten_percent() {
        let policy = policy(500, 5.0, 30 * 60 * 1000);
        for (attempt, planned_ms) in [(1, 500.0), (2, 2_500.0), (3, 12_500.0), (4, 62_500.0), (5, 312_500.0)] {
            for _ in 0..200 {
                let waited = delay(&policy, attempt).as_secs_f64() * 1000.0;
                assert!(
                    (waited - planned_ms).abs() <= planned_ms * 0.1 + 0.001,
                    "try {attempt} waited {waited} ms instead of about {planned_ms} ms"
                );
            }
        }
    }

    #[test]
    fn waits_differ_so_that_clients_do_not_march_in_step() {
        let policy = policy(500, 5.0, 30 * 60 * 1000);
        let waits: std::collections::HashSet<Duration> = (0..50).map(|_| delay(&policy, 3)).collect();
        assert!(waits.len() > 40, "only {} different waits of 50", waits.len());
    }

    #[test]
    fn no_wait_exceeds_the_longest_even_where_the_arithmetic_overflows() {
        let policy = policy(500, 5.0, 60_000);
        for attempt in [5, 50, 500, u32::MAX] {
            let waited = delay(&policy, attempt);
            assert!(waited <= Duration::from_secs(60), "try {attempt} waited {waited:?}");
            assert!(waited >= Duration::from_secs(54), "try {attempt} waited {waited:?}");
        }
    }

    #[test]
    fn reconnect_waits_stay_between_shortest_and_longest_and_start_over_after_success() {
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_millis(1500));
        let mut reconnect = Reconnect::new(shortest, longest);
        let waits: Vec<Duration> = (0..200).map(|_| reconnect.wait()).collect();
        assert!(
            waits.iter().all(|wait| (shortest..=longest).contains(wait)),
            "{waits:?}"
        );
        assert!(waits.iter().any(|wait| *wait > longest / 2), "the waits never grow");
        reconnect.reset();
        assert!(reconnect.wait() <= shortest * 2);
    }
}
