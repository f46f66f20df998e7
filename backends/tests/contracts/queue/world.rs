//! One backend with a place of its own to keep events, and processes that open it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use openclaw_backends::queues::rabbitmq::{Options, RabbitMq};
use openclaw_backends::queues::sqlite::SqliteQueue;
use openclaw_backends::sqlite::Sqlite;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::queue::{Deliveries, Delivery, Link, Queue};
use openclaw_common::secret::Secret;
use tempfile::TempDir;
use testkit::{Servers, Vhost};
use tokio::sync::watch;
use tokio::time::timeout;

/// Deadline for what must come.
pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) enum World {
    Sqlite(TempDir),
    RabbitMq(Vhost),
}

impl World {
    pub(super) async fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub(super) async fn rabbitmq() -> Self {
        Self::RabbitMq(Servers::rabbitmq().await)
    }

    /// A process that has the queue open.
    pub(super) async fn open(&self) -> Arc<dyn Queue> {
        match self {
            Self::Sqlite(folder) => {
                let database = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
                Arc::new(SqliteQueue::new(database))
            }
            Self::RabbitMq(vhost) => Arc::new(connect(vhost.amqp_url()).await),
        }
    }

    /// A second process beside the first, where the backend allows one.
    pub(super) async fn beside(&self, _first: &Arc<dyn Queue>) -> Option<Arc<dyn Queue>> {
        match self {
            Self::Sqlite(_) => None,
            Self::RabbitMq(_) => Some(self.open().await),
        }
    }
}

/// Connects and waits until both links are up.
pub(super) async fn connect(url: &str) -> RabbitMq {
    let queue = RabbitMq::connect(&Secret::new(url), Options::named("test")).unwrap();
    becomes_up(queue.link()).await;
    becomes_up(queue.consume_link()).await;
    queue
}

pub(super) async fn becomes_up(mut link: watch::Receiver<Link>) {
    let up = timeout(SOON, link.wait_for(|state| *state == Link::Up)).await;
    up.expect("the link comes up in time").expect("the queue lives");
}

pub(super) fn bot(name: &str) -> BotId {
    BotId::new(name).unwrap()
}

/// Event number `number` of a bot.
pub(super) fn event(bot_name: &str, number: usize) -> Envelope {
    Envelope {
        key: EventKey::new("cli_test", number.to_string()),
        bot: bot(bot_name),
        origin: Origin::Push,
        event_type: "im.message.receive_v1".into(),
        chat: "oc_chat".into(),
        tenant: "".into(),
        created_ms: 0,
        received_ms: 1_700_000_000_000,
        traceparent: None,
        body: format!("{{\"number\":{number}}}").into(),
    }
}

/// The number of a delivered event.
pub(super) fn key_of(delivery: &Delivery) -> usize {
    delivery.payload.as_ref().unwrap().key.key.parse().unwrap()
}

pub(super) async fn publish_all(queue: &Arc<dyn Queue>, bot_name: &str, numbers: impl IntoIterator<Item = usize>) {
    for number in numbers {
        queue.publish(Arc::new(event(bot_name, number))).await.unwrap();
    }
}

/// Publishes all at once, after the first: what meets may travel together.
pub(super) async fn publish_together(queue: &Arc<dyn Queue>, bot_name: &str, numbers: impl IntoIterator<Item = usize>) {
    let mut numbers = numbers.into_iter();
    publish_all(queue, bot_name, numbers.next()).await;
    let publishes = numbers.map(|number| queue.publish(Arc::new(event(bot_name, number))));
    for outcome in join_all(publishes).await {
        outcome.unwrap();
    }
}

/// The next delivery, which must come.
pub(super) async fn next(deliveries: &mut Deliveries) -> Delivery {
    let delivery = timeout(SOON, deliveries.next()).await;
    delivery.expect("a delivery comes in time").expect("the consumer lives")
}
