//! The embedded queue: one table of the SQLite file, one task that writes it, one that reads it for each consumer.
//!
//! | file | job |
//! |---|---|
//! | `writer` | group commit: what waits to be stored or deleted is one transaction |
//! | `reader` | hands rows to the one active consumer of a bot |
//! | `codec` | envelope to row and back |
//!
//! The file belongs to this process alone (its folder is locked), so wake-ups stay in the process.

mod codec;
mod reader;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{poll_immediate, ready};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::reader::{Dispatcher, Dispatchers, Reader, Turn};
use self::writer::{Publishes, Writer};
use crate::sqlite::Sqlite;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::Envelope;
use openclaw_common::queue::{Deliveries, Detach, Link, Places, PublishError, Queue, QueueError, Source};

/// Longest wait for a publish to be on disk, the same as for a broker's confirm (`docs/design/delivery.md` §10).
const PUBLISH_TIMEOUT: Duration = Duration::from_millis(1500);

/// Longest time for [`Queue::close`].
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// The embedded [`Queue`].
///
/// How often a row was handed out before is remembered by the process only: after a restart it counts from 0.
#[derive(Debug)]
pub struct SqliteQueue {
    database: Sqlite,
    publishes: Publishes,
    dispatchers: Arc<Dispatchers>,
    link: watch::Sender<Link>,
    stop: CancellationToken,
    readers: TaskTracker,
    writer: TaskTracker,
    /// Ends the tasks when the queue is dropped without [`Queue::close`].
    _stop_on_drop: DropGuard,
}

impl SqliteQueue {
    /// Starts the queue on an open database. Must be called within a Tokio runtime.
    #[must_use]
    pub fn new(database: Sqlite) -> Self {
        let dispatchers = Arc::new(Dispatchers::default());
        let stop = CancellationToken::new();
        let readers = TaskTracker::new();
        let (publishes, task) = Writer::new(database.writer.clone(), Arc::clone(&dispatchers), stop.clone());
        let writer = TaskTracker::new();
        writer.spawn(task.run());
        writer.close();
        Self {
            database,
            publishes,
            dispatchers,
            link: watch::Sender::new(Link::Up),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            readers,
            writer,
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn publish(&self, envelope: Arc<Envelope>) -> Result<(), PublishError> {
        match timeout(PUBLISH_TIMEOUT, self.publishes.publish(envelope)).await {
            Ok(result) => result,
            Err(_) => Err(PublishError::Unknown("the disk did not take it in time".to_owned())),
        }
    }

    async fn consume(&self, source: Source, prefetch: u16) -> Result<Deliveries, QueueError> {
        if self.stop.is_cancelled() {
            return Err(QueueError("closed".to_owned()));
        }
        let prefetch = usize::from(prefetch.max(1));
        let (deliveries, receiver) = mpsc::channel(prefetch);
        let places = Arc::new(Places::new(prefetch));
        let ended = self.stop.child_token();
        match source {
            Source::Bot(bot) => {
                let dispatcher = self.dispatchers.of(&bot);
                // Its place among those who wait is taken now, not when the task first runs.
                let mut waiting = Box::pin(Turn::wait(Arc::clone(&dispatcher)));
                let turn = match poll_immediate(&mut waiting).await {
                    Some(turn) => ready(turn).left_future(),
                    None => waiting.right_future(),
                };
                let reader = Reader::new(self.database.reader.clone(), self.publishes.deletes(), bot, dispatcher);
                self.readers
                    .spawn(reader.run(turn, Arc::clone(&places), deliveries, ended.clone()));
            }
            // Nothing can be unroutable here, and nothing but the worker gives an event up: the stream stays silent.
            Source::Unrouted | Source::Dead => {
                let ended = ended.clone();
                self.readers.spawn(async move {
                    ended.cancelled().await;
                    drop(deliveries);
                });
            }
        }
        let detached = ended.clone();
        Ok(Deliveries::new(receiver, places, Detach::new(move || detached.cancel())).until(ended))
    }

    /// There is one table for all.
    async fn prepare(&self, _bot: &BotId) -> Result<(), QueueError> {
        Ok(())
    }

    async fn waiting(&self, source: &Source) -> Result<u64, QueueError> {
        let Source::Bot(bot) = source else { return Ok(0) };
        let handed_out = self
            .dispatchers
            .get(bot)
            .map_or(0, |dispatcher: Arc<Dispatcher>| dispatcher.handed_out());
        let ready: i64 = sqlx::query_scalar("SELECT count(*) FROM queue WHERE bot = ? AND id > ?")
            .bind(bot.as_str())
            .bind(handed_out)
            .fetch_one(&self.database.reader)
            .await
            .map_err(|error| QueueError(error.to_string()))?;
        Ok(u64::try_from(ready).unwrap_or(0))
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    fn consume_link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    async fn close(&self) {
        self.stop.cancel();
        self.link.send_replace(Link::Down("closed".to_owned()));
        self.readers.close();
        let ended = async {
            self.readers.wait().await;
            self.writer.wait().await;
        };
        if timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::warn!("the embedded queue did not end in time");
        }
    }
}
