//! The waiting room, and what a worker finds when it begins to serve a bot.

use std::collections::HashMap;
use std::time::Duration;

use super::link::{Link, Work};
use super::rows::{actions, event_columns};
use super::session::Session;
use crate::stores::batch::{clean, millis};
use crate::stores::records::{ActionRecord, EventRecord, HeldRecord, behind, bot, rows};
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{Room, Row, StoreError, UNFINISHED_PAGE, Unfinished, WAITING_COUNTED};

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

/// Where the chat of that name is blocked from: its first holding row that is not due. What stands before it is free. Says
/// nothing of the state, which a time to come implies: so no index but `events_blocking` will do, and what is due already is
/// not read, however much of it there is.
macro_rules! wall {
    ($chat:literal) => {
        concat!(
            "(SELECT min(h.position) FROM events h
              WHERE h.bot = $1 AND h.chat = ",
            $chat,
            " AND h.hold AND h.due_at > now())"
        )
    };
}

/// The rows that speak for the most urgent chats. More than are wanted: several may be of one chat. In `coalesce` the
/// condition is expected to be true, or the planner would not believe that a few rows are enough.
macro_rules! urgent {
    ($priority:literal, $limit:literal) => {
        concat!(
            "(SELECT u.chat, u.priority, u.due_at, u.position FROM events u
              WHERE u.bot = $1 AND u.state = 'waiting' AND NOT u.covered AND u.priority = ",
            $priority,
            " AND u.due_at <= now() AND u.chat <> ALL ($2::text[]) AND coalesce(u.position < ",
            wall!("u.chat"),
            ", true) ORDER BY u.due_at, u.position LIMIT 2 * ",
            $limit,
            ")"
        )
    };
}

/// The first rows of one priority of a chat.
macro_rules! first {
    ($priority:literal) => {
        concat!(
            "(SELECT w.app_id, w.key, w.chat, w.position, w.priority FROM events w
              WHERE w.bot = $1 AND w.chat = chats.chat AND w.state = 'waiting' AND w.priority = ",
            $priority,
            " AND w.due_at <= now() ORDER BY w.position LIMIT $3)"
        )
    };
}

