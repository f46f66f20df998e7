//! The one SQLite file of the embedded backend, shared by its queue and its store.

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use crate::data_dir;
use openclaw_common::checkup::Finding;
use openclaw_common::store::StoreError;

/// The file's name in the data folder.
pub(crate) const FILE: &str = "openclaw.db";
const SQLITE: &str = "sqlite";

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
    /// Opens or creates the file, its owner's alone, and brings its schema up to date. Every commit is on disk before it
    /// returns.
    ///
    /// # Errors
    /// When the file cannot be opened or migrated.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        // SQLite would make it readable by everybody, and gives its log and its index of the log the mode of the file.
        data_dir::own_file(path).map_err(|error| unavailable(path, &error))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_release(|connection, _| Box::pin(is_whole(connection)))
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

/// Whether a connection that comes back can be used again. On a full disk SQLite ends a transaction by itself. The library does not
/// know, takes every later one for a part of it, and reports as committed what is never written: such a connection is closed.
async fn is_whole(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // The rollback of a dropped transaction may still be on its way.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

/// What `openclaw check` says of a data folder and the file in it. Neither is made, opened for writing or locked: a node may be
/// running on it.
pub(crate) async fn checkup(folder: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let path = folder.join(FILE);
    if path.exists() {
        findings.push(match look(&path).await {
            Ok((version, schema)) if schema > Sqlite::schema_version() => Finding::wrong(
                SQLITE,
                format!(
                    "{} was written by a newer version of this program (SQLite {version}, schema {schema})",
                    path.display()
                ),
                "run that version, or give this one another `backend.embedded.data_dir`",
            ),
            Ok((version, schema)) => Finding::ok(
                SQLITE,
                format!("SQLite {version}, {} has schema version {schema}", path.display()),
            ),
            Err(error) => Finding::wrong(
                SQLITE,
                format!("{} cannot be read: {error}", path.display()),
                "look at the file's owner and rights; if it is damaged, restore it from a backup",
            ),
        });
    } else {
        let detail = format!("{} is made at the first start", path.display());
        findings.push(Finding::ok(SQLITE, detail));
    }
    findings.push(data_dir::free_space(folder));
    findings
}

/// The library's version and the file's schema.
async fn look(path: &Path) -> Result<(String, i64), sqlx::Error> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .read_only(true)
        .connect()
        .await?;
    let version = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await?;
    let schema = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok((version, schema))
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn what_is_stored_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let database = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
        sqlx::query("DELETE FROM queue")
            .execute(&database.writer)
            .await
            .unwrap();
        let mut files = Vec::new();
        for entry in fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            files.push((entry.file_name().into_string().unwrap(), format!("{mode:o}")));
        }
        files.sort();
        let expected =
            ["openclaw.db", "openclaw.db-shm", "openclaw.db-wal"].map(|name| (name.to_owned(), "600".to_owned()));
        assert_eq!(files, expected);
    }
}
