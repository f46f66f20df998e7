//! The waiting room, and what a worker finds when it begins to serve a bot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::input::json;
use super::rows::{actions, event_columns};
use super::store_error;
use crate::bot::BotId;
use crate::envelope::EventKey;
use crate::sqlite::Sqlite;
use crate::store::{Row, StoreError, UNFINISHED_PAGE, Unfinished};
use crate::stores::batch::{clean, millis};
use crate::stores::records::{ActionRecord, EventRecord, bot, rows};
use crate::time::now_ms;

const TAKE_UNFINISHED: &str = concat!(
    "UPDATE events SET fence = fence + 1
     WHERE (app_id, key) IN (
         SELECT app_id, key FROM events WHERE bot = ?2 AND state IN ('received', 'planned')
           AND (app_id, key) NOT IN (SELECT value ->> 0, value ->> 1 FROM json_each(?3))
         ORDER BY position LIMIT ?4
     )
     RETURNING ",
    event_columns!()
);

/// Walks the bot's waiting chats by index, one step a chat, and takes from each only its first due rows: a chat with a
/// hundred thousand rows costs no more than one with three. `+` hides the times from the planner: the index by time would
/// be read once for every chat, which is ruinous when many rows wait for later.
const TAKE_DUE: &str = concat!(
    "WITH RECURSIVE chats (chat) AS (
         SELECT (SELECT chat FROM events WHERE bot = ?2 AND state = 'waiting' ORDER BY chat LIMIT 1)
         UNION ALL
         SELECT (SELECT n.chat FROM events n WHERE n.bot = ?2 AND n.state = 'waiting' AND n.chat > chats.chat
                 ORDER BY n.chat LIMIT 1)
         FROM chats WHERE chats.chat IS NOT NULL
     )
     UPDATE events
     SET fence = fence + 1, due_at = NULL, state = CASE WHEN plan IS NULL THEN 'received' ELSE 'planned' END
     WHERE position IN (
         SELECT d.position
         FROM chats CROSS JOIN events d ON d.position IN (
             SELECT w.position FROM events w
             WHERE w.bot = ?2 AND w.chat = chats.chat AND w.state = 'waiting' AND +w.due_at <= ?1
               AND NOT EXISTS (SELECT 1 FROM events h
                               WHERE h.bot = ?2 AND h.chat = chats.chat AND h.state = 'waiting'
                                 AND h.hold AND h.position < w.position AND +h.due_at > ?1)
             ORDER BY w.position LIMIT ?4
         )
         WHERE chats.chat IS NOT NULL AND chats.chat NOT IN (SELECT value FROM json_each(?3))
         ORDER BY d.position LIMIT ?5
     )
     RETURNING ",
    event_columns!()
);

/// [`crate::store::Store::unfinished`]
pub(super) async fn unfinished(database: &Sqlite, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
    let (events, actions, held) = take_unfinished(database, bot, held).await.map_err(store_error)?;
    let held = held
        .into_iter()
        .map(|(chat, count)| (Arc::from(chat), count.unsigned_abs()))
        .collect();
    Ok(Unfinished {
        rows: rows(events, actions)?,
        held,
    })
}

type TakenAndHeld = (Vec<EventRecord>, Vec<ActionRecord>, Vec<(String, i64)>);

async fn take_unfinished(database: &Sqlite, bot: &BotId, held: &[EventKey]) -> Result<TakenAndHeld, sqlx::Error> {
    let held: Vec<(&str, &str)> = held.iter().map(|held| (&*held.app_id, &*held.key)).collect();
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let now = now_ms();
    let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_UNFINISHED)
        .bind(now)
        .bind(bot.as_str())
        .bind(json(&held)?)
        .bind(UNFINISHED_PAGE as i64)
        .fetch_all(&mut *transaction)
        .await?;
    events.sort_by_key(|event| event.position);
    let actions = actions(&mut transaction, now, &events).await?;
    let held =
        sqlx::query_as("SELECT chat, count(*) FROM events WHERE bot = ?1 AND state = 'waiting' AND hold GROUP BY chat")
            .bind(bot.as_str())
            .fetch_all(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok((events, actions, held))
}

/// [`crate::store::Store::take_due`]
pub(super) async fn take_due(
    database: &Sqlite,
    bot: &BotId,
    full: &[Arc<str>],
    per_chat: u32,
    limit: u32,
) -> Result<Vec<Row>, StoreError> {
    let (events, actions) = take(database, bot, full, per_chat, limit).await.map_err(store_error)?;
    rows(events, actions)
}

async fn take(
    database: &Sqlite,
    bot: &BotId,
    full: &[Arc<str>],
    per_chat: u32,
    limit: u32,
) -> Result<(Vec<EventRecord>, Vec<ActionRecord>), sqlx::Error> {
    let full: Vec<_> = full.iter().map(|chat| clean(chat)).collect();
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let now = now_ms();
    let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_DUE)
        .bind(now)
        .bind(bot.as_str())
        .bind(json(&full)?)
        .bind(per_chat)
        .bind(limit)
        .fetch_all(&mut *transaction)
        .await?;
    events.sort_by_key(|event| event.position);
    let actions = actions(&mut transaction, now, &events).await?;
    transaction.commit().await?;
    Ok((events, actions))
}

/// [`crate::store::Store::next_due`]
pub(super) async fn next_due(database: &Sqlite, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
    read_next_due(database, bots)
        .await
        .map_err(store_error)?
        .into_iter()
        .map(|(name, ms)| Ok((bot(&name)?, Duration::from_millis(u64::try_from(ms).unwrap_or(0)))))
        .collect()
}

async fn read_next_due(database: &Sqlite, bots: &[BotId]) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let names: Vec<&str> = bots.iter().map(BotId::as_str).collect();
    sqlx::query_as(
        "SELECT bot, due_at - ?1 FROM (
             SELECT b.value AS bot, (SELECT min(e.due_at) FROM events e WHERE e.bot = b.value AND e.state = 'waiting') AS due_at
             FROM json_each(?2) AS b
         ) WHERE due_at IS NOT NULL",
    )
    .bind(now_ms())
    .bind(json(&names)?)
    .fetch_all(&database.reader)
    .await
}

/// [`crate::store::Store::overdue`]
pub(super) async fn overdue(database: &Sqlite, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT bot, count(*) FROM events WHERE state = 'waiting' AND due_at < ?1 GROUP BY bot ORDER BY bot",
    )
    .bind(now_ms() - millis(overdue))
    .fetch_all(&database.reader)
    .await
    .map_err(store_error)?;
    counts
        .into_iter()
        .map(|(name, count)| Ok((bot(&name)?, count.unsigned_abs())))
        .collect()
}
