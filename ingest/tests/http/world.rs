//! An ingest node on real backends, and a look into the queue behind it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_backends::queues::sqlite::SqliteQueue;
use openclaw_backends::sqlite::Sqlite;
use openclaw_common::bot::{Bot, BotId, BotSet, Bots, Credentials};
use openclaw_common::cache::{Cache, Claim};
use openclaw_common::config::{Config, Feishu, Handler, Message, Quota, Security};
use openclaw_common::envelope::{Envelope, EventKey};
use openclaw_common::health::Health;
use openclaw_common::queue::{Link, Queue, Source};
use openclaw_common::seal::KeyRing;
use openclaw_common::secret::Secret;
use openclaw_ingest::{Drain, Ingest, run};
use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, SqliteConnection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running node.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) health: Health,
    pub(crate) task: JoinHandle<()>,
}

/// What a node is started with.
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) bots: Bots,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) keys: KeyRing,
    pub(crate) drain: Drain,
}

impl Setup {
    pub(crate) fn new(bots: &[Bot], queue: Arc<dyn Queue>, cache: Arc<dyn Cache>) -> Self {
        Self {
            config: Config::default(),
            bots: Bots::fixed(BotSet::new(bots.iter().cloned().map(Arc::new), false)),
            queue,
            cache,
            keys: KeyRing::default(),
            drain: Drain {
                grace: Duration::ZERO,
                ..Drain::default()
            },
        }
    }

    pub(crate) async fn start(self) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let health = Health::new();
        let ingest = Ingest {
            config: Arc::new(self.config),
            bots: self.bots,
            queue: self.queue,
            cache: self.cache,
            keys: Arc::new(self.keys),
            health: health.clone(),
            drain: self.drain,
        };
        let task = tokio::spawn(run(ingest, listener, shutdown.clone()));
        Node {
            address,
            shutdown,
            health,
            task,
        }
    }
}

/// The embedded backends.
pub(crate) struct Embedded {
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) cache: Arc<dyn Cache>,
    folder: TempDir,
}

impl Embedded {
    pub(crate) async fn open() -> Self {
        let folder = TempDir::new().unwrap();
        let file = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
        Self {
            queue: Arc::new(SqliteQueue::new(file)),
            cache: Arc::new(Memory::new()),
            folder,
        }
    }

    pub(crate) fn setup(&self, bots: &[Bot]) -> Setup {
        Setup::new(bots, self.queue.clone(), self.cache.clone())
    }

    pub(crate) async fn start(&self, bots: &[Bot]) -> Node {
        self.setup(bots).start().await
    }

    /// Waits until a node is storing the event: it holds the claim.
    pub(crate) async fn being_stored(&self, key: &EventKey) {
        testkit::eventually("the event is being stored", SOON, async || {
            let look = self.cache.claim(key, "a look", Duration::from_millis(1)).await;
            look.unwrap() == Claim::Busy
        })
        .await;
    }

    /// Nothing can be stored until the result is dropped or released: another process holds the file's write lock.
    pub(crate) async fn lock(&self) -> Lock {
        let path = self.folder.path().join("openclaw.db");
        let mut connection = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        Lock(connection)
    }
}

pub(crate) struct Lock(SqliteConnection);

impl Lock {
    pub(crate) async fn release(mut self) {
        self.0.execute("ROLLBACK").await.unwrap();
        self.0.close().await.unwrap();
    }
}

/// A bot with every credential.
pub(crate) fn bot(id: &str) -> Bot {
    Bot {
        id: BotId::new(id).unwrap(),
        credentials: Credentials {
            app_id: format!("cli_{id}").into(),
            app_secret: Secret::new("app secret"),
            verification_token: Secret::new(format!("token of {id}")),
            encrypt_key: Some(Secret::new(format!("key of {id}"))),
        },
        message: Message::default(),
        quota: Quota::default(),
        handler: Handler::default(),
        security: Security::default(),
        feishu: Feishu::default(),
    }
}

/// A bot without an encrypt key.
pub(crate) fn plain_bot(id: &str) -> Bot {
    let mut bot = bot(id);
    bot.credentials.encrypt_key = None;
    bot.security.allow_plaintext = true;
    bot
}

/// A message to `bot`.
pub(crate) fn message(bot: &Bot, message_id: &str) -> Value {
    event(
        bot,
        "im.message.receive_v1",
        &json!({
            "sender": { "sender_id": { "open_id": "ou_1" } },
            "message": { "message_id": message_id, "chat_id": "oc_1", "content": "{\"text\":\"你好\"}" },
        }),
    )
}

/// Any v2 event to `bot`.
pub(crate) fn event(bot: &Bot, event_type: &str, event: &Value) -> Value {
    json!({
        "schema": "2.0",
        "header": {
            "event_id": format!("ev_{event_type}"), "event_type": event_type, "create_time": "1763800000123",
            "token": bot.credentials.verification_token.expose(), "app_id": &*bot.credentials.app_id, "tenant_key": "t_1",
        },
        "event": event,
    })
}

/// How long an event may take to appear.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Takes `count` events of a bot out of the queue, in order, and sees that there are no more.
pub(crate) async fn taken(queue: &Arc<dyn Queue>, bot: &Bot, count: usize) -> Vec<Arc<Envelope>> {
    let mut link = queue.consume_link();
    tokio::time::timeout(SOON, link.wait_for(|link| *link == Link::Up))
        .await
        .unwrap()
        .unwrap();
    let mut deliveries = queue.consume(Source::Bot(bot.id.clone()), 1000).await.unwrap();
    let mut events = Vec::new();
    while events.len() < count {
        let delivery = tokio::time::timeout(SOON, deliveries.next()).await.unwrap().unwrap();
        events.push(delivery.payload.unwrap());
        delivery.receipt.ack();
    }
    let more = tokio::time::timeout(Duration::from_millis(50), deliveries.next()).await;
    assert!(more.is_err(), "more than {count} events: {more:?} after {events:?}");
    events
}
