//! The Store on PostgreSQL.
//!
//! Batches travel as arrays (`UNNEST`), nearly every call is one statement in one round trip, and rows are locked in key
//! order. Statements run one by one at READ COMMITTED: each guard sees what was last committed.

mod apply;
mod begin;
mod checkup;
mod dead;
mod due;
mod fault;
mod link;
mod look;
mod rows;
mod schema;
mod session;
mod tenants;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;

use crate::stores::batch::millis;
use link::{Link, Work};
use openclaw_common::bot::BotId;
use openclaw_common::checkup::Finding;
use openclaw_common::config::Database;
use openclaw_common::envelope::EventKey;
use openclaw_common::secret::Secret;
use openclaw_common::store::{
    Arrival, Begun, Burial, Change, DeadFilter, DeadLetter, Inspection, Replay, Replayed, Room, Row, Spent, Standing,
    State, Stop, Stopped, Store, StoreError, StoredPart, Tally, Unfinished,
};
use session::Session;

/// What has happened to every event, in PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    link: Link,
}

impl Postgres {
    /// Connects when first used, so that a process can start while the database is down; [`Store::ready`] says how it is.
    /// Has to be called inside a tokio runtime.
    ///
    /// # Errors
    /// When `url` is no PostgreSQL address.
    pub fn connect(url: &Secret, settings: &Database) -> Result<Self, StoreError> {
        Ok(Self {
            link: Link::new(url, settings)?,
        })
    }

    /// What `openclaw check` says of the server and the schema.
    pub(crate) async fn checkup(&self) -> Vec<Finding> {
        checkup::checkup(&self.link).await
    }
}

#[async_trait]
impl Store for Postgres {
    fn writers(&self) -> usize {
        self.link.connections()
    }

    async fn begin(&self, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError> {
        begin::begin(&self.link, arrivals).await
    }

    async fn apply(&self, changes: &[Change]) -> Result<Vec<bool>, StoreError> {
        apply::apply(&self.link, changes).await
    }

    async fn is_ours(&self, key: &EventKey) -> Result<bool, StoreError> {
        look::is_ours(&self.link, key).await
    }

    async fn unfinished(&self, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
        due::unfinished(&self.link, bot, held).await
    }

    async fn take_due(&self, bot: &BotId, room: Room<'_>) -> Result<Vec<Row>, StoreError> {
        due::take_due(&self.link, bot, room).await
    }

    async fn next_due(&self, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
        due::next_due(&self.link, bots).await
    }

    async fn waiting(&self, bots: &[BotId]) -> Result<HashMap<BotId, u64>, StoreError> {
        due::waiting(&self.link, bots).await
    }

    async fn overdue(&self, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
        due::overdue(&self.link, overdue).await
    }

    async fn bury(&self, deaths: &[Burial]) -> Result<(), StoreError> {
        begin::bury(&self.link, deaths).await
    }

    async fn standing(&self, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
        look::standing(&self.link, keys).await
    }

    async fn inspect(&self, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
        look::inspect(&self.link, key).await
    }

    async fn parts(&self, bots: &[BotId]) -> Result<Vec<StoredPart>, StoreError> {
        look::parts(&self.link, bots).await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        dead::dead_letters(&self.link, filter, limit).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError> {
        dead::count(&self.link, filter).await
    }

    async fn replay(&self, order: &Replay) -> Result<Replayed, StoreError> {
        dead::replay(&self.link, order).await
    }

    async fn drop_dead(&self, ids: &[i64], who: &str) -> Result<u64, StoreError> {
        dead::drop_dead(&self.link, ids, who).await
    }

    async fn count(&self, bot: Option<&BotId>) -> Result<HashMap<State, u64>, StoreError> {
        let counts = self.link.run(&bot, count).await?;
        Ok(counts
            .into_iter()
            .filter_map(|(state, count)| Some((State::parse(&state)?, count.unsigned_abs())))
            .collect())
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, StoreError> {
        self.link.run(&(millis(retention), i64::from(limit)), purge).await
    }

    async fn stop_tenant(&self, stop: &Stop) -> Result<bool, StoreError> {
        tenants::stop(&self.link, stop).await
    }

    async fn stopped_tenants(&self) -> Result<Vec<Stopped>, StoreError> {
        tenants::stopped(&self.link).await
    }

    async fn resume_tenants(&self, tenants: &[String], who: &str) -> Result<u64, StoreError> {
        tenants::resume(&self.link, tenants, who).await
    }

    async fn add_calls(&self, tally: &Tally) -> Result<(), StoreError> {
        tenants::add_calls(&self.link, tally).await
    }

    async fn spent(&self) -> Result<Spent, StoreError> {
        tenants::spent(&self.link).await
    }

    async fn note_warning(&self, tenant: &str, percent: u32) -> Result<bool, StoreError> {
        tenants::note_warning(&self.link, tenant, percent).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        schema::check(&self.link).await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        schema::migrate(&self.link).await
    }
}

fn count<'c>(connection: Session<'c>, bot: &'c Option<&BotId>) -> Work<'c, Vec<(String, i64)>> {
    // Two statements, so that the one for a bot reads that bot's part of the indexes only.
    Box::pin(match bot {
        Some(bot) => sqlx::query_as(
            "SELECT state, count(*) FROM events WHERE bot = $1 AND state <> 'waiting' GROUP BY state
             UNION ALL
             SELECT 'waiting', count(*) FROM events WHERE bot = $1 AND state = 'waiting' HAVING count(*) > 0",
        )
        .bind(bot.as_str())
        .fetch_all(connection),
        None => sqlx::query_as("SELECT state, count(*) FROM events GROUP BY state").fetch_all(connection),
    })
}

/// Dead letters go with their event: what nobody looked at for the whole retention is given up.
fn purge<'c>(connection: Session<'c>, (retention_ms, limit): &'c (i64, i64)) -> Work<'c, u64> {
    Box::pin(async move {
        let purged = sqlx::query(
            "WITH old AS MATERIALIZED (
                 SELECT app_id, key FROM events WHERE finished_at < now() - $1 * interval '1 millisecond'
                 ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED
             ),
             actions_gone AS (DELETE FROM actions a USING old WHERE a.app_id = old.app_id AND a.key = old.key),
             letters_gone AS (DELETE FROM dead_letters d USING old WHERE d.app_id = old.app_id AND d.key = old.key)
             DELETE FROM events e USING old WHERE e.app_id = old.app_id AND e.key = old.key",
        )
        .bind(*retention_ms)
        .bind(*limit)
        .execute(connection)
        .await?;
        Ok(purged.rows_affected())
    })
}
