//! The waiting room, and what a worker finds when it begins to serve a bot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;

use super::link::{Link, Work};
use super::rows::{actions, event_columns};
use crate::bot::BotId;
use crate::envelope::EventKey;
use crate::store::{Row, StoreError, UNFINISHED_PAGE, Unfinished};
use crate::stores::batch::{clean, millis};
use crate::stores::records::{ActionRecord, EventRecord, bot, rows};

const TAKE_UNFINISHED: &str = concat!(
    "WITH first AS MATERIALIZED (
         SELECT app_id, key FROM events WHERE bot = $1 AND state IN ('received', 'planned')
           AND (app_id, key) NOT IN (SELECT * FROM unnest($2::text[], $3::text[]))
         ORDER BY position LIMIT $4
     ),
     locked AS MATERIALIZED (
         SELECT e.app_id, e.key FROM first JOIN events e ON e.app_id = first.app_id AND e.key = first.key
         WHERE e.state IN ('received', 'planned')
         ORDER BY e.app_id, e.key FOR NO KEY UPDATE OF e
     )
     UPDATE events e SET fence = e.fence + 1
     FROM locked WHERE e.app_id = locked.app_id AND e.key = locked.key
     RETURNING ",
    event_columns!()
);

/// Walks the bot's waiting chats by index, one step a chat, and takes from each only its first due rows: a chat with a
/// hundred thousand rows costs no more than one with three. Two plans would ruin that, so the text rules them out: `IS FALSE`
/// hides the times, or the index by time would be read for every chat; and the scalar subquery is no anti-join, or every
/// holding row of a chat would be read although only those before the candidate matter.
const TAKE_DUE: &str = concat!(
    "WITH RECURSIVE chats AS (
         SELECT (SELECT chat FROM events WHERE bot = $1 AND state = 'waiting' ORDER BY chat LIMIT 1) AS chat
         UNION ALL
         SELECT (SELECT n.chat FROM events n WHERE n.bot = $1 AND n.state = 'waiting' AND n.chat > chats.chat
                 ORDER BY n.chat LIMIT 1)
         FROM chats WHERE chats.chat IS NOT NULL
     ),
     due AS (
         SELECT first.app_id, first.key
         FROM chats CROSS JOIN LATERAL (
             SELECT w.app_id, w.key, w.position FROM events w
             WHERE w.bot = $1 AND w.chat = chats.chat AND w.state = 'waiting' AND (w.due_at > now()) IS FALSE
               AND (SELECT true FROM events h
                    WHERE h.bot = $1 AND h.chat = chats.chat AND h.state = 'waiting'
                      AND h.hold AND h.position < w.position AND (h.due_at <= now()) IS FALSE
                    LIMIT 1) IS NULL
             ORDER BY w.position LIMIT $3
         ) AS first
         WHERE chats.chat IS NOT NULL AND chats.chat <> ALL ($2::text[])
         ORDER BY first.position LIMIT $4
     ),
     locked AS MATERIALIZED (
         SELECT e.app_id, e.key FROM due JOIN events e ON e.app_id = due.app_id AND e.key = due.key
         WHERE e.state = 'waiting' AND e.due_at <= now()
         ORDER BY e.app_id, e.key FOR NO KEY UPDATE OF e
     )
     UPDATE events e
     SET fence = e.fence + 1, due_at = NULL, state = CASE WHEN e.plan IS NULL THEN 'received' ELSE 'planned' END
     FROM locked WHERE e.app_id = locked.app_id AND e.key = locked.key
     RETURNING ",
    event_columns!()
);

type Taken = (Vec<EventRecord>, Vec<ActionRecord>);

/// [`crate::store::Store::unfinished`]
pub(super) async fn unfinished(link: &Link, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
    let ((events, actions), held) = link.run(&(bot, held), take_unfinished).await?;
    let held = held
        .into_iter()
        .map(|(chat, count)| (Arc::from(chat), count.unsigned_abs()))
        .collect();
    Ok(Unfinished {
        rows: rows(events, actions)?,
        held,
    })
}

