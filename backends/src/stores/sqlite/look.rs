//! Looking at events without taking them up.

use std::collections::HashMap;

use super::input::json;
use super::rows::event_columns;
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::name;
use crate::stores::records::{EventRecord, PartRecord, ReportRecord, StandingRecord, inspection};
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::seal;
use openclaw_common::store::{Inspection, PARTS_A_MANNER, PARTS_ROWS, Standing, State, StoreError, StoredPart};
use openclaw_common::time::now_ms;

const INSPECT: &str = concat!(
    "SELECT ",
    event_columns!("envelope"),
    " FROM events WHERE app_id = ?2 AND key = ?3"
);

/// [`openclaw_common::store::Store::is_ours`]
pub(super) async fn is_ours(database: &Sqlite, key: &EventKey) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM actions INDEXED BY actions_by_message WHERE message_id = ?1)")
        .bind(name(key).1)
        .fetch_one(&database.reader)
        .await
        .map_err(store_error)
}

/// [`openclaw_common::store::Store::standing`]
pub(super) async fn standing(database: &Sqlite, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
    let records = read_standing(database, keys).await.map_err(store_error)?;
    records.into_iter().map(StandingRecord::into_standing).collect()
}

async fn read_standing(database: &Sqlite, keys: &[EventKey]) -> Result<Vec<StandingRecord>, sqlx::Error> {
    let names: Vec<_> = keys.iter().map(name).collect();
    sqlx::query_as(
        "SELECT e.app_id, e.key, e.state, e.attempt, e.replay_gen,
                CASE WHEN e.state = 'waiting' THEN e.due_at - ?1 END AS due_in_ms
         FROM json_each(?2) AS i CROSS JOIN events e ON e.app_id = i.value ->> 0 AND e.key = i.value ->> 1",
    )
    .bind(now_ms())
    .bind(json(&names)?)
    .fetch_all(&database.reader)
    .await
}

/// [`openclaw_common::store::Store::inspect`]
pub(super) async fn inspect(database: &Sqlite, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
    let (event, actions) = read(database, key).await.map_err(store_error)?;
    event.map(|event| inspection(event, actions)).transpose()
}

async fn read(database: &Sqlite, key: &EventKey) -> Result<(Option<EventRecord>, Vec<ReportRecord>), sqlx::Error> {
    let (app_id, key) = name(key);
    let event = sqlx::query_as(INSPECT)
        .bind(now_ms())
        .bind(&app_id)
        .bind(&key)
        .fetch_optional(&database.reader)
        .await?;
    let actions = sqlx::query_as(
        "SELECT idx, kind, target, uuid, state, tries, code, message_id, sender, first_try_at AS first_tried_ms,
                sent_at AS sent_ms
         FROM actions WHERE app_id = ?1 AND key = ?2 ORDER BY idx",
    )
    .bind(&app_id)
    .bind(&key)
    .fetch_all(&database.reader)
    .await?;
    Ok((event, actions))
}

/// [`openclaw_common::store::Store::parts`]
pub(super) async fn parts(database: &Sqlite, bots: &[BotId]) -> Result<Vec<StoredPart>, StoreError> {
    let mut found = Vec::new();
    let mut of_manner: HashMap<Vec<u8>, u32> = HashMap::new();
    for bot in bots {
        for state in [State::Received, State::Planned, State::Waiting] {
            for record in read_parts(database, bot, state).await.map_err(store_error)? {
                let part = record.into_part()?;
                let manner = seal::manner(&part.bytes).unwrap_or_default().to_vec();
                let count = of_manner.entry(manner).or_default();
                *count += 1;
                if *count <= PARTS_A_MANNER {
                    found.push(part);
                }
            }
        }
    }
    Ok(found)
}

async fn read_parts(database: &Sqlite, bot: &BotId, state: State) -> Result<Vec<PartRecord>, sqlx::Error> {
    sqlx::query_as(
        "WITH some AS (
             SELECT app_id, key, bot, chat, type AS event_type, origin, tenant, envelope, plan
             FROM events INDEXED BY events_by_state
             WHERE bot = ?1 AND state = ?2 LIMIT ?3
         )
         SELECT app_id, key, bot, chat, event_type, origin, tenant, false AS is_plan, envelope AS bytes FROM some
         UNION ALL
         SELECT app_id, key, bot, chat, event_type, origin, tenant, true, plan FROM some WHERE plan IS NOT NULL",
    )
    .bind(bot.as_str())
    .bind(state.as_str())
    .bind(PARTS_ROWS)
    .fetch_all(&database.reader)
    .await
}