/// Finds the most urgent chats by the rows that speak for them, takes from each its first due rows, and brings the next one
/// of each forward, unless that one speaks for itself: work for the rows taken, however many wait.
const TAKE_DUE: &str = concat!(
    "WITH urgent AS MATERIALIZED (",
    urgent!("0", "$4"),
    " UNION ALL ",
    urgent!("1", "$5"),
    " UNION ALL ",
    urgent!("2", "$5"),
    "),
     chats AS MATERIALIZED (
         SELECT chat, rank FROM (
             SELECT chat, min(priority) AS rank,
                    row_number() OVER (PARTITION BY min(priority) = 0
                                       ORDER BY min(priority), min(due_at), min(position)) AS turn
             FROM urgent GROUP BY chat
         ) AS ranked
         WHERE turn <= CASE WHEN rank = 0 THEN $4 ELSE $5 END
     ),
     due AS MATERIALIZED (
         SELECT head.app_id, head.key, head.position, chats.rank
         FROM (SELECT chat, rank, ",
    wall!("chats.chat"),
    " AS wall FROM chats OFFSET 0) AS chats
         CROSS JOIN LATERAL (
             SELECT * FROM (",
    first!("0"),
    " UNION ALL ",
    first!("1"),
    " UNION ALL ",
    first!("2"),
    ") AS first ORDER BY first.priority = 2, first.position LIMIT $3
         ) AS head
         WHERE coalesce(head.position < chats.wall, true)
     ),
     wanted AS MATERIALIZED (
         (SELECT app_id, key FROM due WHERE rank = 0 ORDER BY position LIMIT $4)
         UNION ALL
         (SELECT app_id, key FROM due WHERE rank > 0 ORDER BY rank, position LIMIT $5)
     ),
     locked AS MATERIALIZED (
         SELECT e.app_id, e.key, e.chat FROM wanted JOIN events e ON e.app_id = wanted.app_id AND e.key = wanted.key
         WHERE e.state = 'waiting' AND e.due_at <= now()
         ORDER BY e.app_id, e.key FOR NO KEY UPDATE OF e
     ),
     brought_forward AS (
         UPDATE events e SET covered = false
         FROM (SELECT DISTINCT chat FROM locked) AS chats
         CROSS JOIN LATERAL (
             SELECT n.app_id, n.key, n.covered FROM events n
             WHERE n.bot = $1 AND n.chat = chats.chat AND n.state = 'waiting' AND (n.covered OR n.hold OR n.due_at <= now())
               AND (n.app_id, n.key) NOT IN (SELECT app_id, key FROM locked)
             ORDER BY n.priority, n.position LIMIT 1
         ) AS next
         WHERE e.app_id = next.app_id AND e.key = next.key AND next.covered
     )
     UPDATE events e
     SET fence = e.fence + 1, due_at = NULL, covered = false,
         state = CASE WHEN e.plan IS NULL THEN 'received' ELSE 'planned' END
     FROM locked WHERE e.app_id = locked.app_id AND e.key = locked.key
     RETURNING ",
    event_columns!()
);

/// What waits behind each chat, and chats all of whose rows are covered. 2 is a replay.
const HELD: &str = "SELECT chat, count(*), min(priority)::bigint, min(position) FILTER (WHERE priority <> 2),
    bool_and(covered)
    FROM events WHERE bot = $1 AND hold AND due_at IS NOT NULL GROUP BY chat";

/// Brings one row of each chat forward.
const UNCOVER: &str = "UPDATE events e SET covered = false
    FROM unnest($2::text[]) AS chats (chat)
    CROSS JOIN LATERAL (
        SELECT n.app_id, n.key FROM events n
        WHERE n.bot = $1 AND n.chat = chats.chat AND n.state = 'waiting' AND n.covered
        ORDER BY n.priority, n.position LIMIT 1
    ) AS next
    WHERE e.app_id = next.app_id AND e.key = next.key";

type Taken = (Vec<EventRecord>, Vec<ActionRecord>);

/// [`openclaw_common::store::Store::unfinished`]
pub(super) async fn unfinished(link: &Link, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
    let ((events, actions), held) = link.run(&(bot, held), take_unfinished).await?;
    // A predecessor may have taken a chat's last speaker while a row was being covered by it, or be an older program that
    // knows nothing of covers: nobody would look for that row any more.
    let mute: Vec<String> = held
        .iter()
        .filter(|(.., covered)| *covered)
        .map(|(chat, ..)| chat.clone())
        .collect();
    if !mute.is_empty() {
        link.run(&(bot, mute), uncover).await?;
    }
    Ok(Unfinished {
        rows: rows(events, actions)?,
        held: behind(held.into_iter()),
    })
}

fn take_unfinished<'c>(
    mut connection: Session<'c>,
    (bot, held): &'c (&BotId, &[EventKey]),
) -> Work<'c, (Taken, Vec<HeldRecord>)> {
    Box::pin(async move {
        let (apps, keys): (Vec<&str>, Vec<&str>) = held.iter().map(|held| (&*held.app_id, &*held.key)).unzip();
        let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_UNFINISHED)
            .bind(bot.as_str())
            .bind(apps)
            .bind(keys)
            .bind(UNFINISHED_PAGE as i64)
            .fetch_all(connection.again())
            .await?;
        events.sort_by_key(|event| event.position);
        let actions = actions(connection.again(), &events).await?;
        let held = sqlx::query_as(HELD).bind(bot.as_str()).fetch_all(connection).await?;
        Ok(((events, actions), held))
    })
}

fn uncover<'c>(connection: Session<'c>, (bot, chats): &'c (&BotId, Vec<String>)) -> Work<'c, ()> {
    Box::pin(async move {
        sqlx::query(UNCOVER)
            .bind(bot.as_str())
            .bind(chats)
            .execute(connection)
            .await?;
        Ok(())
    })
}

/// [`openclaw_common::store::Store::take_due`]
pub(super) async fn take_due(link: &Link, bot: &BotId, room: Room<'_>) -> Result<Vec<Row>, StoreError> {
    // A second run would take other rows, and nobody would know of the first ones.
    let (events, actions) = link.run_once(&(bot, room), take_wanted).await?;
    rows(events, actions)
}

