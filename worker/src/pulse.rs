//! Notices that this process was frozen (SIGSTOP, a suspended machine).
//!
//! A frozen worker loses its bots to a peer and does not know it. Before each send it looks at its pulse; after a gap it
//! sends nothing more in this attachment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A longer gap between two beats means that the process stood still (`docs/design/delivery.md` §4).
const FROZEN: Duration = Duration::from_secs(5);
const BEAT: Duration = Duration::from_millis(250);

/// The process's pulse. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pulse {
    born: Instant,
    last_beat_ms: Arc<AtomicU64>,
    freezes: Arc<AtomicU64>,
}

impl Pulse {
    pub(crate) fn start(tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let pulse = Self {
            born: Instant::now(),
            last_beat_ms: Arc::default(),
            freezes: Arc::default(),
        };
        let beating = pulse.clone();
        tracker.spawn(stop.clone().run_until_cancelled_owned(async move {
            loop {
                beating.look();
                tokio::time::sleep(BEAT).await;
            }
        }));
        pulse
    }

    /// How often the process stood still. Whoever remembers an older number must not send.
    pub(crate) fn freezes(&self) -> u64 {
        self.look();
        self.freezes.load(Ordering::SeqCst)
    }

    /// Counts a freeze if the last beat is too long ago, then beats.
    fn look(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.last_beat_ms.fetch_max(now, Ordering::SeqCst);
        if u128::from(now.saturating_sub(last)) > FROZEN.as_millis() {
            self.freezes.fetch_add(1, Ordering::SeqCst);
            tracing::warn!(
                gap_ms = now - last,
                "this process stood still: what it holds is left to its next owner"
            );
        }
    }
}
