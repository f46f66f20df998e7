//! What is behind the three seams: RabbitMQ, Redis and PostgreSQL, or SQLite and memory in one process.
//!
//! The only crate with drivers, and only the program names it: the roles know the seams' traits (`openclaw_common`).
//!
//! | module | job |
//! |---|---|
//! | [`queues`] | seam 1 on RabbitMQ and SQLite |
//! | [`stores`] | seam 2 on PostgreSQL and SQLite |
//! | [`caches`] | seam 3 on Redis and in memory |
//! | [`sqlite`] | the one file of the embedded backends |
//! | [`data_dir`] | its folder: one process at a time |
//!
//! [`open`] is the one `match` that chooses between them.

pub mod caches;
pub mod data_dir;
pub mod queues;
pub mod sqlite;
pub mod stores;

use std::sync::Arc;

use crate::caches::memory::Memory;
use crate::caches::redis::{self, Redis};
use crate::data_dir::{DataDirError, DataDirLock};
use crate::queues::rabbitmq::{self, Options, RabbitMq};
use crate::queues::sqlite::SqliteQueue;
use crate::sqlite::Sqlite;
use crate::stores::postgres::Postgres;
use crate::stores::sqlite::SqliteStore;
use openclaw_common::bot::BotId;
use openclaw_common::cache::Cache;
use openclaw_common::checkup::Finding;
use openclaw_common::config::{Backend, Database};
use openclaw_common::queue::Queue;
use openclaw_common::store::{Store, StoreError};

/// The three seams, opened.
#[derive(Clone)]
pub struct Seams {
    /// Seam 1.
    pub queue: Arc<dyn Queue>,
    /// Seam 2; connects when first used, so that an ingest node never needs its database.
    pub store: Arc<dyn Store>,
    /// Seam 3.
    pub cache: Arc<dyn Cache>,
    /// What the servers behind the seams are called in health reports.
    pub names: Names,
    /// Keeps a second process off the data folder.
    lock: Option<Arc<DataDirLock>>,
}

impl Seams {
    /// Whether no other process can work on the same data while these are open.
    #[must_use]
    pub fn are_exclusive(&self) -> bool {
        self.lock.is_some()
    }
}

/// What the servers behind the seams are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Behind the queue.
    pub queue: &'static str,
    /// Behind the store.
    pub store: &'static str,
    /// Behind the cache.
    pub cache: &'static str,
}

/// A backend could not be opened: the operator's fault (a folder, an address) or the machine's.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The data folder is in use or cannot be written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The database address or file is unusable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The queue's or the cache's address is unusable.
    #[error("{0}")]
    Address(String),
}

/// Opens the configured backends for the process `name`. Distributed ones connect in the background and need not be up.
///
/// # Errors
/// When an address is unusable or the data folder belongs to another process.
pub async fn open(backend: &Backend, database: &Database, name: &str) -> Result<Seams, BackendError> {
    match backend {
        Backend::Embedded { data_dir } => {
            let lock = DataDirLock::take(data_dir)?;
            let file = Sqlite::open(&lock.path().join(sqlite::FILE)).await?;
            Ok(Seams {
                queue: Arc::new(SqliteQueue::new(file.clone())),
                store: Arc::new(SqliteStore::new(file)),
                cache: Arc::new(Memory::new()),
                names: Names {
                    queue: "sqlite",
                    store: "sqlite",
                    cache: "memory",
                },
                lock: Some(Arc::new(lock)),
            })
        }
        Backend::Distributed {
            amqp_url,
            redis_url,
            database_url,
        } => Ok(Seams {
            queue: Arc::new(
                RabbitMq::connect(amqp_url, Options::named(name))
                    .map_err(|error| BackendError::Address(format!("backend.distributed.amqp_url: {error}")))?,
            ),
            store: Arc::new(Postgres::connect(database_url, database)?),
            cache: Arc::new(
                Redis::connect(redis_url)
                    .map_err(|error| BackendError::Address(format!("backend.distributed.redis_url: {error}")))?,
            ),
            names: Names {
                queue: "rabbitmq",
                store: "postgresql",
                cache: "redis",
            },
            lock: None,
        }),
    }
}

/// Looks at what is behind the backends, for `openclaw check`; nothing is made or changed there but queues of the look's own,
/// which go with it. `bots` are the names that have queues.
pub async fn checkup(backend: &Backend, database: &Database, bots: &[BotId]) -> Vec<Finding> {
    match backend {
        Backend::Embedded { data_dir } => sqlite::checkup(data_dir).await,
        Backend::Distributed {
            amqp_url,
            redis_url,
            database_url,
        } => {
            let stored = async {
                match Postgres::connect(database_url, database) {
                    Ok(postgres) => postgres.checkup().await,
                    Err(error) => vec![Finding::wrong(
                        "postgresql",
                        error.to_string(),
                        "correct `backend.distributed.database_url`",
                    )],
                }
            };
            let (queue, cache, store) = tokio::join!(
                rabbitmq::checkup::checkup(amqp_url, bots),
                redis::checkup::checkup(redis_url),
                stored
            );
            [queue, cache, store].concat()
        }
    }
}
