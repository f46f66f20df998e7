//! The one SQLite file of the embedded backend, shared by its queue and its store.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};

use crate::store::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// An open database file. SQLite has one writer, so writes go through a pool of one; reads run beside it.
#[derive(Clone, Debug)]
pub struct Sqlite {
    /// The only connection that writes.
    pub writer: SqlitePool,
    /// Connections that read what is committed.
    pub reader: SqlitePool,
}

impl Sqlite {
    /// Opens or creates the file and brings its schema up to date. Every commit is on disk before it returns.
    ///
    /// # Errors
    /// When the file cannot be opened or migrated.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_with(options.clone())
            .await
            .map_err(|error| unavailable(path, &error))?;
        MIGRATIONS
            .run(&writer)
            .await
            .map_err(|error| unavailable(path, &error))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options.read_only(true))
            .await
            .map_err(|error| unavailable(path, &error))?;
        Ok(Self { writer, reader })
    }

    /// The schema's version that this program needs.
    pub(crate) fn schema_version() -> i64 {
        MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
    }
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}
