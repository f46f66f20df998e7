//! The distributed queue: RabbitMQ quorum queues, one for each bot, with a single active consumer.
//!
//! | file | job |
//! |---|---|
//! | `link` | one supervised connection and its epochs |
//! | `wire` | its socket, which can be cut |
//! | `topology` | names and arguments of exchanges and queues |
//! | `checkup`, `greeting`, `shape` | what `openclaw check` asks: is it there, does it take publishes, are our queues ours |
//! | `publisher` | the publishing connection: bursts and confirms |
//! | `line` | which of a bot's events go out as one message |
//! | `packing` | how many events that is, to tell a queue's depth |
//! | `consumer` | the consuming connection: deliveries, acknowledgements, depths |
//! | `suspects` | queues that are consumed from apart first |
//! | `acks` | the fewest acknowledgements that settle what is done |
//! | `codec` | envelopes to an AMQP message and back |
//!
//! A process has two connections, because a memory alarm stops everything, acknowledgements included, on one that
//! publishes (`docs/design/delivery.md` §1). Works unchanged on RabbitMQ 3.10 to 4.x.

mod acks;
pub(crate) mod checkup;
mod codec;
mod consumer;
mod greeting;
mod line;
mod link;
#[cfg(feature = "measured")]
pub mod measured;
mod packing;
mod publisher;
mod shape;
mod suspects;
mod topology;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::consumer::Consumers;
use self::link::{Broker, Endpoint};
use self::packing::Packing;
use self::publisher::Publisher;
use self::topology::Declared;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::Envelope;
use openclaw_common::queue::{Deliveries, Link, PublishError, Queue, QueueError, Source};
use openclaw_common::secret::Secret;

/// Longest time for [`Queue::close`]: the parts have deadlines of their own, this one holds for all of them together.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);

/// How this process uses the broker.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the management page shows for this process's connections, such as `ingest@host1`.
    pub name: String,
    /// Longest wait for a publish and its confirm. Ingest has 3 s in all (`docs/design/delivery.md` §10).
    pub publish_timeout: Duration,
}

impl Options {
    /// The defaults for a process of this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            publish_timeout: Duration::from_millis(1500),
        }
    }
}

/// The distributed [`Queue`].
#[derive(Debug)]
pub struct RabbitMq {
    publishing: Arc<Endpoint<Publisher>>,
    consuming: Arc<Endpoint<Consumers>>,
    declared: Arc<Declared>,
    packing: Arc<Packing>,
    publish_timeout: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Ends both links when the queue is dropped without [`Queue::close`].
    _stop_on_drop: DropGuard,
}

impl RabbitMq {
    /// Starts to connect, in the background and for ever; [`Queue::link`] tells when the broker is there. Must be called
    /// within a Tokio runtime.
    ///
    /// # Errors
    /// When the URL is not an AMQP URL: the operator's fault, and trying again does not help.
    pub fn connect(url: &Secret, options: Options) -> Result<Self, QueueError> {
        let publish_broker = Broker::new(url, &format!("openclaw {} publish", options.name))?;
        let consume_broker = Broker::new(url, &format!("openclaw {} consume", options.name))?;
        let (publishing, consuming) = (Arc::new(Endpoint::new()), Arc::new(Endpoint::new()));
        let (declared, packing) = (Arc::new(Declared::default()), Arc::new(Packing::default()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(Arc::clone(&publishing).supervise(
            publish_broker,
            (Arc::clone(&declared), Arc::clone(&packing)),
            stop.clone(),
        ));
        tasks.spawn(Arc::clone(&consuming).supervise(
            consume_broker,
            (Arc::clone(&declared), Arc::default()),
            stop.clone(),
        ));
        tasks.close();
        Ok(Self {
            publishing,
            consuming,
            declared,
            packing,
            publish_timeout: options.publish_timeout,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
            tasks,
        })
    }
}

#[async_trait]
impl Queue for RabbitMq {
    async fn publish(&self, envelope: Arc<Envelope>) -> Result<(), PublishError> {
        let deadline = Instant::now() + self.publish_timeout;
        // lapin would hold the publish back and send it whenever the alarm ends, long after it was called failed.
        if let Some(reason) = self.publishing.blocked() {
            return Err(PublishError::Refused(format!(
                "the broker takes no publishes: {reason}"
            )));
        }
        let publisher = self.publishing.current().map_err(PublishError::Refused)?;
        publisher.publish(envelope, deadline).await
    }

    async fn consume(&self, source: Source, prefetch: u16) -> Result<Deliveries, QueueError> {
        let consumers = self.consuming.current().map_err(QueueError)?;
        consumers.consume(source, prefetch).await
    }

    async fn prepare(&self, bot: &BotId) -> Result<(), QueueError> {
        self.publishing.current().map_err(QueueError)?.prepare(bot).await
    }

    async fn waiting(&self, source: &Source) -> Result<u64, QueueError> {
        // On the consuming connection, which no memory alarm stops.
        let consumers = self.consuming.current().map_err(QueueError)?;
        let ready = consumers.ready(source).await?;
        let Source::Bot(bot) = source else {
            return Ok(ready.unwrap_or(0));
        };
        if ready.is_none() {
            self.declared.forget(bot);
        }
        Ok(self.packing.events(bot, ready.unwrap_or(0)))
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.publishing.link()
    }

    fn consume_link(&self) -> watch::Receiver<Link> {
        self.consuming.link()
    }

    async fn close(&self) {
        self.stop.cancel();
        if timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the broker's links did not end in time");
        }
    }
}