fn take_wanted<'c>(mut connection: Session<'c>, (bot, room): &'c (&BotId, Room<'_>)) -> Work<'c, Taken> {
    Box::pin(async move {
        let mut events: Vec<EventRecord> = sqlx::query_as(TAKE_DUE)
            .bind(bot.as_str())
            .bind(room.full.iter().map(|chat| clean(chat)).collect::<Vec<_>>())
            .bind(i64::from(room.per_chat))
            .bind(i64::from(room.answers))
            .bind(i64::from(room.others))
            .fetch_all(connection.again())
            .await?;
        events.sort_by_key(|event| event.position);
        let actions = actions(connection, &events).await?;
        Ok((events, actions))
    })
}

/// [`openclaw_common::store::Store::next_due`]
pub(super) async fn next_due(link: &Link, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
    link.run(bots, read_next_due)
        .await?
        .into_iter()
        .map(|(name, ms)| Ok((bot(&name)?, from_ms(ms))))
        .collect()
}

fn read_next_due<'c>(connection: Session<'c>, bots: &'c [BotId]) -> Work<'c, Vec<(String, i64)>> {
    Box::pin(async move {
        sqlx::query_as(
            "SELECT b.bot, ceil(extract(epoch FROM d.due_at - now()) * 1000)::bigint
             FROM unnest($1::text[]) AS b (bot)
             CROSS JOIN LATERAL (
                 SELECT min(first.due_at) AS due_at
                 FROM generate_series(0, 2) AS p (priority)
                 CROSS JOIN LATERAL (
                     SELECT e.due_at FROM events e
                     WHERE e.bot = b.bot AND e.priority = p.priority AND e.state = 'waiting' AND NOT e.covered
                     ORDER BY e.due_at LIMIT 1
                 ) AS first
             ) AS d
             WHERE d.due_at IS NOT NULL",
        )
        .bind(bots.iter().map(BotId::as_str).collect::<Vec<&str>>())
        .fetch_all(connection)
        .await
    })
}

/// [`openclaw_common::store::Store::waiting`]
pub(super) async fn waiting(link: &Link, bots: &[BotId]) -> Result<HashMap<BotId, u64>, StoreError> {
    link.run(bots, count_waiting)
        .await?
        .into_iter()
        .map(|(name, rows)| Ok((bot(&name)?, rows.unsigned_abs())))
        .collect()
}

fn count_waiting<'c>(connection: Session<'c>, bots: &'c [BotId]) -> Work<'c, Vec<(String, i64)>> {
    Box::pin(
        sqlx::query_as(
            "SELECT b.bot, c.rows FROM unnest($1::text[]) AS b (bot)
             CROSS JOIN LATERAL (
                 SELECT count(*) AS rows
                 FROM (SELECT 1 FROM events e WHERE e.bot = b.bot AND e.state = 'waiting' LIMIT $2) AS counted
             ) AS c
             WHERE c.rows > 0",
        )
        .bind(bots.iter().map(BotId::as_str).collect::<Vec<&str>>())
        .bind(i64::from(WAITING_COUNTED))
        .fetch_all(connection),
    )
}

/// A time to come; one that has passed is now.
fn from_ms(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// [`openclaw_common::store::Store::overdue`]
pub(super) async fn overdue(link: &Link, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
    let counts = link.run(&millis(overdue), read_overdue).await?;
    counts
        .into_iter()
        .map(|(name, count)| Ok((bot(&name)?, count.unsigned_abs())))
        .collect()
}

fn read_overdue<'c>(connection: Session<'c>, overdue_ms: &'c i64) -> Work<'c, Vec<(String, i64)>> {
    Box::pin(
        sqlx::query_as(
            "SELECT bot, count(*) FROM events
             WHERE state = 'waiting' AND NOT covered AND due_at < now() - $1 * interval '1 millisecond' GROUP BY bot ORDER BY bot",
        )
        .bind(overdue_ms)
        .fetch_all(connection),
    )
}
