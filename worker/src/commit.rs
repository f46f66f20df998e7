//! Group commit: what many lanes want written at the same moment becomes one transaction.
//!
//! While a transaction runs, the next batch gathers; a lone change is written at once. When more run beside each other is
//! [`Pace`]'s to say.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use openclaw_common::store::{Arrival, Begun, Change, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use pace::{Next, Pace, Took};

/// Rows with which a transaction is full: above it, latency grows and throughput does not (`docs/design/delivery.md` §11).
const MAX_BATCH: usize = 500;
/// Submissions waiting for their batch; beyond it submitters wait, which stops consumption.
const MAX_WAITING: usize = 4096;
/// Between two tries while the database cannot be reached.
const RETRY: Duration = Duration::from_millis(250);
/// A fail-over is over by then (recovery in `docs/performance.md`): what lasts longer is an operator's.
const PATIENCE: Duration = Duration::from_secs(5);

/// Gathers what is to be committed to a [`Store`] into batches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Commits {
    begin: mpsc::Sender<Submission<Arrival, Begun>>,
    apply: mpsc::Sender<Submission<Change, bool>>,
    reachable: Arc<watch::Sender<Words>>,
}

/// The last word of each source. One that can read says nothing about one that cannot write.
#[derive(Clone, Debug, Default)]
struct Words {
    failed: [bool; 3],
    /// Since when each batch that has no answer yet is on its way.
    unanswered: Vec<Instant>,
    /// Since when not all is well, and whether the operator was told.
    trouble: Option<(Instant, bool)>,
}

impl Words {
    fn good(&self) -> bool {
        self.failed.iter().all(|failed| !failed)
    }
}

/// A batch is on its way until this is dropped.
struct OnItsWay<'a> {
    words: &'a watch::Sender<Words>,
    begun: Instant,
}

impl<'a> OnItsWay<'a> {
    fn begin(words: &'a watch::Sender<Words>) -> Self {
        let begun = Instant::now();
        // Nobody is woken: who wants to know looks now and then.
        words.send_if_modified(|words| {
            words.unanswered.push(begun);
            false
        });
        Self { words, begun }
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.words.send_if_modified(|words| {
            if let Some(place) = words.unanswered.iter().position(|begun| *begun == self.begun) {
                words.unanswered.swap_remove(place);
            }
            false
        });
    }
}

/// The kinds of calls of the database: each notes whether its last one was answered.
#[derive(Clone, Copy)]
enum Call {
    Begin,
    Apply,
    Poll,
}

/// A commit did not take place: the process is stopping, or the database refuses the row for good.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Hard stop: whatever was submitted is found again by the next owner.
    #[error("stopped before the commit")]
    Stopped,
    /// Our fault; repeating it is useless.
    #[error(transparent)]
    Refused(StoreError),
}

struct Submission<T, R> {
    items: Vec<T>,
    answer: oneshot::Sender<Result<Vec<R>, StoreError>>,
}

impl Commits {
    /// Starts the two batching loops. `stop` ends them hard: pending submissions answer [`CommitError::Stopped`].
    pub(crate) fn start(store: Arc<dyn Store>, tracker: &TaskTracker, stop: &CancellationToken) -> Self {
        let (begin, begin_queue) = mpsc::channel(MAX_WAITING);
        let (apply, apply_queue) = mpsc::channel(MAX_WAITING);
        let reachable = Arc::new(watch::Sender::new(Words::default()));
        let begin_store = store.clone();
        // There are two kinds, and as many writers are left for whoever looks into the waiting room.
        let most = store.writers() / 4;
        tracker.spawn(stop.clone().run_until_cancelled_owned(batches(
            begin_queue,
            Pace::new(most),
            reachable.clone(),
            Call::Begin,
            move |items| {
                let store = begin_store.clone();
                async move { store.begin(&items).await }
            },
        )));
        tracker.spawn(stop.clone().run_until_cancelled_owned(batches(
            apply_queue,
            Pace::new(most),
            reachable.clone(),
            Call::Apply,
            move |items| {
                let store = store.clone();
                async move { store.apply(&items).await }
            },
        )));
        Self {
            begin,
            apply,
            reachable,
        }
    }

