//! A connection for one call, and whether its statements may have names.
//!
//! Straight to PostgreSQL a statement is prepared once a connection, under a name, and found there by every later call.
//! Behind a pooler each transaction may run on another connection of the pooler's: the name is not there, or is another
//! statement's. There a statement has no name, and a call is one transaction.

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Connection as _, Describe, Either, Execute, Executor, PgConnection, Postgres, SqlStr};

/// What a call runs its statements on.
#[derive(Debug)]
pub(super) struct Session<'c> {
    connection: &'c mut PgConnection,
    named: bool,
}

impl<'c> Session<'c> {
    /// `named`: nothing stands between this process and the server.
    pub(super) fn new(connection: &'c mut PgConnection, named: bool) -> Self {
        Self { connection, named }
    }

    /// For a statement that is not the last one.
    pub(super) fn again(&mut self) -> Session<'_> {
        Session::new(self.connection, self.named)
    }

    /// Begins a transaction, or, inside one, a savepoint.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, sqlx::Error> {
        Ok(Transaction {
            transaction: self.connection.begin().await?,
            named: self.named,
        })
    }
}

/// A transaction; rolled back unless it is committed.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    transaction: sqlx::Transaction<'c, Postgres>,
    named: bool,
}

impl Transaction<'_> {
    /// For a statement in it.
    pub(super) fn session(&mut self) -> Session<'_> {
        Session::new(&mut self.transaction, self.named)
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        self.transaction.commit().await
    }
}

impl<'c> Executor<'c> for Session<'c> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.named {
            self.connection.fetch_many(query)
        } else {
            self.connection.fetch_many(Unnamed(query))
        }
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        if self.named {
            self.connection.fetch_optional(query)
        } else {
            self.connection.fetch_optional(Unnamed(query))
        }
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        self.connection.describe(sql)
    }
}

/// A query that is prepared without a name.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.0.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}
