//! What `openclaw check` asks PostgreSQL. What it says of a pooler in between stands in [`pooler`].

use std::time::Duration;

use sqlx::{PgConnection, Row};
use tokio::time::timeout;

use super::link::Link;
use super::schema;
use openclaw_common::checkup::{Asked, Finding};
use openclaw_common::store::StoreError;

const POSTGRESQL: &str = "postgresql";
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first version that is tested.
const LEAST: i64 = 150_000;
/// Asked without a prepared statement: a pooler may stand in between.
const ABOUT: &str =
    "SELECT current_setting('server_version') AS version, current_setting('server_version_num') AS number,
     (extract(epoch FROM clock_timestamp()) * 1000)::bigint::text AS now_ms,
     pg_is_in_recovery()::text AS standby, current_setting('transaction_read_only') AS read_only,
     current_setting('server_encoding') AS encoding, current_setting('synchronous_commit') AS synchronous,
     coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::text AS creates, current_user::text AS who,
     coalesce(current_schema(), '')::text AS schema";

/// Looks at the server, then at the schema as the roles see it.
pub(super) async fn checkup(link: &Link) -> Vec<Finding> {
    let mut connection = match link.dedicated("3s").await {
        Ok(connection) => connection,
        Err(error) => return vec![refusal(&error)],
    };
    let (mut findings, denied) = match timeout(PATIENCE, about(&mut connection)).await {
        Ok(Ok(about)) => about,
        Ok(Err(error)) => return vec![refusal(&StoreError::Unavailable(error.to_string()))],
        // Connected, perhaps to a pooler with no server behind it.
        Err(_) => {
            let silent = "the database did not answer within 5 s".to_owned();
            return vec![refusal(&StoreError::Unavailable(silent))];
        }
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
            denied.unwrap_or_else(|| "run `openclaw migrate -c DIR` (`openclaw run` does it by itself)".to_owned()),
        )),
        // Said above.
        Err(StoreError::ReadOnly) => None,
        Err(error) => Some(in_trouble(&error)),
    });
    findings
}

/// What is to be said of the server, and, when the user may make no tables, what has to be done before it can migrate.
async fn about(connection: &mut PgConnection) -> Result<(Vec<Finding>, Option<String>), sqlx::Error> {
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
    findings.extend(settings(&text("encoding")?, &text("synchronous")?));
    let denied = text("creates")? != "true";
    Ok((findings, denied.then_some(right(&text("schema")?, &text("who")?))))
}

/// What the database's own settings, or its user's, make impossible or unsafe.
fn settings(encoding: &str, synchronous: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    // SQL_ASCII takes what it is given.
    if !matches!(encoding, "UTF8" | "SQL_ASCII") {
        findings.push(Finding::wrong(
            POSTGRESQL,
            format!("the database's encoding is {encoding}: it cannot hold every text, Chinese least of all"),
            "make it anew with `createdb -T template0 -E UTF8 NAME`",
        ));
    }
    if synchronous == "off" {
        findings.push(Finding::warning(
            POSTGRESQL,
            "synchronous_commit is off: a crash of the server forgets what was answered last, and it is answered again",
            "set `synchronous_commit = on`, for the server, the database and the user",
        ));
    }
    findings
}

/// What lets the user make tables. PostgreSQL 15 stopped letting everybody in `public`.
fn right(schema: &str, who: &str) -> String {
    if schema.is_empty() {
        return format!(
            "first let its user find a schema, for none in its `search_path` exists: `ALTER ROLE \"{who}\" RESET search_path`; \
             then run `openclaw migrate -c DIR`"
        );
    }
    format!(
        "first let its user make tables, as superuser in that database: `GRANT CREATE, USAGE ON SCHEMA \"{schema}\" TO \
         \"{who}\"`; then run `openclaw migrate -c DIR`"
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use openclaw_common::checkup::Verdict;

    #[test]
    fn a_database_that_cannot_hold_every_text_is_wrong_and_one_that_forgets_unwise() {
        let results =
            |encoding, synchronous| -> Vec<_> { settings(encoding, synchronous).iter().map(|it| it.result).collect() };
        assert_eq!(results("UTF8", "on"), []);
        assert_eq!(results("SQL_ASCII", "remote_apply"), []);
        assert_eq!(results("LATIN1", "off"), [Verdict::Wrong, Verdict::Warning]);
    }
}