    /// Returns once a batch has waited for the database's answer for `patience`, not counting time before this call.
    pub(crate) async fn stuck(&self, patience: Duration) {
        let since = Instant::now();
        loop {
            let oldest = self.reachable.borrow().unanswered.iter().min().copied();
            let waited = oldest.map_or(Duration::ZERO, |begun| begun.max(since).elapsed());
            if waited >= patience {
                return;
            }
            tokio::time::sleep((patience - waited).min(RETRY)).await;
        }
    }

    /// Takes up deliveries; waits as long as the database is away.
    pub(crate) async fn begin(&self, arrivals: Vec<Arrival>) -> Result<Vec<Begun>, CommitError> {
        submit(&self.begin, arrivals).await
    }

    /// Applies one change; waits as long as the database is away. `false`: the row has another owner by now.
    pub(crate) async fn apply(&self, change: Change) -> Result<bool, CommitError> {
        let answers = submit(&self.apply, vec![change]).await?;
        answers.first().copied().ok_or(CommitError::Stopped)
    }

    /// Waits until the last word from the database was a good one. Nothing is sent before: what cannot be recorded must
    /// not happen.
    pub(crate) async fn reachable(&self) {
        // The sender lives as long as this handle, so the wait cannot fail.
        drop(self.reachable.subscribe().wait_for(Words::good).await);
    }

    /// Takes note of what somebody else heard from the database.
    pub(crate) fn heard(&self, word: Result<(), StoreError>) {
        note(&self.reachable, Call::Poll, word.as_ref().err());
    }

    /// Whether the last word from the database was a good one.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable.borrow().good()
    }
}

/// Remembers a word from the database and says once when all is well, or no longer.
fn note(reachable: &watch::Sender<Words>, call: Call, error: Option<&StoreError>) {
    reachable.send_if_modified(|words| {
        let before = words.good();
        words.failed[call as usize] = error.is_some();
        match (words.trouble, error) {
            (None, Some(error)) => {
                tracing::warn!(%error, "the database is away: nothing is sent until it is back");
                words.trouble = Some((Instant::now(), false));
            }
            (Some((since, false)), Some(error)) if since.elapsed() > PATIENCE => {
                tracing::error!(%error, "the database stays away: nothing is sent until it is back");
                words.trouble = Some((since, true));
            }
            (Some(_), _) if words.good() => {
                tracing::info!("the database is back");
                words.trouble = None;
            }
            _ => {}
        }
        before != words.good()
    });
}

async fn submit<T, R>(queue: &mpsc::Sender<Submission<T, R>>, items: Vec<T>) -> Result<Vec<R>, CommitError> {
    let (answer, answered) = oneshot::channel();
    queue
        .send(Submission { items, answer })
        .await
        .map_err(|_| CommitError::Stopped)?;
    answered
        .await
        .map_err(|_| CommitError::Stopped)?
        .map_err(CommitError::Refused)
}

/// Where a loop's words go.
type Told<'a> = (&'a watch::Sender<Words>, Call);

/// Gathers batches and writes them. Their order does not matter: an event's next change is submitted after the answer to its
/// last, and of two owners' the fence picks one. Rows get their positions when they are begun, and a bot has one such
/// submission on its way at a time.
async fn batches<T, R, F, W>(
    mut queue: mpsc::Receiver<Submission<T, R>>,
    mut pace: Pace,
    reachable: Arc<watch::Sender<Words>>,
    call: Call,
    write: W,
) where
    T: Clone,
    F: Future<Output = Result<Vec<R>, StoreError>>,
    W: Fn(Vec<T>) -> F,
{
    let mut writing = FuturesUnordered::new();
    let (mut batch, mut rows) = (Vec::new(), 0);
    loop {
        let next = pace.next(rows, Instant::now());
        if next == Next::Begin {
            rows = 0;
            pace.begins(Instant::now());
            writing.push(commit(std::mem::take(&mut batch), (&*reachable, call), &write));
            continue;
        }
        tokio::select! {
            biased;
            Some(took) = writing.next() => pace.ended(took),
            next = queue.recv(), if rows < MAX_BATCH => {
                let Some(next) = next else { break };
                rows += next.items.len();
                batch.push(next);
                while rows < MAX_BATCH
                    && let Ok(next) = queue.try_recv()
                {
                    rows += next.items.len();
                    batch.push(next);
                }
            }
            () = until(next) => {}
        }
    }
    // Nobody submits any more; what was submitted is still written.
    if rows > 0 {
        writing.push(commit(batch, (&*reachable, call), &write));
    }
    while writing.next().await.is_some() {}
}

