//! The only place that reads the wall clock.
//!
//! Wall time is for people (logs, `received_at`) and for nothing else: due times use the database's clock, quotas use
//! Redis's clock, waits use [`std::time::Instant`]. A machine whose clock is an hour off must not change behaviour.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch by this machine's clock; 0 before 1970.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place")]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
