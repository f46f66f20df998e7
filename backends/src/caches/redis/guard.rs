//! How late a send may be: as short as the way to Redis allows.

use std::sync::Mutex;
use std::time::Duration;

use openclaw_common::quota::{LATE_GUARD, WIDEST_GUARD};

/// Answers looked at before the guard is judged.
const SAMPLE: u32 = 128;
/// Slow ones among them that widen it: 3 %, well before senders begin to take every slot twice.
const SLOW: u32 = 4;
/// Samples without a slow answer before it is narrowed again.
const CALM: u32 = 8;

/// Watches round trips. A send that waits longer for its answer than the guard can never be in time, so the guard doubles
/// when too many answers take more than half of it, and halves when all stay far below it.
#[derive(Debug)]
pub(super) struct Guard(Mutex<Watch>);

#[derive(Debug)]
struct Watch {
    guard: Duration,
    seen: u32,
    slow: u32,
    slowest: Duration,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Watch::new(LATE_GUARD)))
    }

    /// How late a send may be now.
    pub(super) fn now(&self) -> Duration {
        self.lock().guard
    }

    /// Notes how long an answer took.
    pub(super) fn saw(&self, round_trip: Duration) {
        let mut watch = self.lock();
        watch.seen += 1;
        watch.slowest = watch.slowest.max(round_trip);
        if round_trip > watch.guard / 2 {
            watch.slow += 1;
        }
        let guard = if watch.slow >= SLOW {
            (watch.guard * 2).min(WIDEST_GUARD)
        } else if watch.seen >= SAMPLE * CALM && watch.slowest < watch.guard / 8 {
            (watch.guard / 2).max(LATE_GUARD)
        } else if watch.seen >= SAMPLE * CALM {
            watch.guard
        } else {
            if watch.seen.is_multiple_of(SAMPLE) {
                watch.slow = 0;
            }
            return;
        };
        if guard != watch.guard {
            tracing::info!(
                guard_ms = guard.as_millis(),
                round_trip_ms = watch.slowest.as_millis(),
                "the way to Redis changed: sends keep another distance"
            );
        }
        *watch = Watch::new(guard);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watch> {
        // Nothing panics while it is held, and a half-made estimate would still be one.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Watch {
    fn new(guard: Duration) -> Self {
        Self {
            guard,
            seen: 0,
            slow: 0,
            slowest: Duration::ZERO,
        }
    }
}
