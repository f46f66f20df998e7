//! How urgent a send is while it waits for its slot, and whether it waits because it was told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use crate::priority::Priority;

/// A send's priority, which may rise while it waits: whoever stands behind it in its chat waits for it as well, and a
/// notification that others overtake would hold up the answer behind it. Clones are the same one.
///
/// Also whether it was **told to wait**: by a limit, a pause of the platform, a retry. What is late for want of processor or
/// disk was told nothing, so nobody who asks this does more work because there is little time.
#[derive(Clone, Debug)]
pub struct Urgency {
    priority: Arc<watch::Sender<Priority>>,
    told: Arc<AtomicUsize>,
}

/// A wait that a send was told; over when dropped.
#[derive(Debug)]
pub struct ToldToWait(Arc<AtomicUsize>);

impl Drop for ToldToWait {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Urgency {
    /// Of this priority, for now.
    #[must_use]
    pub fn new(priority: Priority) -> Self {
        Self {
            priority: Arc::new(watch::Sender::new(priority)),
            told: Arc::default(),
        }
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Priority {
        *self.priority.borrow()
    }

    /// At least as urgent as `priority` from now on.
    pub fn raise(&self, priority: Priority) {
        self.priority.send_if_modified(|now| {
            let more = priority < *now;
            *now = priority.min(*now);
            more
        });
    }

    /// It is told to wait, until the answer is dropped.
    #[must_use]
    pub fn told_to_wait(&self) -> ToldToWait {
        self.told.fetch_add(1, Ordering::Relaxed);
        ToldToWait(self.told.clone())
    }

    /// Whether it waits because it was told to.
    #[must_use]
    pub fn was_told_to_wait(&self) -> bool {
        self.told.load(Ordering::Relaxed) > 0
    }

    /// Waits until it is more urgent than `priority`.
    pub(super) async fn exceeds(&self, priority: Priority) {
        // The sender lives as long as this handle, so the wait cannot fail.
        drop(self.priority.subscribe().wait_for(|now| *now < priority).await);
    }
}
