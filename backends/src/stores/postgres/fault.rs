//! What an error of PostgreSQL means: whose fault it is, and what it says about the connection and its server.

use openclaw_common::store::StoreError;

/// What PgBouncer answers to a transaction in its third mode.
const STATEMENT_MODE: &str = "statement pooling mode";

/// What a connection is worth after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It can be used again.
    Good,
    /// It is broken.
    Broken,
    /// Its server has gone or may not write, so the others to it are worth no more.
    Abandoned,
    /// A pooler answers: statements must have no names. The statement has changed nothing.
    Pooled,
}

/// Serialization failure or deadlock: rolled back by the server, harmless to repeat.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "40001" || code == "40P01")
}

/// The answer of a pooler, to a start that asks for settings, which it would have to keep apart for each client.
pub(super) fn refuses_settings(error: &sqlx::Error) -> bool {
    let text = || error.as_database_error().map_or("", |error| error.message());
    match code(error).as_deref() {
        Some("08P01") => text().contains("startup parameter"),
        // Amazon's RDS Proxy.
        Some("0A000") => text().contains("command-line options"),
        _ => false,
    }
}

/// What the connection is worth that the error came over.
pub(super) fn worth(error: &sqlx::Error) -> Worth {
    let Some(code) = code(error) else {
        return match error {
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                Worth::Broken
            }
            _ => Worth::Good,
        };
    };
    match code.as_str() {
        // Read-only; shut down by an administrator, by a crash, not yet open.
        "25006" | "57P01" | "57P02" | "57P03" => Worth::Abandoned,
        // A prepared statement that is there already, or is not: another client's, on a connection that both got.
        "42P05" | "26000" => Worth::Pooled,
        // A plan from before a migration; too many connections; idle for too long, in a transaction or not.
        "0A000" | "53300" | "57P05" | "25P03" => Worth::Broken,
        code if code.starts_with("08") => Worth::Broken,
        _ => Worth::Good,
    }
}

/// Whose fault it is, by SQLSTATE: a missing table or column, and missing rights, are the operator's; data, constraints and
/// syntax are ours; everything else (connections, resources, cancelled statements, a standby that cannot write) passes.
pub(super) fn store_error(error: &sqlx::Error) -> StoreError {
    let Some(code) = code(error) else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => StoreError::Unavailable(error.to_string()),
            _ => StoreError::Internal(error.to_string()),
        };
    };
    let text = format!("{error} (SQLSTATE {code})");
    match code.as_str() {
        "42P01" | "42703" => StoreError::Schema {
            found: 0,
            needed: super::schema::needed(),
        },
        "25006" => StoreError::ReadOnly,
        "08P01" if text.contains(STATEMENT_MODE) => StoreError::Unavailable(format!(
            "{text}: PgBouncer needs `pool_mode = transaction` or `session` for this database"
        )),
        "42501" | "42P05" => StoreError::Unavailable(text),
        "0A000" if text.contains("cached plan") => StoreError::Unavailable(text),
        // 22 data, 23 constraint, 42 syntax, 0A and 21 unsupported or impossible.
        code if ["22", "23", "42", "0A", "21"]
            .iter()
            .any(|class| code.starts_with(class)) =>
        {
            StoreError::Internal(text)
        }
        _ => StoreError::Unavailable(text),
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}
