//! Group commit: publishes and acknowledgements that wait at the same time share one transaction, so one write to disk.
//! There is no linger: while one transaction is written, the next one gathers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::QueryBuilder;
use sqlx::sqlite::{Sqlite, SqlitePool};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::codec;
use super::reader::Dispatchers;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::Envelope;
use openclaw_common::queue::PublishError;

/// Most publishes in one transaction: bounds how long one publish can hold up another.
const BATCH: usize = 512;

/// Most acknowledgements in one transaction.
const DELETE_BATCH: usize = 4096;

/// Publishes that may wait for their transaction. What comes on top is refused at once.
const WAITING: usize = 4096;

/// Rows of one INSERT. Few sizes, so that each statement is prepared once.
const ROWS: [usize; 3] = [64, 8, 1];

/// Wait before acknowledgements that could not be written are tried again.
const RETRY: Duration = Duration::from_millis(100);

/// A disk that was busy is not by then.
const PATIENCE: Duration = Duration::from_secs(5);

struct Job {
    bot: BotId,
    blob: Vec<u8>,
    answer: oneshot::Sender<Result<(), PublishError>>,
}

enum Delete {
    Row(i64),
    /// Answered when every row before it is gone.
    Fence(oneshot::Sender<()>),
}

/// Where publishes go.
#[derive(Debug)]
pub(super) struct Publishes {
    jobs: mpsc::Sender<Job>,
    deletes: Deletes,
}

impl Publishes {
    /// Stores one event; returns when it is on disk.
    pub(super) async fn publish(&self, envelope: Arc<Envelope>) -> Result<(), PublishError> {
        let blob = codec::encode(&envelope).map_err(PublishError::Refused)?;
        let (answer, answered) = oneshot::channel();
        let bot = envelope.bot.clone();
        self.jobs.try_send(Job { bot, blob, answer }).map_err(|error| {
            PublishError::Refused(match error {
                mpsc::error::TrySendError::Full(_) => format!("{WAITING} publishes are waiting already"),
                mpsc::error::TrySendError::Closed(_) => "closed".to_owned(),
            })
        })?;
        answered
            .await
            .unwrap_or_else(|_| Err(PublishError::Unknown("the queue ended before the commit".to_owned())))
    }

    /// Where acknowledgements go.
    pub(super) fn deletes(&self) -> Deletes {
        self.deletes.clone()
    }
}

/// Where acknowledgements go. Unbounded so that acknowledging never blocks; holds at most what all consumers have out.
#[derive(Clone, Debug)]
pub(super) struct Deletes(mpsc::UnboundedSender<Delete>);

impl Deletes {
    /// Deletes a row soon. Without a writer (closed) the row comes again.
    pub(super) fn row(&self, id: i64) {
        self.0.send(Delete::Row(id)).ok();
    }

    /// Waits until every row passed to [`Deletes::row`] before is gone. A writer that is gone deletes nothing any more.
    pub(super) async fn settled(&self) {
        let (fence, reached) = oneshot::channel();
        if self.0.send(Delete::Fence(fence)).is_ok() {
            reached.await.ok();
        }
    }
}

/// The one task that writes the table.
pub(super) struct Writer {
    pool: SqlitePool,
    dispatchers: Arc<Dispatchers>,
    stop: CancellationToken,
    jobs: mpsc::Receiver<Job>,
    deletes: mpsc::UnboundedReceiver<Delete>,
    /// Taken from `deletes` and not committed yet.
    rows: Vec<i64>,
    fences: Vec<oneshot::Sender<()>>,
    /// Since when nothing can be written, and whether the operator was told.
    failing: Option<(Instant, bool)>,
}

/// Where a transaction failed.
enum Failure {
    /// It was never committed.
    Before(sqlx::Error),
    /// Whether it is on disk is not known.
    AtCommit(sqlx::Error),
}

impl Writer {
    /// The task, and where to send it work.
    pub(super) fn new(pool: SqlitePool, dispatchers: Arc<Dispatchers>, stop: CancellationToken) -> (Publishes, Self) {
        let (job_sender, jobs) = mpsc::channel(WAITING);
        let (delete_sender, deletes) = mpsc::unbounded_channel();
        let publishes = Publishes {
            jobs: job_sender,
            deletes: Deletes(delete_sender),
        };
        let writer = Self {
            pool,
            dispatchers,
            stop,
            jobs,
            deletes,
            rows: Vec::new(),
            fences: Vec::new(),
            failing: None,
        };
        (publishes, writer)
    }

