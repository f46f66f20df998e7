//! The waiting room, and what a worker finds when it begins to serve a bot.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::input::json;
use super::rows::{actions, event_columns};
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::{clean, millis};
use crate::stores::records::{ActionRecord, EventRecord, HeldRecord, behind, bot, rows};
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{Room, Row, StoreError, UNFINISHED_PAGE, Unfinished, WAITING_COUNTED};
use openclaw_common::time::now_ms;

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

/// Whether a holding row of the same chat, earlier and not due, stands before the row of that alias.
macro_rules! is_free {
    ($row:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM events h INDEXED BY events_holding
                         WHERE h.bot = ?2 AND h.chat = ",
            $row,
            ".chat AND h.state = 'waiting' AND h.hold AND h.due_at > ?1 AND h.position < ",
            $row,
            ".position)"
        )
    };
}

/// The rows that speak for the most urgent chats. More than are wanted: several may be of one chat.
macro_rules! urgent {
    ($priority:literal, $limit:literal) => {
        concat!(
            "SELECT * FROM (SELECT u.chat, u.priority, u.due_at, u.position FROM events u INDEXED BY events_next
                            WHERE u.bot = ?2 AND u.state = 'waiting' AND NOT u.covered AND u.priority = ",
            $priority,
            " AND u.due_at <= ?1 AND u.chat NOT IN (SELECT value FROM json_each(?3)) AND ",
            is_free!("u"),
            " ORDER BY u.due_at, u.position LIMIT 2 * ",
            $limit,
            ")"
        )
    };
}

/// The first rows of one priority of a chat.
macro_rules! first {
    ($priority:literal) => {
        concat!(
            "SELECT * FROM (SELECT w.position, w.priority FROM events w INDEXED BY events_waiting
                            WHERE w.bot = ?2 AND w.chat = chats.chat AND w.state = 'waiting' AND w.priority = ",
            $priority,
            " AND w.due_at <= ?1 ORDER BY w.position LIMIT ?4)"
        )
    };
}

/// Finds the most urgent chats by the rows that speak for them and takes from each its first due rows: work for the rows
/// taken, however many wait.
const TAKE_DUE: &str = concat!(
    "WITH urgent (chat, priority, due_at, position) AS MATERIALIZED (",
    urgent!("0", "?5"),
    " UNION ALL ",
    urgent!("1", "?6"),
    " UNION ALL ",
    urgent!("2", "?6"),
    "),
     chats (chat, rank) AS MATERIALIZED (
         SELECT chat, rank FROM (
             SELECT chat, min(priority) AS rank,
                    row_number() OVER (PARTITION BY min(priority) = 0
                                       ORDER BY min(priority), min(due_at), min(position)) AS turn
             FROM urgent GROUP BY chat
         ) AS ranked
         WHERE turn <= CASE WHEN rank = 0 THEN ?5 ELSE ?6 END
     ),
     due (position, rank) AS MATERIALIZED (
         SELECT d.position, chats.rank
         FROM chats CROSS JOIN events d ON d.position IN (SELECT position FROM (",
    first!("0"),
    " UNION ALL ",
    first!("1"),
    " UNION ALL ",
    first!("2"),
    ") ORDER BY priority = 2, position LIMIT ?4)
         WHERE ",
    is_free!("d"),
    ")
     UPDATE events
     SET fence = fence + 1, due_at = NULL, covered = 0,
         state = CASE WHEN plan IS NULL THEN 'received' ELSE 'planned' END
     WHERE position IN (
         SELECT position FROM (SELECT position FROM due WHERE rank = 0 ORDER BY position LIMIT ?5)
         UNION ALL
         SELECT position FROM (SELECT position FROM due WHERE rank > 0 ORDER BY rank, position LIMIT ?6)
     )
     RETURNING ",
    event_columns!()
);

/// Brings the next row of each chat forward, now that those that spoke for it are taken, unless it speaks for itself.
const BRING_FORWARD: &str = "UPDATE events SET covered = 0 WHERE covered AND position IN (
        SELECT (SELECT n.position FROM events n INDEXED BY events_waiting
                WHERE n.bot = ?1 AND n.chat = chats.value AND n.state = 'waiting' AND (n.covered OR n.hold OR n.due_at <= ?3)
                ORDER BY n.priority, n.position LIMIT 1)
        FROM json_each(?2) AS chats
    )";

/// [`openclaw_common::store::Store::unfinished`]
pub(super) async fn unfinished(database: &Sqlite, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
    let (events, actions, held) = take_unfinished(database, bot, held).await.map_err(store_error)?;
    // With one writer no chat ever is mute; an older program that knows nothing of covers may have left one so.
    let mute: Vec<&str> = held
        .iter()
        .filter(|(.., covered)| *covered)
        .map(|(chat, ..)| chat.as_str())
        .collect();
    if !mute.is_empty() {
        bring_forward(&database.writer, now_ms(), bot, &mute)
            .await
            .map_err(store_error)?;
    }
    Ok(Unfinished {
        rows: rows(events, actions)?,
        held: behind(held.into_iter()),
    })
}

type TakenAndHeld = (Vec<EventRecord>, Vec<ActionRecord>, Vec<HeldRecord>);

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
    transaction.commit().await?;
    // Beside the writer, who has better things to do: this reads every row that waits.
    let held = sqlx::query_as(
        "SELECT chat, count(*), min(priority), min(position) FILTER (WHERE priority <> 2), min(covered)
         FROM events INDEXED BY events_holding WHERE bot = ?1 AND state = 'waiting' AND hold GROUP BY chat",
    )
    .bind(bot.as_str())
    .fetch_all(&database.reader)
    .await?;
    Ok((events, actions, held))
}

/// [`openclaw_common::store::Store::take_due`]
pub(super) async fn take_due(database: &Sqlite, bot: &BotId, room: Room<'_>) -> Result<Vec<Row>, StoreError> {
    let (events, actions) = take(database, bot, room).await.map_err(store_error)?;
    rows(events, actions)
}

async fn take(
    database: &Sqlite,
    bot: &BotId,
    room: Room<'_>,
) -> Result<(Vec<EventRecord>, Vec<ActionRecord>), sqlx::Error> {
    let full: Vec<_> = room.full.iter().map(|chat| clean(chat)).collect();
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let now = now_ms();
    let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_DUE)
        .bind(now)
        .bind(bot.as_str())
        .bind(json(&full)?)
        .bind(room.per_chat)
        .bind(room.answers)
        .bind(room.others)
        .fetch_all(&mut *transaction)
        .await?;
    events.sort_by_key(|event| event.position);
    if !events.is_empty() {
        let chats: HashSet<&str> = events.iter().map(|event| event.chat.as_str()).collect();
        let chats: Vec<&str> = chats.into_iter().collect();
        bring_forward(&mut *transaction, now, bot, &chats).await?;
    }
    let actions = actions(&mut transaction, now, &events).await?;
    transaction.commit().await?;
    Ok((events, actions))
}

