//! Connections to PostgreSQL: bounded in number and time, and to a server that may write.

use std::fmt::{self, Debug, Formatter};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::{PoolConnection, PoolConnectionMetadata};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres};
use tokio::time::timeout;

use super::fault::{self, Worth, store_error};
use super::session::Session;
use openclaw_common::config::Database;
use openclaw_common::secret::Secret;
use openclaw_common::store::StoreError;

/// Waiting for a connection, connecting included (`docs/design/delivery.md` §10).
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// One more try to connect, to hear why the others failed.
const ASK_WHY: Duration = Duration::from_millis(500);

/// What a call wants of the server: it ends a statement after five seconds (`docs/design/delivery.md` §10) and frees the
/// locks of a client that vanished inside a transaction after ten (`docs/design/delivery.md` §7). Every statement on an event's
/// way has an index (SQLite is told by `INDEXED BY`): of a table that is new PostgreSQL has no statistics, and keeps the plan it
/// made when the table was empty; it would read all of `events` for each event until autovacuum's first pass, up to a minute
/// later. The few statements that do read all would seem so dear by that, that it would compile them first.
const SETTINGS: [(&str, &str); 4] = [
    ("statement_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "10s"),
    ("enable_seqscan", "off"),
    ("jit", "off"),
];

/// The same for a call behind a pooler, which drops what was asked for when the connection was made.
const BEGIN_POOLED: &str = "BEGIN; SET LOCAL statement_timeout = '5s'; \
     SET LOCAL idle_in_transaction_session_timeout = '10s'; SET LOCAL enable_seqscan = off; SET LOCAL jit = off";

/// A setting of no meaning, asked for when a connection is made: a server that does not have it was not asked, for a pooler
/// stands before it.
const MARK: (&str, &str) = ("openclaw.direct", "yes");
const IS_MARKED: &str = "SELECT 1 WHERE current_setting('openclaw.direct', true) = 'yes'";

/// One call once connected: a server that still answers has cancelled its statement by then, so the link is dead.
const CALL_TIMEOUT: Duration = Duration::from_secs(7);

/// A connection unused for so long is tried before it is used; busy ones prove themselves.
const PROVE_AFTER: Duration = Duration::from_secs(1);

/// How long such a try may take: no longer than it takes to make a new connection.
const PROVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Deadlocks and serialization failures in a row before they are the caller's business. Batches lock in key order, so one
/// is rare and two in a row are not expected.
const COLLISIONS: u32 = 5;

/// What a call does on its connection.
pub(super) type Work<'c, T> = BoxFuture<'c, Result<T, sqlx::Error>>;

/// The pool.
pub(super) struct Link {
    pool: PgPool,
    /// Without any setting: those that a pooler accepts.
    options: PgConnectOptions,
    server: Arc<Server>,
}

/// What the connections have taught about what is behind `database_url`.
#[derive(Debug, Default)]
struct Server {
    /// A pooler has answered. It stays so until the process ends: what is right behind a pooler is right without one.
    pooled: AtomicBool,
    /// Connections that were made before lead to a server that has gone or may not write.
    abandoned: Mutex<Option<Instant>>,
}

impl Server {
    fn is_pooled(&self) -> bool {
        self.pooled.load(Ordering::Acquire)
    }

    fn note_pooler(&self) {
        if !self.pooled.swap(true, Ordering::AcqRel) {
            tracing::info!(
                "a connection pooler stands before PostgreSQL: each call is a transaction with unnamed statements, which \
                 takes three more round trips"
            );
        }
    }

    fn abandon(&self) {
        *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_abandoned(&self, age: Duration) -> bool {
        let abandoned = *self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        abandoned.is_some_and(|since| since.elapsed() <= age)
    }

    /// Looks whether a new connection is one to the server itself. Without a prepared statement, for it may not be.
    async fn look(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.is_pooled() {
            return Ok(());
        }
        if sqlx::raw_sql(IS_MARKED).fetch_optional(connection).await?.is_none() {
            self.note_pooler();
        }
        Ok(())
    }

    /// Whether a pooled connection may be used.
    async fn prove(&self, connection: &mut PgConnection, meta: PoolConnectionMetadata) -> Result<bool, sqlx::Error> {
        if self.is_abandoned(meta.age) {
            return Ok(false);
        }
        if meta.idle_for > PROVE_AFTER {
            let Ok(answer) = timeout(PROVE_TIMEOUT, connection.ping()).await else {
                // The others of its age would each take as long.
                self.abandon();
                return Err(sqlx::Error::Protocol("no answer within a second".to_owned()));
            };
            answer?;
        }
        Ok(true)
    }
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
            // For numbers that this program does not read; a pooler would refuse it.
            .extra_float_digits(None)
            .disable_statement_logging();
        let server = Arc::new(Server::default());
        let (new, old) = (server.clone(), server.clone());
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool.max_connections)
            .min_connections(settings.pool.min_connections)
            .max_lifetime(settings.pool.max_lifetime)
            .idle_timeout(settings.pool.idle_timeout)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let server = new.clone();
                Box::pin(async move { server.look(connection).await })
            })
            .before_acquire(move |connection, meta| {
                let server = old.clone();
                Box::pin(async move { server.prove(connection, meta).await })
            })
            .connect_lazy_with(options.clone().options(SETTINGS).options([MARK]));
        Ok(Self { pool, options, server })
    }

    /// Whether a pooler is known to stand before the server.
    pub(super) fn is_pooled(&self) -> bool {
        self.server.is_pooled()
    }

    /// Leaves the server that this process is connected to: it may not write.
    pub(super) fn abandon(&self) {
        self.server.abandon();
    }

    /// How many there are at most.
    pub(super) fn connections(&self) -> usize {
        usize::try_from(self.pool.options().get_max_connections()).unwrap_or(usize::MAX)
    }

    /// Connects outside the pool, without its time limits on statements: for migrations.
    pub(super) async fn dedicated(&self, lock_timeout: &str) -> Result<PgConnection, StoreError> {
        // The role or the database may have one of its own, too short for an index.
        let unlimited = ("statement_timeout", "0");
        let marked = self
            .options
            .clone()
            .options([("lock_timeout", lock_timeout), unlimited, MARK]);
        let connected = async {
            let mut connection = match marked.connect().await {
                Err(error) if fault::refuses_settings(&error) => {
                    self.server.note_pooler();
                    self.options.connect().await?
                }
                other => other?,
            };
            self.server.look(&mut connection).await?;
            Ok(connection)
        };
        match timeout(ACQUIRE_TIMEOUT, connected).await {
            Ok(connection) => connection.map_err(|error| store_error(&error)),
            Err(_) => Err(StoreError::Unavailable("no connection within 2 s".to_owned())),
        }
    }

    /// Runs `work` on a pooled connection, again when it collided with another transaction (the server has undone it then), or
    /// when its server turned out to be one that has gone or may not write: a server that goes may have carried it out, so
    /// `work` must be one that a second run only completes.
    pub(super) async fn run<A: Sync + ?Sized, T>(
        &self,
        input: &A,
        work: for<'c> fn(Session<'c>, &'c A) -> Work<'c, T>,
    ) -> Result<T, StoreError> {
        self.try_run(input, work, true).await
    }

    /// The same for `work` that takes something else at its second run: it is repeated only where the server has undone it.
    pub(super) async fn run_once<A: Sync + ?Sized, T>(
        &self,
        input: &A,
        work: for<'c> fn(Session<'c>, &'c A) -> Work<'c, T>,
    ) -> Result<T, StoreError> {
        self.try_run(input, work, false).await
    }

    async fn try_run<A: Sync + ?Sized, T>(
        &self,
        input: &A,
        work: for<'c> fn(Session<'c>, &'c A) -> Work<'c, T>,
        repeatable: bool,
    ) -> Result<T, StoreError> {
        let (mut collisions, mut left) = (0, false);
        loop {
            let mut connection = self.acquire().await?;
            let outcome = timeout(CALL_TIMEOUT, self.call(&mut connection, input, work)).await;
            let error = match outcome {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => {
                    // Nobody may get a connection that still waits for an answer, and the others of its age would each wait as
                    // long.
                    drop(connection.detach());
                    self.server.abandon();
                    return Err(StoreError::Unavailable(
                        "the database did not answer within 7 s".to_owned(),
                    ));
                }
            };
            let worth = fault::worth(&error);
            match worth {
                Worth::Good => drop(connection),
                Worth::Broken => drop(connection.detach()),
                Worth::Abandoned => {
                    drop(connection.detach());
                    self.server.abandon();
                }
                Worth::Pooled => {
                    drop(connection.detach());
                    self.server.note_pooler();
                }
            }
            // The address may lead to another server by now: a connection that is made anew tells.
            let elsewhere = worth == Worth::Abandoned && !left;
            let again = repeatable && (elsewhere || worth == Worth::Pooled) || fault::is_collision(&error);
            if !again || collisions == COLLISIONS {
                return Err(store_error(&error));
            }
            left |= elsewhere;
            collisions += 1;
            let pause = rand::random_range(0..20 * u64::from(collisions));
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn call<A: Sync + ?Sized, T>(
        &self,
        connection: &mut PgConnection,
        input: &A,
        work: for<'c> fn(Session<'c>, &'c A) -> Work<'c, T>,
    ) -> Result<T, sqlx::Error> {
        if !self.server.is_pooled() {
            return work(Session::new(connection, true), input).await;
        }
        let mut transaction = connection.begin_with(BEGIN_POOLED).await?;
        let value = work(Session::new(&mut transaction, false), input).await?;
        transaction.commit().await?;
        Ok(value)
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        let acquired = match self.pool.acquire().await {
            Err(error) if fault::refuses_settings(&error) => {
                self.server.note_pooler();
                self.pool.set_connect_options(self.options.clone());
                self.pool.acquire().await
            }
            other => other,
        };
        match acquired {
            Ok(connection) => Ok(connection),
            Err(sqlx::Error::PoolTimedOut) => Err(StoreError::Unavailable(self.why().await)),
            Err(error) => Err(store_error(&error)),
        }
    }

    /// Why there was no connection in time. The pool tries again and again, and does not say what it heard.
    async fn why(&self) -> String {
        let most = self.pool.options().get_max_connections();
        if self.pool.size() >= most && self.pool.num_idle() == 0 {
            return format!("all {most} connections are in use (`database.pool.max_connections`)");
        }
        match timeout(ASK_WHY, self.options.connect()).await {
            Ok(Err(error)) => format!("no connection within 2 s: {error}"),
            Ok(Ok(_)) | Err(_) => "no connection within 2 s".to_owned(),
        }
    }
}