    /// Writes until told to stop, then writes what still waits.
    pub(super) async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        let mut deletes = Vec::new();
        loop {
            let room = DELETE_BATCH.saturating_sub(self.rows.len());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                taken = self.jobs.recv_many(&mut jobs, BATCH) => if taken == 0 { break },
                taken = self.deletes.recv_many(&mut deletes, room), if room > 0 => if taken == 0 { break },
                () = tokio::time::sleep(RETRY), if !self.rows.is_empty() => {}
            }
            while jobs.len() < BATCH
                && let Ok(job) = self.jobs.try_recv()
            {
                jobs.push(job);
            }
            self.take(deletes.drain(..));
            self.gather_deletes();
            self.commit(&mut jobs).await;
        }
        self.jobs.close();
        self.deletes.close();
        loop {
            while jobs.len() < BATCH
                && let Some(job) = self.jobs.recv().await
            {
                jobs.push(job);
            }
            self.gather_deletes();
            if jobs.is_empty() && self.rows.is_empty() && self.fences.is_empty() {
                break;
            }
            let before = self.rows.len();
            self.commit(&mut jobs).await;
            if before > 0 && self.rows.len() >= before {
                tracing::warn!(
                    rows = before,
                    "acknowledgements could not be written; their events come again"
                );
                break;
            }
        }
    }

    fn take(&mut self, deletes: impl Iterator<Item = Delete>) {
        for delete in deletes {
            match delete {
                Delete::Row(id) => self.rows.push(id),
                Delete::Fence(fence) => self.fences.push(fence),
            }
        }
    }

    fn gather_deletes(&mut self) {
        while self.rows.len() < DELETE_BATCH
            && let Ok(delete) = self.deletes.try_recv()
        {
            self.take(std::iter::once(delete));
        }
    }

    /// Writes one transaction and tells everybody who waits for it.
    async fn commit(&mut self, jobs: &mut Vec<Job>) {
        // A caller that gave up before its turn has nothing to lose: not writing is certainly no copy.
        jobs.retain(|job| !job.answer.is_closed());
        let result = self.write(jobs).await;
        if let Err(Failure::Before(error) | Failure::AtCommit(error)) = &result {
            self.say_failing(error);
            // A publish that the disk refuses must not keep acknowledgements from it, which make room.
            if !jobs.is_empty() && self.write(&[]).await.is_ok() {
                self.settle();
            }
        } else {
            self.failing = None;
            self.settle();
        }
        let bots: HashSet<BotId> = jobs.iter().map(|job| job.bot.clone()).collect();
        for job in jobs.drain(..) {
            let answer = match &result {
                Ok(()) => Ok(()),
                Err(Failure::Before(error)) => Err(PublishError::Refused(error.to_string())),
                Err(Failure::AtCommit(error)) => Err(PublishError::Unknown(error.to_string())),
            };
            job.answer.send(answer).ok();
        }
        for bot in bots {
            if let Some(dispatcher) = self.dispatchers.get(&bot) {
                dispatcher.published();
            }
        }
    }

    /// Said once when it begins, and once when it does not pass by itself; not with every try.
    fn say_failing(&mut self, error: &sqlx::Error) {
        match self.failing {
            None => {
                tracing::warn!(%error, "the queue's table cannot be written; trying again");
                self.failing = Some((Instant::now(), false));
            }
            Some((since, false)) if since.elapsed() > PATIENCE => {
                tracing::error!(%error, "the queue's table cannot be written: events are refused until it can");
                self.failing = Some((since, true));
            }
            Some(_) => {}
        }
    }

    /// What was to be deleted is gone.
    fn settle(&mut self) {
        self.rows.clear();
        for fence in self.fences.drain(..) {
            fence.send(()).ok();
        }
    }

    async fn write(&self, jobs: &[Job]) -> Result<(), Failure> {
        if jobs.is_empty() && self.rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool.begin().await.map_err(Failure::Before)?;
        let mut rest = jobs;
        while let Some(size) = ROWS.into_iter().find(|size| *size <= rest.len()) {
            let (rows, later) = rest.split_at(size);
            let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO queue (bot, envelope) ");
            insert.push_values(rows, |mut row, job| {
                row.push_bind(job.bot.as_str()).push_bind(job.blob.as_slice());
            });
            insert
                .build()
                .execute(&mut *transaction)
                .await
                .map_err(Failure::Before)?;
            rest = later;
        }
        if !self.rows.is_empty() {
            let ids = serde_json::Value::from(self.rows.as_slice()).to_string();
            sqlx::query("DELETE FROM queue WHERE id IN (SELECT value FROM json_each(?))")
                .bind(ids)
                .execute(&mut *transaction)
                .await
                .map_err(Failure::Before)?;
        }
        transaction.commit().await.map_err(Failure::AtCommit)
    }
}
