//! Connections to PostgreSQL: bounded in number and time, with its errors told apart by whose fault they are.

use std::fmt::{self, Debug, Formatter};
use std::str::FromStr;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

use crate::config::Database;
use crate::secret::Secret;
use crate::store::StoreError;

/// Waiting for a connection, connecting included (`reliability.md` D8).
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// The server ends a statement after this (D8).
const STATEMENT_TIMEOUT: &str = "5s";

/// The server frees the locks of a client that vanished inside a transaction (§7).
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "10s";

/// One call once connected: a server that still answers has cancelled its statement by then, so the link is dead.
const CALL_TIMEOUT: Duration = Duration::from_secs(7);

/// A connection unused for so long is tried before it is used; busy ones prove themselves.
const PROVE_AFTER: Duration = Duration::from_secs(1);

/// Deadlocks and serialization failures in a row before they are the caller's business. Batches lock in key order, so one
/// is rare and two in a row are not expected.
const COLLISIONS: u32 = 5;

/// What a call does on its connection.
pub(super) type Work<'c, T> = BoxFuture<'c, Result<T, sqlx::Error>>;

/// The pool.
pub(super) struct Link {
    pool: PgPool,
    options: PgConnectOptions,
}

impl Debug for Link {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Link")
            .field("connections", &self.pool.size())
            .finish_non_exhaustive()
    }
}

impl Link {
    /// Connects when first used.
    pub(super) fn new(url: &Secret, settings: &Database) -> Result<Self, StoreError> {
        // The parser takes any scheme, and its error may quote the address with its password.
        let options = url
            .expose()
            .starts_with("postgres")
            .then(|| PgConnectOptions::from_str(url.expose()).ok())
            .flatten()
            .ok_or_else(|| StoreError::Internal("database_url is not a PostgreSQL address".to_owned()))?
            .application_name("openclaw")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool.max_connections)
            .min_connections(settings.pool.min_connections)
            .max_lifetime(settings.pool.max_lifetime)
            .idle_timeout(settings.pool.idle_timeout)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > PROVE_AFTER {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone().options([
                ("statement_timeout", STATEMENT_TIMEOUT),
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
                // Every statement on an event's way has an index (SQLite is told by `INDEXED BY`). Of a table that is new
                // PostgreSQL has no statistics, and keeps the plan it made when the table was empty: it would read all of
                // `events` for each event until autovacuum's first pass, up to a minute later.
                ("enable_seqscan", "off"),
                // The few statements that do read all would seem so dear by that, that it would compile them first.
                ("jit", "off"),
            ]));
        Ok(Self { pool, options })
    }

    /// How many there are at most.
    pub(super) fn connections(&self) -> usize {
        usize::try_from(self.pool.options().get_max_connections()).unwrap_or(usize::MAX)
    }

    /// Connects outside the pool, without its time limits on statements: for migrations.
    pub(super) async fn dedicated(&self, lock_timeout: &str) -> Result<PgConnection, StoreError> {
        let options = self.options.clone().options([("lock_timeout", lock_timeout)]);
        match tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await {
            Ok(connection) => connection.map_err(|error| store_error(&error)),
            Err(_) => Err(StoreError::Unavailable("no connection within 2 s".to_owned())),
        }
    }

    /// Runs `work` on a pooled connection, again when it collided with another transaction: the server has undone it then.
    pub(super) async fn run<A: Sync + ?Sized, T>(
        &self,
        input: &A,
        work: for<'c> fn(&'c mut PgConnection, &'c A) -> Work<'c, T>,
    ) -> Result<T, StoreError> {
        let mut collisions = 0;
        loop {
            let mut connection = self.pool.acquire().await.map_err(|error| store_error(&error))?;
            let outcome = tokio::time::timeout(CALL_TIMEOUT, work(&mut connection, input)).await;
            match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if collisions < COLLISIONS && is_collision(&error) => {
                    drop(connection);
                    collisions += 1;
                    let pause = rand::random_range(0..20 * u64::from(collisions));
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                Ok(Err(error)) => return Err(store_error(&error)),
                Err(_) => {
                    // Nobody may get a connection that still waits for an answer.
                    drop(connection.detach());
                    return Err(StoreError::Unavailable(
                        "the database did not answer within 7 s".to_owned(),
                    ));
                }
            }
        }
    }
}

/// Serialization failure or deadlock: rolled back by the server, harmless to repeat.
fn is_collision(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "40001" || code == "40P01")
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// Whose fault it is, by SQLSTATE: a missing table is the operator's; data, constraints and syntax are ours; everything
/// else (connections, resources, cancelled statements, a standby that cannot write) passes.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    if let Some(code) = code(error) {
        if code == "42P01" {
            return StoreError::Schema {
                found: 0,
                needed: super::schema::needed(),
            };
        }
        // 22 data, 23 constraint, 42 syntax or privilege, 0A and 21 unsupported or impossible.
        let ours = ["22", "23", "42", "0A", "21"]
            .iter()
            .any(|class| code.starts_with(class));
        let text = format!("{error} (SQLSTATE {code})");
        return if ours {
            StoreError::Internal(text)
        } else {
            StoreError::Unavailable(text)
        };
    }
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(error.to_string()),
        _ => StoreError::Internal(error.to_string()),
    }
}
