//! The schema's version, and how it gets there.

use std::time::Duration;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::fault::store_error;
use super::link::{Link, Work};
use super::session::Session;
use openclaw_common::store::StoreError;

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

/// The same behind a pooler, which drops what was asked for when the connection was made.
const BEGIN_POOLED: &str = "BEGIN; SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = 0; \
     SET LOCAL idle_in_transaction_session_timeout = 0; DEALLOCATE ALL";

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

/// Whether the schema is there, and may be written. A newer one is fine: a rolling upgrade migrates before it replaces the
/// programs.
pub(super) async fn check(link: &Link) -> Result<(), StoreError> {
    let (mut found, mut read_only) = link.run(&(), version).await?;
    if read_only {
        // The address may lead to another server by now.
        link.abandon();
        (found, read_only) = link.run(&(), version).await?;
    }
    if read_only {
        return Err(StoreError::ReadOnly);
    }
    if found < needed() {
        Err(StoreError::Schema {
            found,
            needed: needed(),
        })
    } else {
        Ok(())
    }
}

fn version<'c>(connection: Session<'c>, (): &'c ()) -> Work<'c, (i64, bool)> {
    Box::pin(
        sqlx::query_as(
            "SELECT coalesce(max(version), 0), current_setting('transaction_read_only')::boolean
             FROM _sqlx_migrations WHERE success",
        )
        .fetch_one(connection),
    )
}

/// Migrates, one process at a time.
pub(super) async fn migrate(link: &Link) -> Result<(), StoreError> {
    let mut connection = link.dedicated(LOCK_TIMEOUT).await?;
    let outcome = match tokio::time::timeout(TIMEOUT, locked(&mut connection, link.is_pooled())).await {
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

/// Holds the lock and migrates.
async fn locked(connection: &mut PgConnection, pooled: bool) -> Result<(), StoreError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let migrated = if pooled {
            in_one_transaction(connection).await
        } else {
            in_a_session(connection).await
        };
        if migrated? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(StoreError::Unavailable(
                "another process has been migrating for 60 s".to_owned(),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `false`: another process has the lock. The session's end gives it back.
async fn in_a_session(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)").bind(LOCK);
    if !locked
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| store_error(&error))?
    {
        return Ok(false);
    }
    run(connection).await.map(|()| true)
}

/// Behind a pooler only a transaction is sure to keep its connection, so all migrations are one, and the lock is its lock.
/// The migrator gives its statements names: those that others may have left there go before, its own go after.
async fn in_one_transaction(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let unavailable = |error: sqlx::Error| store_error(&error);
    let mut transaction = connection.begin_with(BEGIN_POOLED).await.map_err(unavailable)?;
    let locked = sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_xact_lock($1)").bind(LOCK);
    if !locked
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await
        .map_err(unavailable)?
    {
        transaction.rollback().await.map_err(unavailable)?;
        return Ok(false);
    }
    run(&mut transaction).await?;
    sqlx::raw_sql("DEALLOCATE ALL")
        .execute(&mut *transaction)
        .await
        .map_err(unavailable)?;
    transaction.commit().await.map_err(unavailable)?;
    Ok(true)
}

async fn run(connection: &mut PgConnection) -> Result<(), StoreError> {
    // `run` takes any connection but, for a borrowed one, makes a future that cannot be sent; this is what it calls.
    migrations()
        .run_direct(None, connection, false)
        .await
        .map_err(|error| match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => store_error(&error),
            other => StoreError::Internal(other.to_string()),
        })
}