fn take_unfinished<'c>(
    connection: &'c mut PgConnection,
    (bot, held): &'c (&BotId, &[EventKey]),
) -> Work<'c, (Taken, Vec<(String, i64)>)> {
    Box::pin(async move {
        let (apps, keys): (Vec<&str>, Vec<&str>) = held.iter().map(|held| (&*held.app_id, &*held.key)).unzip();
        let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_UNFINISHED)
            .bind(bot.as_str())
            .bind(apps)
            .bind(keys)
            .bind(UNFINISHED_PAGE as i64)
            .fetch_all(&mut *connection)
            .await?;
        events.sort_by_key(|event| event.position);
        let actions = actions(connection, &events).await?;
        let held = sqlx::query_as(
            "SELECT chat, count(*) FROM events WHERE bot = $1 AND state = 'waiting' AND hold GROUP BY chat",
        )
        .bind(bot.as_str())
        .fetch_all(connection)
        .await?;
        Ok(((events, actions), held))
    })
}

struct Wanted<'a> {
    bot: &'a BotId,
    full: &'a [Arc<str>],
    per_chat: u32,
    limit: u32,
}

/// [`crate::store::Store::take_due`]
pub(super) async fn take_due(
    link: &Link,
    bot: &BotId,
    full: &[Arc<str>],
    per_chat: u32,
    limit: u32,
) -> Result<Vec<Row>, StoreError> {
    let (events, actions) = link
        .run(
            &Wanted {
                bot,
                full,
                per_chat,
                limit,
            },
            take_wanted,
        )
        .await?;
    rows(events, actions)
}

fn take_wanted<'c>(connection: &'c mut PgConnection, wanted: &'c Wanted<'_>) -> Work<'c, Taken> {
    Box::pin(async move {
        let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_DUE)
            .bind(wanted.bot.as_str())
            .bind(wanted.full.iter().map(|chat| clean(chat)).collect::<Vec<_>>())
            .bind(i64::from(wanted.per_chat))
            .bind(i64::from(wanted.limit))
            .fetch_all(&mut *connection)
            .await?;
        events.sort_by_key(|event| event.position);
        let actions = actions(connection, &events).await?;
        Ok((events, actions))
    })
}

/// [`crate::store::Store::next_due`]
pub(super) async fn next_due(link: &Link, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
    link.run(bots, read_next_due)
        .await?
        .into_iter()
        .map(|(name, ms)| Ok((bot(&name)?, from_ms(ms))))
        .collect()
}

fn read_next_due<'c>(connection: &'c mut PgConnection, bots: &'c [BotId]) -> Work<'c, Vec<(String, i64)>> {
    Box::pin(async move {
        sqlx::query_as(
            "SELECT b.bot, ceil(extract(epoch FROM d.due_at - now()) * 1000)::bigint
             FROM unnest($1::text[]) AS b (bot)
             CROSS JOIN LATERAL (SELECT e.due_at FROM events e WHERE e.bot = b.bot AND e.state = 'waiting'
                                 ORDER BY e.due_at LIMIT 1) AS d",
        )
        .bind(bots.iter().map(BotId::as_str).collect::<Vec<&str>>())
        .fetch_all(connection)
        .await
    })
}

/// A time to come; one that has passed is now.
fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// [`crate::store::Store::overdue`]
pub(super) async fn overdue(link: &Link, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
    let counts = link.run(&millis(overdue), read_overdue).await?;
    counts
        .into_iter()
        .map(|(name, count)| Ok((bot(&name)?, count.unsigned_abs())))
        .collect()
}

fn read_overdue<'c>(connection: &'c mut PgConnection, overdue_ms: &'c i64) -> Work<'c, Vec<(String, i64)>> {
    Box::pin(
        sqlx::query_as(
            "SELECT bot, count(*) FROM events
             WHERE state = 'waiting' AND due_at < now() - $1 * interval '1 millisecond' GROUP BY bot ORDER BY bot",
        )
        .bind(overdue_ms)
        .fetch_all(connection),
    )
}