/// Until the batch may begin, if that is a matter of time.
async fn until(next: Next) {
    match next {
        Next::At(at) => sleep_until(at).await,
        Next::Begin | Next::Gather => std::future::pending().await,
    }
}

/// Writes one batch and says what that took. A batch that the database refuses is split, so that one bad row harms nobody
/// else's.
async fn commit<T, R, F, W>(batch: Vec<Submission<T, R>>, told: Told<'_>, write: &W) -> Option<Took>
where
    T: Clone,
    F: Future<Output = Result<Vec<R>, StoreError>>,
    W: Fn(Vec<T>) -> F,
{
    let items: Vec<T> = batch
        .iter()
        .flat_map(|submission| submission.items.iter().cloned())
        .collect();
    let rows = items.len();
    let on_its_way = OnItsWay::begin(told.0);
    let answered = until_reachable(items, told, write).await;
    drop(on_its_way);
    match answered {
        Ok((answers, time)) => {
            let mut answers = answers.into_iter();
            for submission in batch {
                let own = answers.by_ref().take(submission.items.len()).collect();
                // A submitter that has gone (its attachment ended) finds the row again through its next owner.
                drop(submission.answer.send(Ok(own)));
            }
            Some(Took { rows, time })
        }
        Err(error) if batch.len() == 1 => {
            tracing::error!(%error, "the database refuses a row");
            for submission in batch {
                drop(submission.answer.send(Err(error.clone())));
            }
            None
        }
        Err(_) => {
            for submission in batch {
                Box::pin(commit(vec![submission], told, write)).await;
            }
            None
        }
    }
}

/// The answers, and how long the write took that gave them.
async fn until_reachable<T, R, F, W>(items: Vec<T>, told: Told<'_>, write: &W) -> Result<(Vec<R>, Duration), StoreError>
where
    T: Clone,
    F: Future<Output = Result<Vec<R>, StoreError>>,
    W: Fn(Vec<T>) -> F,
{
    loop {
        let begun = Instant::now();
        match write(items.clone()).await {
            Err(error @ (StoreError::Unavailable(_) | StoreError::ReadOnly | StoreError::Schema { .. })) => {
                note(told.0, told.1, Some(&error));
                tokio::time::sleep(RETRY).await;
            }
            other => {
                note(told.0, told.1, None);
                return other.map(|answers| (answers, begun.elapsed()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// A change each millisecond for a second, to a database whose commits take `time`: the most that were written beside each
    /// other, and how long the latter half waited on average.
    async fn written(time: Duration) -> (usize, Duration) {
        let (changes, queue) = mpsc::channel(MAX_WAITING);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (begins, top) = (running.clone(), most.clone());
        let write = move |items: Vec<u32>| {
            let (running, most) = (begins.clone(), top.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(time).await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(items)
            }
        };
        let reachable = Arc::new(watch::Sender::new(Words::default()));
        let loops = tokio::spawn(batches(queue, Pace::new(4), reachable, Call::Apply, write));
        let mut submitters = tokio::task::JoinSet::new();
        for change in 0..1000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let changes = changes.clone();
            submitters.spawn(async move {
                let begun = Instant::now();
                assert_eq!(
                    submit(&changes, vec![change]).await.unwrap(),
                    [change],
                    "each gets its own answer"
                );
                (change, begun.elapsed())
            });
        }
        let waits = submitters.join_all().await;
        drop(changes);
        loops.await.unwrap();
        let waits = waits.iter().filter(|(change, _)| *change >= 500).map(|(_, wait)| *wait);
        (most.load(Ordering::SeqCst), waits.sum::<Duration>() / 500)
    }

    #[tokio::test(start_paused = true)]
    async fn where_commits_are_slow_changes_wait_little_more_than_their_own() {
        let (most, wait) = written(Duration::from_millis(12)).await;
        assert_eq!(most, 4);
        assert!(wait < Duration::from_millis(15), "{wait:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_commits_are_quick_one_follows_another() {
        let (most, _) = written(Duration::from_millis(3)).await;
        assert_eq!(most, 1);
    }
}
