//! The one settled delivery that a busy bot leaves unacknowledged.
//!
//! The broker tells nobody that it has become the active consumer; it only delivers. When a worker dies whose work lies in
//! the waiting room alone, its standby would hear nothing and wait for the membership to expire. So the last delivery that
//! is done with is acknowledged only when the next one is, or when the bot has nothing to do: until then the broker has
//! something to hand to the standby at the moment the link goes. Its row is committed, so there it is merely dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::queue::Receipt;

/// With the minute between two looks this stays well below the broker's patience with a consumer (30 minutes).
const LONGEST: Duration = Duration::from_secs(4 * 60);

/// Shared by an attachment and its events' tasks.
#[derive(Clone, Default)]
pub(crate) struct Anchor(Arc<Mutex<Option<(Instant, Receipt)>>>);

impl Anchor {
    /// A delivery whose row is committed: it becomes the anchor, and the one before it is acknowledged.
    pub(crate) fn settle(&self, receipt: Receipt) {
        self.replace(Some((Instant::now(), receipt)));
    }

    /// Lets go of what is held for nothing, or for too long.
    pub(crate) fn tend(&self, busy: bool) {
        let is_old = |(since, _): &(Instant, Receipt)| since.elapsed() > LONGEST;
        if !busy || self.lock().as_ref().is_some_and(is_old) {
            self.replace(None);
        }
    }

    fn replace(&self, next: Option<(Instant, Receipt)>) {
        let last = std::mem::replace(&mut *self.lock(), next);
        if let Some((_, receipt)) = last {
            receipt.ack();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Receipt)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_last_settled_delivery_stays_out_until_the_next_one_is_settled_or_nothing_is_left_to_do() {
        let (anchor, acknowledged) = (Anchor::default(), Arc::new(AtomicU32::new(0)));
        let delivery = || {
            let acknowledged = acknowledged.clone();
            Receipt::new(move || {
                acknowledged.fetch_add(1, Ordering::SeqCst);
            })
        };
        anchor.settle(delivery());
        anchor.tend(true);
        assert_eq!(acknowledged.load(Ordering::SeqCst), 0);
        anchor.settle(delivery());
        assert_eq!(acknowledged.load(Ordering::SeqCst), 1);
        anchor.tend(false);
        assert_eq!(acknowledged.load(Ordering::SeqCst), 2);
    }
}
