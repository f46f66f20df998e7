//! How urgent a send is while it waits for its slot.

use std::sync::Arc;

use tokio::sync::watch;

use crate::priority::Priority;

/// A send's priority, which may rise while it waits: whoever stands behind it in its chat waits for it as well, and a
/// notification that others overtake would hold up the answer behind it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Urgency(Arc<watch::Sender<Priority>>);

impl Urgency {
    /// Of this priority, for now.
    #[must_use]
    pub fn new(priority: Priority) -> Self {
        Self(Arc::new(watch::Sender::new(priority)))
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Priority {
        *self.0.borrow()
    }

    /// At least as urgent as `priority` from now on.
    pub fn raise(&self, priority: Priority) {
        self.0.send_if_modified(|now| {
            let more = priority < *now;
            *now = priority.min(*now);
            more
        });
    }

    /// Waits until it is more urgent than `priority`.
    pub(super) async fn exceeds(&self, priority: Priority) {
        // The sender lives as long as this handle, so the wait cannot fail.
        drop(self.0.subscribe().wait_for(|now| *now < priority).await);
    }
}
