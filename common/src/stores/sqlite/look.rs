//! Looking at events without taking them up.

use std::collections::HashMap;

use super::input::json;
use super::rows::event_columns;
use super::store_error;
use crate::envelope::EventKey;
use crate::sqlite::Sqlite;
use crate::store::{Inspection, Standing, StoreError};
use crate::stores::batch::name;
use crate::stores::records::{EventRecord, ReportRecord, StandingRecord, inspection};
use crate::time::now_ms;

const INSPECT: &str = concat!(
    "SELECT ",
    event_columns!("envelope"),
    " FROM events WHERE app_id = ?2 AND key = ?3"
);

/// [`crate::store::Store::standing`]
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

/// [`crate::store::Store::inspect`]
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
