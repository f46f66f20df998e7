//! Hands a bot's rows to its one active consumer, in the order of their ids.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sqlx::sqlite::SqlitePool;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;

use super::codec;
use super::writer::Deletes;
use openclaw_common::bot::BotId;
use openclaw_common::queue::{Delivery, Places, Receipt};

/// How long a consumer that was full waits for more acknowledgements, so that it reads rows in groups.
const LINGER: Duration = Duration::from_millis(1);

/// Below this prefetch a group is not worth the wait.
const LINGER_FROM: usize = 16;

/// The bots that are or were consumed in this process.
#[derive(Debug, Default)]
pub(super) struct Dispatchers(RwLock<HashMap<BotId, Arc<Dispatcher>>>);

impl Dispatchers {
    pub(super) fn get(&self, bot: &BotId) -> Option<Arc<Dispatcher>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(bot).cloned()
    }

    pub(super) fn of(&self, bot: &BotId) -> Arc<Dispatcher> {
        let mut dispatchers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(dispatchers.entry(bot.clone()).or_default())
    }
}

/// Where one bot's rows are handed out.
#[derive(Debug, Default)]
pub(super) struct Dispatcher {
    /// Held by the active consumer; standbys queue for it.
    turn: Arc<Mutex<()>>,
    /// Keeps one permit, so a wake-up between looking and waiting is not lost.
    published: Notify,
    /// Greatest id the active consumer was given, 0 without one.
    handed_out: AtomicI64,
    /// Greatest id any consumer was given.
    seen: AtomicI64,
}

impl Dispatcher {
    /// New rows are committed.
    pub(super) fn published(&self) {
        self.published.notify_one();
    }

    /// Rows up to this id are out or done.
    pub(super) fn handed_out(&self) -> i64 {
        self.handed_out.load(Ordering::Acquire)
    }
}

/// The deliveries of one consumer that are not acknowledged.
#[derive(Debug)]
struct Out {
    places: Arc<Places>,
    freed: Notify,
}

/// One consumer's task.
pub(super) struct Reader {
    pool: SqlitePool,
    deletes: Deletes,
    bot: BotId,
    dispatcher: Arc<Dispatcher>,
}

impl Reader {
    pub(super) fn new(pool: SqlitePool, deletes: Deletes, bot: BotId, dispatcher: Arc<Dispatcher>) -> Self {
        Self {
            pool,
            deletes,
            bot,
            dispatcher,
        }
    }

    /// Waits for its `turn`, then hands out rows until `ended`. Ends by itself when the table cannot be read.
    pub(super) async fn run(
        self,
        turn: impl Future<Output = Turn>,
        places: Arc<Places>,
        deliveries: mpsc::Sender<Delivery>,
        ended: CancellationToken,
    ) {
        let serving = async {
            let _turn = turn.await;
            // What the consumer before acknowledged must be gone, or it would come again.
            self.deletes.settled().await;
            self.serve(places, &deliveries, &ended).await
        };
        let failed = tokio::select! {
            biased;
            () = ended.cancelled() => None,
            error = serving => Some(error),
        };
        if let Some(error) = failed {
            // The worker attaches another one, and a table that stays unreadable is reported as the store's state.
            tracing::warn!(bot = %self.bot, %error, "the queue's table could not be read; the consumer ends");
        }
        ended.cancel();
    }

    /// Hands out rows for ever; returns why it cannot.
    async fn serve(
        &self,
        places: Arc<Places>,
        deliveries: &mpsc::Sender<Delivery>,
        ended: &CancellationToken,
    ) -> sqlx::Error {
        let prefetch = places.free();
        let out = Arc::new(Out {
            places,
            freed: Notify::new(),
        });
        loop {
            let mut room = out.places.free();
            if room == 0 {
                out.freed.notified().await;
                if prefetch >= LINGER_FROM {
                    tokio::time::sleep(LINGER).await;
                }
                room = out.places.free();
            }
            let rows = match self.next_rows(room).await {
                Ok(rows) => rows,
                Err(error) => return error,
            };
            let dry = rows.len() < room;
            for (id, blob) in rows {
                out.places.take();
                self.dispatcher.handed_out.store(id, Ordering::Release);
                let delivery = Delivery {
                    payload: codec::decode(blob),
                    redelivered: u32::from(id <= self.dispatcher.seen.fetch_max(id, Ordering::AcqRel)),
                    receipt: self.receipt(id, &out, ended),
                };
                // There is a place for each of the `prefetch` that may be out, and a dropped receiver ends this task.
                deliveries.try_send(delivery).ok();
            }
            if dry {
                self.dispatcher.published.notified().await;
            }
        }
    }

    async fn next_rows(&self, room: usize) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
        sqlx::query_as("SELECT id, envelope FROM queue WHERE bot = ? AND id > ? ORDER BY id LIMIT ?")
            .bind(self.bot.as_str())
            .bind(self.dispatcher.handed_out())
            .bind(i64::try_from(room).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await
    }

    fn receipt(&self, id: i64, out: &Arc<Out>, ended: &CancellationToken) -> Receipt {
        let (deletes, out, ended) = (self.deletes.clone(), Arc::clone(out), ended.clone());
        Receipt::new(move || {
            // Once the consumer has ended, the row is another one's.
            if !ended.is_cancelled() {
                deletes.row(id);
                out.places.give_back();
                out.freed.notify_one();
            }
        })
    }
}

/// The right to hand out one bot's rows.
#[derive(Debug)]
pub(super) struct Turn {
    dispatcher: Arc<Dispatcher>,
    _alone: OwnedMutexGuard<()>,
}

impl Turn {
    /// Waits behind everybody who was polled here before.
    pub(super) async fn wait(dispatcher: Arc<Dispatcher>) -> Self {
        Self {
            _alone: Arc::clone(&dispatcher.turn).lock_owned().await,
            dispatcher,
        }
    }
}

impl Drop for Turn {
    /// The next consumer begins with the first row that is left.
    fn drop(&mut self) {
        self.dispatcher.handed_out.store(0, Ordering::Release);
    }
}
