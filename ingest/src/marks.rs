//! Marks of what is stored, behind the answers: no push waits for one.
//!
//! A mark that is lost costs a duplicate, which the store drops.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::cache::Cache;
use openclaw_common::envelope::EventKey;
use openclaw_common::fail_point::fail_point;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Marks written together at most.
const GROUP: usize = 512;
/// Marks that may wait, a third of a second at the highest rate. What comes on top is not marked.
const WAITING: usize = 4096;

/// The way of all marks into the cache: while a group is being written the next one gathers.
pub(crate) struct Marks {
    waiting: mpsc::Sender<(EventKey, Duration)>,
    stop: CancellationToken,
    task: TaskTracker,
}

impl Marks {
    /// Within a Tokio runtime.
    pub(crate) fn new(cache: Arc<dyn Cache>) -> Self {
        let (waiting, marks) = mpsc::channel(WAITING);
        let (stop, task) = (CancellationToken::new(), TaskTracker::new());
        task.spawn(write(cache, marks, stop.clone()));
        task.close();
        Self { waiting, stop, task }
    }

    /// Marks an event done for `time`, soon.
    pub(crate) fn add(&self, key: EventKey, time: Duration) {
        if let Err(error) = self.waiting.try_send((key, time)) {
            tracing::debug!(%error, "stored, but not marked: another process may store it again");
        }
    }

    /// Writes what still waits.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

async fn write(cache: Arc<dyn Cache>, mut waiting: mpsc::Receiver<(EventKey, Duration)>, stop: CancellationToken) {
    let mut group = Vec::with_capacity(GROUP);
    loop {
        let taken = tokio::select! {
            biased;
            taken = waiting.recv_many(&mut group, GROUP) => taken,
            () = stop.cancelled() => 0,
        };
        if taken == 0 {
            return;
        }
        if let Err(error) = cache.finish(&group).await {
            tracing::debug!(%error, events = taken, "stored, but not marked: another process may store them again");
        }
        group.drain(..).for_each(|(key, _)| fail_point("I4", &key.key));
    }
}
