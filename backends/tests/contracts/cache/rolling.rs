//! What the platform would see: how many sends in any rolling window.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use openclaw_common::cache::Level;
use tokio::time::Instant;

/// Every send, by level.
#[derive(Default)]
pub(super) struct Platform {
    sends: Mutex<HashMap<String, Vec<Instant>>>,
}

impl Platform {
    pub(super) fn receive(&self, levels: &[Level], sent: Instant) {
        let mut sends = self.sends.lock().unwrap();
        for level in levels {
            sends.entry(level.key.clone()).or_default().push(sent);
        }
    }

    /// Sends of a level from `from` until `until`.
    pub(super) fn count(&self, key: &str, from: Instant, until: Instant) -> usize {
        let sends = self.sends.lock().unwrap();
        let sends = sends.get(key).map_or(&[][..], Vec::as_slice);
        sends.iter().filter(|at| (from..until).contains(at)).count()
    }

    /// The most sends of a level in any rolling second.
    pub(super) fn most_in_a_second(&self, key: &str) -> usize {
        let sends = self.sends.lock().unwrap();
        let times: Vec<Instant> = sends.get(key).cloned().unwrap_or_default();
        most(&times, Duration::from_secs(1))
    }
}

/// The most of `times` in any half-open window. Sorted first: senders log side by side.
pub(super) fn most(times: &[Instant], window: Duration) -> usize {
    let mut times = times.to_vec();
    times.sort();
    let mut oldest = 0;
    let mut most = 0;
    for newest in 0..times.len() {
        while times[newest] - times[oldest] >= window {
            oldest += 1;
        }
        most = most.max(newest - oldest + 1);
    }
    most
}
