//! Seam 1: the durable queue. Nothing accepted may be lost.
//!
//! Two backends keep the same promises, proved by one conformance suite (`backends/tests/contracts/queue.rs`): RabbitMQ
//! quorum queues and a SQLite table (`backends/src/queues/`).
//!
//! * **Publish** answers `Ok` only when the message survives a crash of every process involved.
//! * **Order**: what is published to a bot after another publish to it was answered is delivered after it.
//! * **Delivery** is at least once: what is not acknowledged comes again, in its old place, after the consumer ends. So may up
//!   to five events around it that were acknowledged: RabbitMQ forgets a message only when all of its events are done with.
//! * **One active consumer** a bot: a second one attached anywhere stands by and takes over when the first one's link goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bot::BotId;
use crate::envelope::Envelope;

/// The durable queue between ingest and workers.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Stores one event durably; returns after the broker confirmed it, and in any case within the backend's time limit.
    /// Publishes may run side by side: what meets is written together.
    ///
    /// # Errors
    /// See [`PublishError`]: refused means no copy exists, unknown means one may appear later.
    async fn publish(&self, envelope: Arc<Envelope>) -> Result<(), PublishError>;

    /// Attaches a consumer. At most `prefetch` events are out unacknowledged at a time.
    ///
    /// # Errors
    /// When the link is down or the broker refuses.
    async fn consume(&self, source: Source, prefetch: u16) -> Result<Deliveries, QueueError>;

    /// Makes sure that `bot` has a queue that takes events, before any comes: making one may take a while.
    ///
    /// # Errors
    /// When the link is down or the broker refuses.
    async fn prepare(&self, bot: &BotId) -> Result<(), QueueError>;

    /// Events of `source` that are ready and not yet delivered. RabbitMQ counts messages: how many events they hold is known
    /// if this process published them; other processes' are taken to be alike, and those from before it began for one each.
    ///
    /// # Errors
    /// When the link is down. An unknown bot has none.
    async fn waiting(&self, source: &Source) -> Result<u64, QueueError>;

    /// [`Queue::waiting`] of one bot.
    ///
    /// # Errors
    /// When the link is down. An unknown bot has depth 0.
    async fn depth(&self, bot: &BotId) -> Result<u64, QueueError> {
        self.waiting(&Source::Bot(bot.clone())).await
    }

    /// The state of the publishing link and its changes.
    fn link(&self) -> watch::Receiver<Link>;

    /// The state of the consuming link and its changes. A change away from [`Link::Up`] has ended every [`Deliveries`].
    fn consume_link(&self) -> watch::Receiver<Link>;

    /// Ends both links for good. Consumers are cut **without** a polite close: that is what keeps the order of what they
    /// held (`docs/design/delivery.md` §6). Everything acknowledged before is flushed first.
    async fn close(&self);
}

/// What to consume.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// One bot's events.
    Bot(BotId),
    /// Events whose bot had no queue (`openclaw.v1.unrouted`); never yields on the embedded queue, which has none.
    Unrouted,
    /// What the broker itself gave up on (`openclaw.v1.dead`); never yields on the embedded queue.
    Dead,
}

/// How a link to the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Not connected yet: the first try is on its way, which is how every process starts.
    Connecting,
    /// Usable.
    Up,
    /// The broker refuses publishes for lack of memory or disk. Consuming goes on.
    Blocked(String),
    /// Not connected; the text says why. Reconnecting goes on by itself.
    Down(String),
}

/// Why a publish did not end in a confirmed copy.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublishError {
    /// The broker's fault; certainly no copy. Retry later.
    #[error("the queue refused the event: {0}")]
    Refused(String),
    /// Nobody can tell whether a copy exists; it may still arrive. Retry later, duplicates are dropped downstream.
    #[error("the queue did not confirm the event: {0}")]
    Unknown(String),
}

/// Any other failure of the queue: the broker's fault, retry later.
#[derive(Clone, Debug, thiserror::Error)]
#[error("queue: {0}")]
pub struct QueueError(pub String);

/// A consumer's stream. Dropping it detaches the consumer: what is still out comes again, to whoever consumes next.
///
/// What it held comes again in its place, also before a standby's next delivery. On RabbitMQ that is measured (3.10.8),
/// not promised by the broker: where order matters, end it through [`Queue::close`], or while nothing is held.
#[derive(Debug)]
pub struct Deliveries {
    receiver: mpsc::Receiver<Delivery>,
    places: Arc<Places>,
    ended: CancellationToken,
    _detach: Detach,
}

/// How many events a consumer may have out, and has.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    taken: AtomicUsize,
}

impl Places {
    /// For backends: places for `limit` events.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: AtomicUsize::new(0),
        }
    }

    /// For backends: an event goes out.
    pub fn take(&self) {
        self.taken.fetch_add(1, Ordering::AcqRel);
    }

    /// For backends: an event that was out is done with.
    pub fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many more events may go out. With none left, hearing nothing is as it should be.
    #[must_use]
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.taken.load(Ordering::Acquire))
    }
}

/// Runs the backend's detach when dropped.
pub struct Detach(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Detach {
    /// What detaching means for this backend.
    pub fn new(action: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(action)))
    }
}

impl std::fmt::Debug for Detach {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Detach")
    }
}

impl Drop for Detach {
    fn drop(&mut self) {
        if let Some(action) = self.0.take() {
            action();
        }
    }
}

impl Deliveries {
    /// For backends.
    #[must_use]
    pub fn new(receiver: mpsc::Receiver<Delivery>, places: Arc<Places>, detach: Detach) -> Self {
        Self {
            receiver,
            places,
            ended: CancellationToken::new(),
            _detach: detach,
        }
    }

    /// For backends: what is already here counts no longer once `ended` is cancelled. The broker has handed it to the
    /// next consumer by then, and two workers must not take up one event.
    #[must_use]
    pub fn until(mut self, ended: CancellationToken) -> Self {
        self.ended = ended;
        self
    }

    /// Its places, to look at whatever else is waited for.
    #[must_use]
    pub fn places(&self) -> Arc<Places> {
        Arc::clone(&self.places)
    }

    /// Whether the consumer has ended: whatever was delivered through it is somebody else's by now.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// The next delivery; `None` when the consumer has ended (link lost, queue deleted): attach again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => None,
            delivery = self.receiver.recv() => delivery,
        }
    }

    /// A delivery that is already here, without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        if self.ended.is_cancelled() {
            return None;
        }
        self.receiver.try_recv().ok()
    }
}

/// One event handed to this process.
#[derive(Debug)]
pub struct Delivery {
    /// The event, or the bytes that are none.
    pub payload: Result<Arc<Envelope>, Unreadable>,
    /// How often its message was handed out before. Hand-overs raise it too: it says nothing about poison.
    pub redelivered: u32,
    /// Acknowledges it.
    pub receipt: Receipt,
}

/// A message that no envelope can be read from: a newer version, or a stranger's.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// What is wrong with it.
    pub reason: String,
    /// Its body.
    pub body: bytes::Bytes,
    /// Its identity as far as it can be read.
    pub message_id: Option<String>,
}

/// The right to acknowledge one event, once. Dropping it leaves the event out until the consumer ends.
pub struct Receipt(Box<dyn FnOnce() + Send + Sync>);

impl Receipt {
    /// For backends: `acknowledge` must not block, and does nothing when its link has gone.
    pub fn new(acknowledge: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Box::new(acknowledge))
    }

    /// Tells the broker to forget the event. Call it only after a row for it is committed.
    pub fn ack(self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Receipt")
    }
}
