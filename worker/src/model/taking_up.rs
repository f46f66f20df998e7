//! The step that the plays follow by hand, seen once as it is: a whole worker between a queue and a Store that does not
//! answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_backends::queues::sqlite::SqliteQueue;
use openclaw_backends::sqlite::Sqlite;
use openclaw_common::bot::{BotSet, Bots};
use openclaw_common::config::{Config, Message};
use openclaw_common::queue::{Queue as _, Source};
use openclaw_common::seal::KeyRing;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::gate::{At, Gate, Stop};
use super::play::envelope;
use super::stage::bot;
use super::tables::Tables;
use crate::Worker;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_delivery_is_not_acknowledged_before_its_row_is_committed() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let folder = tempfile::tempdir().unwrap();
    let database = Sqlite::open(&folder.path().join("queue.db")).await.unwrap();
    let queue = Arc::new(SqliteQueue::new(database.clone()));
    let (store, tables) = Tables::sqlite().await;
    let (line, mut stops) = mpsc::unbounded_channel();
    let bot = Arc::new(bot("bot1", "http://127.0.0.1:1", &Message::default()));
    queue.publish(Arc::new(envelope(&bot.id, "om_1"))).await.unwrap();
    let worker = Worker {
        config: Arc::new(Config::default()),
        bots: Bots::fixed(BotSet::new([bot.clone()], false)),
        queue: queue.clone(),
        cache: Arc::new(Memory::new()),
        store: Arc::new(Gate {
            store,
            tables,
            run: 0,
            line,
            flaw: None,
            kept_back: Mutex::new(None),
            made: Arc::default(),
        }),
        keys: Arc::new(KeyRing::default()),
        id: "worker1".to_owned(),
    };
    let worker = tokio::spawn(crate::run(worker, CancellationToken::new()));
    let stop = tokio::time::timeout(PATIENCE, stops.recv()).await.unwrap();
    assert!(matches!(stop, Some(Stop { at: At::Begin, .. })));

    // What has been acknowledged is written before the queue is closed; then the process dies.
    queue.close().await;
    worker.abort();
    let successor = SqliteQueue::new(database);
    let mut deliveries = successor.consume(Source::Bot(bot.id.clone()), 1).await.unwrap();
    let again = tokio::time::timeout(Duration::from_secs(5), deliveries.next()).await;
    assert!(matches!(again, Ok(Some(_))), "acknowledged before it had a row");
}
