//! Marks of what is stored, behind the answers: no push waits for one.
//!
//! A mark that is lost costs a duplicate, which the store drops.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::cache::Cache;
use openclaw_common::envelope::EventKey;
use openclaw_common::fail_point::fail_point;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Marks written together at most.
const GROUP: usize = 512;
/// Groups on their way at once: a cache that answers late gets a full one beside the others, because what cannot wait any
/// more is not marked. Smaller ones had better grow.
const BESIDE: usize = 8;
/// Marks that may wait, a third of a second at the highest rate. What comes on top is not marked.
const WAITING: usize = 4096;

/// The way of all marks into the cache: while a group is being written the next one gathers, until it is full.
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
    let mut writing = JoinSet::new();
    let mut group = Vec::new();
    loop {
        if goes(group.len(), writing.len()) {
            writing.spawn(mark(cache.clone(), std::mem::take(&mut group)));
        }
        let room = GROUP - group.len();
        tokio::select! {
            biased;
            Some(_) = writing.join_next() => {}
            taken = waiting.recv_many(&mut group, room), if room > 0 => if taken == 0 { break },
            () = stop.cancelled(), if room > 0 => break,
        }
    }
    // Nothing more comes; all that was gathered is written.
    if !group.is_empty() {
        writing.spawn(mark(cache, group));
    }
    while writing.join_next().await.is_some() {}
}

/// Whether a group of that many marks goes while so many others are on their way.
fn goes(marks: usize, beside: usize) -> bool {
    match marks {
        0 => false,
        GROUP => beside < BESIDE,
        _ => beside == 0,
    }
}

async fn mark(cache: Arc<dyn Cache>, group: Vec<(EventKey, Duration)>) {
    if let Err(error) = cache.finish(&group).await {
        let events = group.len();
        tracing::debug!(%error, events, "stored, but not marked: another process may store them again");
    }
    for (key, _) in group {
        fail_point("I4", &key.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_group_goes_beside_others_and_a_smaller_one_grows_meanwhile() {
        assert!(!goes(0, 0), "nothing waits");
        assert!(goes(1, 0), "a lone mark waits for nobody");
        assert!(!goes(GROUP - 1, 1));
        assert!(goes(GROUP, 1), "what comes on top would soon not be marked");
        assert!(goes(GROUP, BESIDE - 1));
        assert!(!goes(GROUP, BESIDE), "a cache that answers nothing gets no more");
    }
}
