//! The databases the plays run on, and how time is moved in them.

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::sqlite::Sqlite;
use openclaw_backends::stores::postgres::Postgres;
use openclaw_backends::stores::sqlite::SqliteStore;
use openclaw_common::config::Database;
use openclaw_common::envelope::EventKey;
use openclaw_common::secret::Secret;
use openclaw_common::store::Store;
use sqlx::{AssertSqlSafe, PgPool};

/// Every column that holds a time.
const TIMES: [(&str, &[&str]); 3] = [
    ("events", &["received_at", "created_at", "due_at", "finished_at"]),
    ("actions", &["first_try_at", "sent_at"]),
    ("dead_letters", &["created_at", "died_at", "replayed_at", "resolved_at"]),
];

/// The tables themselves: for what the contract neither shows nor changes. Cheap to clone.
#[derive(Clone)]
pub(super) enum Tables {
    Sqlite {
        database: Sqlite,
        _folder: Arc<tempfile::TempDir>,
    },
    // The pool is named first, so it is gone when the database is dropped.
    Postgres {
        pool: PgPool,
        _database: Arc<testkit::Database>,
    },
}

impl Tables {
    /// In memory where the machine has a file system for that: a million commits are not made to wear a disk.
    pub(super) async fn sqlite() -> (Arc<dyn Store>, Self) {
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let database = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
        let store = Arc::new(SqliteStore::new(database.clone()));
        let _folder = Arc::new(folder);
        (store, Self::Sqlite { database, _folder })
    }

    pub(super) async fn postgres() -> (Arc<dyn Store>, Self) {
        let database = testkit::Servers::postgres().await;
        let store = Postgres::connect(&Secret::new(database.url()), &Database::default()).unwrap();
        store.migrate().await.unwrap();
        let pool = PgPool::connect(database.url()).await.unwrap();
        let _database = Arc::new(database);
        (Arc::new(store), Self::Postgres { pool, _database })
    }

    /// The fence on an event's row.
    pub(super) async fn fence(&self, key: &EventKey) -> Option<i64> {
        let query = sqlx_text(format!("SELECT fence FROM events WHERE key = '{}'", key.key));
        match self {
            Self::Sqlite { database, .. } => sqlx::query_scalar(query)
                .fetch_optional(&database.writer)
                .await
                .unwrap(),
            Self::Postgres { pool, .. } => sqlx::query_scalar(query).fetch_optional(pool).await.unwrap(),
        }
    }

    /// Lets `time` go by for the events whose keys begin with `play`. `tries`: also for the hour of what was tried.
    pub(super) async fn pass(&self, play: &str, time: Duration, tries: bool) {
        let ms = time.as_millis();
        for (table, columns) in TIMES {
            if table == "actions" && !tries {
                continue;
            }
            let earlier: Vec<String> = columns
                .iter()
                .map(|column| match self {
                    Self::Sqlite { .. } => format!("{column} = {column} - {ms}"),
                    Self::Postgres { .. } => format!("{column} = {column} - {ms} * interval '1 millisecond'"),
                })
                .collect();
            let statement = sqlx_text(format!(
                "UPDATE {table} SET {} WHERE key LIKE '{play}-%'",
                earlier.join(", ")
            ));
            match self {
                Self::Sqlite { database, .. } => drop(sqlx::query(statement).execute(&database.writer).await.unwrap()),
                Self::Postgres { pool, .. } => drop(sqlx::query(statement).execute(pool).await.unwrap()),
            }
        }
    }
}

fn sqlx_text(text: String) -> AssertSqlSafe<String> {
    AssertSqlSafe(text)
}
