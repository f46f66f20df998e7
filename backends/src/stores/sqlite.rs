//! The Store on SQLite.
//!
//! Every batch is one `BEGIN IMMEDIATE` transaction on the only writing connection, so nothing collides and nothing has to
//! be locked. Batches travel as one JSON array (`json_each`) and bodies beside it in one blob: few statements, whatever
//! the batch's size. The database runs inside this process, so its clock is the process's own.

mod apply;
mod begin;
mod dead;
mod due;
mod input;
mod look;
mod rows;
mod tenants;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::sqlite::Sqlite;
use crate::stores::batch::millis;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{
    Arrival, Begun, Burial, Change, DeadFilter, DeadLetter, Inspection, Replay, Replayed, Room, Row, Spent, Standing,
    State, Stop, Stopped, Store, StoreError, StoredPart, Tally, Unfinished,
};
use openclaw_common::time::now_ms;

/// What has happened to every event, in the embedded database.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    database: Sqlite,
}

impl SqliteStore {
    /// On an open file.
    #[must_use]
    pub fn new(database: Sqlite) -> Self {
        Self { database }
    }
}

#[async_trait]
impl Store for SqliteStore {
    /// SQLite has one: a batch that waits for it had better grow.
    fn writers(&self) -> usize {
        1
    }

    async fn begin(&self, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError> {
        begin::begin(&self.database, arrivals).await
    }

    async fn apply(&self, changes: &[Change]) -> Result<Vec<bool>, StoreError> {
        apply::apply(&self.database, changes).await
    }

    async fn is_ours(&self, key: &EventKey) -> Result<bool, StoreError> {
        look::is_ours(&self.database, key).await
    }

    async fn unfinished(&self, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
        due::unfinished(&self.database, bot, held).await
    }

    async fn take_due(&self, bot: &BotId, room: Room<'_>) -> Result<Vec<Row>, StoreError> {
        due::take_due(&self.database, bot, room).await
    }

    async fn next_due(&self, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
        due::next_due(&self.database, bots).await
    }

    async fn waiting(&self, bots: &[BotId]) -> Result<HashMap<BotId, u64>, StoreError> {
        due::waiting(&self.database, bots).await
    }

    async fn overdue(&self, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
        due::overdue(&self.database, overdue).await
    }

    async fn bury(&self, deaths: &[Burial]) -> Result<(), StoreError> {
        begin::bury(&self.database, deaths).await
    }

    async fn standing(&self, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
        look::standing(&self.database, keys).await
    }

    async fn inspect(&self, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
        look::inspect(&self.database, key).await
    }

    async fn parts(&self, bots: &[BotId]) -> Result<Vec<StoredPart>, StoreError> {
        look::parts(&self.database, bots).await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        dead::dead_letters(&self.database, filter, limit).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError> {
        dead::count(&self.database, filter).await
    }

    async fn replay(&self, order: &Replay) -> Result<Replayed, StoreError> {
        dead::replay(&self.database, order).await
    }

    async fn drop_dead(&self, ids: &[i64], who: &str) -> Result<u64, StoreError> {
        dead::drop_dead(&self.database, ids, who).await
    }

    async fn count(&self, bot: Option<&BotId>) -> Result<HashMap<State, u64>, StoreError> {
        // Two statements, so that the one for a bot reads that bot's part of the index only.
        let query = match bot {
            Some(bot) => {
                sqlx::query_as("SELECT state, count(*) FROM events WHERE bot = ?1 GROUP BY state").bind(bot.as_str())
            }
            None => sqlx::query_as("SELECT state, count(*) FROM events GROUP BY state"),
        };
        let counts: Vec<(String, i64)> = query.fetch_all(&self.database.reader).await.map_err(store_error)?;
        Ok(counts
            .into_iter()
            .filter_map(|(state, count)| Some((State::parse(&state)?, count.unsigned_abs())))
            .collect())
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, StoreError> {
        purge(&self.database, now_ms() - millis(retention), limit)
            .await
            .map_err(store_error)
    }

    async fn stop_tenant(&self, stop: &Stop) -> Result<bool, StoreError> {
        tenants::stop(&self.database, stop).await
    }

    async fn stopped_tenants(&self) -> Result<Vec<Stopped>, StoreError> {
        tenants::stopped(&self.database).await
    }

    async fn resume_tenants(&self, tenants: &[String], who: &str) -> Result<u64, StoreError> {
        tenants::resume(&self.database, tenants, who).await
    }

    async fn add_calls(&self, tally: &Tally) -> Result<(), StoreError> {
        tenants::add_calls(&self.database, tally).await
    }

    async fn spent(&self) -> Result<Spent, StoreError> {
        tenants::spent(&self.database).await
    }

    async fn note_warning(&self, tenant: &str, percent: u32) -> Result<bool, StoreError> {
        tenants::note_warning(&self.database, tenant, percent).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let found = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success")
            .fetch_one(&self.database.reader)
            .await
            .map_err(store_error)?;
        let needed = Sqlite::schema_version();
        if found < needed {
            Err(StoreError::Schema { found, needed })
        } else {
            Ok(())
        }
    }

    /// Opening the file has done it; what one process at a time may open needs no lock.
    async fn migrate(&self) -> Result<(), StoreError> {
        self.ready().await
    }
}

/// Dead letters go with their event: what nobody looked at for the whole retention is given up.
async fn purge(database: &Sqlite, before_ms: i64, limit: u32) -> Result<u64, sqlx::Error> {
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let old: Vec<(String, String)> = sqlx::query_as(
        "DELETE FROM events WHERE position IN
             (SELECT position FROM events WHERE finished_at < ?1 ORDER BY finished_at LIMIT ?2)
         RETURNING app_id, key",
    )
    .bind(before_ms)
    .bind(limit)
    .fetch_all(&mut *transaction)
    .await?;
    let names = input::json(&old)?;
    for statement in [
        "DELETE FROM actions WHERE (app_id, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
        "DELETE FROM dead_letters WHERE (app_id, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1))",
    ] {
        sqlx::query(statement).bind(&names).execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(old.len() as u64)
}

/// Whose fault it is, by SQLite's primary result code: a busy, full or failing disk passes, everything else is ours.
fn store_error(error: sqlx::Error) -> StoreError {
    /// ABORT, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN.
    const PASSING: [i32; 9] = [4, 5, 6, 7, 8, 9, 10, 13, 14];
    let passing = match &error {
        sqlx::Error::Database(error) => error
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| PASSING.contains(&(code & 0xff))),
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        _ => false,
    };
    if passing {
        StoreError::Unavailable(error.to_string())
    } else {
        StoreError::Internal(error.to_string())
    }
}
