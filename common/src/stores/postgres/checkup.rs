//! What `openclaw check` asks PostgreSQL. What it says of a pooler in between stands in [`pooler`].

use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::link::Link;
use super::schema;
use crate::checkup::{Asked, Finding};
use crate::store::StoreError;

const POSTGRESQL: &str = "postgresql";
/// The first version that is tested.
const LEAST: i64 = 150_000;
/// Asked without a prepared statement: a pooler may stand in between.
const ABOUT: &str =
    "SELECT current_setting('server_version') AS version, current_setting('server_version_num') AS number,
     (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text AS now_ms,
     pg_is_in_recovery()::text AS standby, current_setting('transaction_read_only') AS read_only";

/// Looks at the server, then at the schema as the roles see it.
pub(super) async fn checkup(link: &Link) -> Vec<Finding> {
    let mut connection = match link.dedicated("3s").await {
        Ok(connection) => connection,
        Err(error) => return vec![refusal(&error)],
    };
    let mut findings = match about(&mut connection).await {
        Ok(findings) => findings,
        Err(error) => return vec![refusal(&StoreError::Unavailable(error.to_string()))],
    };
    drop(connection);
    findings.extend(pooler(link));
    findings.extend(match schema::check(link).await {
        Ok(()) => Some(Finding::ok(
            POSTGRESQL,
            format!("the schema is version {} or later", schema::needed()),
        )),
        Err(StoreError::Schema { found, needed }) => Some(Finding::wrong(
            POSTGRESQL,
            format!("the schema is version {found}, this program needs {needed}"),
            "run `openclaw migrate -c DIR` (`openclaw run` does it by itself)",
        )),
        // Said above.
        Err(StoreError::ReadOnly) => None,
        Err(error) => Some(in_trouble(&error)),
    });
    findings
}

async fn about(connection: &mut PgConnection) -> Result<Vec<Finding>, sqlx::Error> {
    let asked = Asked::now();
    let row = sqlx::raw_sql(ABOUT).fetch_one(&mut *connection).await?;
    let text = |name: &str| row.try_get::<String, _>(name);
    let (version, number) = (text("version")?, text("number")?);
    let mut findings = Vec::new();
    if text("standby")? == "true" || text("read_only")? == "on" {
        findings.push(Finding::wrong(
            POSTGRESQL,
            format!("PostgreSQL {version} is a standby or read-only: nothing can be stored"),
            "name the primary in `backend.distributed.database_url`",
        ));
    } else if number.parse::<i64>().is_ok_and(|number| number < LEAST) {
        findings.push(Finding::wrong(
            POSTGRESQL,
            format!("PostgreSQL {version} is too old"),
            "run PostgreSQL 15 or later",
        ));
    } else {
        findings.push(Finding::ok(POSTGRESQL, format!("PostgreSQL {version}")));
    }
    if let Ok(now) = text("now_ms")?.parse() {
        findings.extend(asked.answered(POSTGRESQL, now, Duration::from_millis(1)));
    }
    Ok(findings)
}

/// What is to be said of a pooler that stands before the server.
fn pooler(link: &Link) -> Option<Finding> {
    let detail =
        "a connection pooler stands before it: each call is a transaction of its own, with three more round trips";
    link.is_pooled().then(|| Finding::ok(POSTGRESQL, detail))
}

/// It does not let us in.
fn refusal(error: &StoreError) -> Finding {
    let words = words(error);
    let to_do = if words.contains("28P01") || words.contains("28000") {
        "put a user and password that PostgreSQL knows into `backend.distributed.database_url` (special characters are \
         written as %XX), and let the user in by pg_hba.conf"
    } else if words.contains("3D000") {
        "create the database (`createdb -O USER NAME`), or name one that exists in `backend.distributed.database_url`"
    } else if words.contains("53300") {
        "raise `max_connections` of the server, or lower `database.pool.max_connections`"
    } else {
        "look whether PostgreSQL runs where `backend.distributed.database_url` points, and a firewall lets it through"
    };
    Finding::unreachable(POSTGRESQL, words, to_do)
}

/// It let us in, and what the roles do fails.
fn in_trouble(error: &StoreError) -> Finding {
    let words = words(error);
    match error {
        StoreError::Unavailable(text) if text.contains("statement pooling") => Finding::wrong(
            POSTGRESQL,
            words,
            "set `pool_mode = transaction` or `session` for this database in pgbouncer.ini",
        ),
        error if matches!(error, StoreError::Internal(_)) || words.contains("42501") => Finding::wrong(
            POSTGRESQL,
            words,
            "let the user of `backend.distributed.database_url` own the database, or grant it the tables",
        ),
        _ => refusal(error),
    }
}

fn words(error: &StoreError) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("store: ").unwrap_or(&text);
    text.strip_prefix("error returned from database: ")
        .unwrap_or(text)
        .to_owned()
}