async fn bring_forward<'e>(
    executor: impl sqlx::SqliteExecutor<'e>,
    now: i64,
    bot: &BotId,
    chats: &[&str],
) -> Result<(), sqlx::Error> {
    sqlx::query(BRING_FORWARD)
        .bind(bot.as_str())
        .bind(json(chats)?)
        .bind(now)
        .execute(executor)
        .await?;
    Ok(())
}

/// [`openclaw_common::store::Store::next_due`]
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
             SELECT b.value AS bot,
                    (SELECT min(due_at) FROM (
                        SELECT (SELECT min(e.due_at) FROM events e INDEXED BY events_next
                                WHERE e.bot = b.value AND e.priority = p.value AND e.state = 'waiting' AND NOT e.covered)
                               AS due_at
                        FROM json_each('[0, 1, 2]') AS p
                    )) AS due_at
             FROM json_each(?2) AS b
         ) WHERE due_at IS NOT NULL",
    )
    .bind(now_ms())
    .bind(json(&names)?)
    .fetch_all(&database.reader)
    .await
}

/// [`openclaw_common::store::Store::waiting`]
pub(super) async fn waiting(database: &Sqlite, bots: &[BotId]) -> Result<HashMap<BotId, u64>, StoreError> {
    count_waiting(database, bots)
        .await
        .map_err(store_error)?
        .into_iter()
        .map(|(name, rows)| Ok((bot(&name)?, rows.unsigned_abs())))
        .collect()
}

async fn count_waiting(database: &Sqlite, bots: &[BotId]) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let names: Vec<&str> = bots.iter().map(BotId::as_str).collect();
    sqlx::query_as(
        "SELECT bot, rows FROM (
             SELECT b.value AS bot,
                    (SELECT count(*) FROM (SELECT 1 FROM events e INDEXED BY events_by_state
                                           WHERE e.bot = b.value AND e.state = 'waiting' LIMIT ?2)) AS rows
             FROM json_each(?1) AS b
         ) WHERE rows > 0",
    )
    .bind(json(&names)?)
    .bind(WAITING_COUNTED)
    .fetch_all(&database.reader)
    .await
}

/// [`openclaw_common::store::Store::overdue`]
pub(super) async fn overdue(database: &Sqlite, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT bot, count(*) FROM events INDEXED BY events_next WHERE state = 'waiting' AND NOT covered AND due_at < ?1 GROUP BY bot ORDER BY bot",
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
