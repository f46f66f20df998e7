//! Queues that may end the connection of whoever consumes from them.
//!
//! RabbitMQ ends the whole connection when a consumer attaches to a quorum queue without a leader (most of its members are
//! away). One such queue would cut off every bot of the process, again at each try. So after the first time it is tried on a
//! connection apart, until that goes well.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// Connections apart at a time: whoever attached while the connection ended is a suspect too.
const APART: usize = 16;

/// Outlives the connections.
#[derive(Debug)]
pub(super) struct Suspects {
    queues: Mutex<HashSet<String>>,
    pub(super) apart: Semaphore,
}

impl Default for Suspects {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
            apart: Semaphore::new(APART),
        }
    }
}

impl Suspects {
    pub(super) fn holds(&self, queue: &str) -> bool {
        self.lock().contains(queue)
    }

    /// Whether it is a new one.
    pub(super) fn add(&self, queue: &str) -> bool {
        self.lock().insert(queue.to_owned())
    }

    pub(super) fn clear(&self, queue: &str) {
        self.lock().remove(queue);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
