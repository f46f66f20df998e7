//! The schema's version, and how it gets there.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::link::{Link, Work, store_error};
use crate::store::StoreError;

/// Locked by us; a database that is ahead of this program is left as it is.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("migrations/postgres");
    migrations.set_locking(false).set_ignore_missing(true);
    migrations
}

/// Who holds this migrates: any number that nobody else uses ("openclaw" in ASCII).
const LOCK: i64 = 0x6f70_656e_636c_6177;

/// Another process that migrates is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at the lock. Polling, because a blocked `pg_advisory_lock` holds a snapshot that an index build
/// in the migration would wait for.
const LOOK: Duration = Duration::from_millis(100);

/// A migration that cannot get a table's lock gives way instead of queueing every later reader behind itself.
const LOCK_TIMEOUT: &str = "3s";

/// All migrations together.
const TIMEOUT: Duration = Duration::from_secs(600);

/// The version this program needs.
pub(super) fn needed() -> i64 {
    migrations()
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// Whether the schema is there. A newer one is fine: a rolling upgrade migrates before it replaces the programs.
pub(super) async fn check(link: &Link) -> Result<(), StoreError> {
    let found = link.run(&(), version).await?;
    if found < needed() {
        Err(StoreError::Schema {
            found,
            needed: needed(),
        })
    } else {
        Ok(())
    }
}

fn version<'c>(connection: &'c mut PgConnection, (): &'c ()) -> Work<'c, i64> {
    Box::pin(
        sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(connection),
    )
}

/// Migrates, one process at a time.
pub(super) async fn migrate(link: &Link) -> Result<(), StoreError> {
    let mut connection = link.dedicated(LOCK_TIMEOUT).await?;
    let outcome = match tokio::time::timeout(TIMEOUT, locked(&mut connection)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::Unavailable(
            "the migration did not end within 10 min".to_owned(),
        )),
    };
    // Ends the session and with it the lock, also when the goodbye itself fails.
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "closing the migration's connection failed");
    }
    outcome
}

async fn locked(connection: &mut PgConnection) -> Result<(), StoreError> {
    let deadline = Instant::now() + PATIENCE;
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
        .bind(LOCK)
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| store_error(&error))?
    {
        if Instant::now() >= deadline {
            return Err(StoreError::Unavailable(
                "another process has been migrating for 60 s".to_owned(),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    // `run` takes any connection but, for a borrowed one, makes a future that cannot be sent; this is what it calls.
    migrations()
        .run_direct(None, connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => store_error(&error),
            other => StoreError::Internal(other.to_string()),
        })
}
