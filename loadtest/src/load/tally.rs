//! What came of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;

/// Answers, counted and timed.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Answers by status; 0: none came.
    pub(crate) answers: BTreeMap<u16, u64>,
    /// Requests written in all, warm-up included.
    pub(crate) pushed: u64,
    /// 200s in all, warm-up included.
    pub(crate) accepted_in_all: u64,
    /// How long was counted.
    pub(crate) lasted: Duration,
    /// Microseconds.
    latencies: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            answers: BTreeMap::new(),
            pushed: 0,
            accepted_in_all: 0,
            lasted: Duration::ZERO,
            latencies: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        })
    }

    pub(crate) fn count(&mut self, status: Option<u16>, latency: Duration) {
        *self.answers.entry(status.unwrap_or(0)).or_default() += 1;
        self.latencies
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Accepted events a second.
    pub(crate) fn rate(&self) -> f64 {
        self.accepted() as f64 / self.lasted.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// 200s that were counted.
    pub(crate) fn accepted(&self) -> u64 {
        self.answers.get(&200).copied().unwrap_or(0)
    }

    /// The latency that this share (0 to 1) of the answers kept to, in milliseconds.
    pub(crate) fn latency_ms(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1_000.0
    }

    /// A figure made of refusals is none.
    pub(crate) fn all_accepted(&self, whose: &str) -> anyhow::Result<()> {
        ensure!(
            !self.answers.is_empty() && self.answers.keys().all(|status| *status == 200),
            "{whose} did not accept everything: answers by status {:?}",
            self.answers
        );
        Ok(())
    }
}
