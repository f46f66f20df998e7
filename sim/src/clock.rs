//! One monotonic clock for the whole process, so that what the pusher and the ledger write down can be compared.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Microseconds since this process first asked. Never goes back, and knows nothing of the wall clock.
#[must_use]
pub fn monotonic_us() -> u64 {
    micros(START.get_or_init(Instant::now).elapsed())
}

/// A duration in whole microseconds; the longest representable when it is longer than 584,000 years.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
