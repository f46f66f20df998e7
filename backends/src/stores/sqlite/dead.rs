//! Dead letters and their replay.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::input::json;
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::clean;
use crate::stores::records::DeadRecord;
use crate::stores::replay::{self, Candidate, Revivals, UnknownAction};
use openclaw_common::store::{DeadFilter, DeadLetter, Replay, Replayed, StoreError};
use openclaw_common::time::now_ms;

/// Writes the dead letters of events that have just become `dead`, from their rows.
pub(super) async fn write_letters(
    connection: &mut SqliteConnection,
    now: i64,
    positions: &[i64],
) -> Result<(), sqlx::Error> {
    if positions.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO dead_letters (app_id, key, bot, chat, class, code, error, attempts, replay_gen, created_at, died_at)
         SELECT e.app_id, e.key, e.bot, e.chat, e.last_class, e.last_code, e.last_error,
                max(e.attempt + e.handler_starts,
                    coalesce((SELECT max(a.tries) FROM actions a WHERE a.app_id = e.app_id AND a.key = e.key), 0)),
                e.replay_gen, e.created_at, ?1
         FROM json_each(?2) AS i CROSS JOIN events e ON e.position = i.value
         ORDER BY i.key",
    )
    .bind(now)
    .bind(json(positions)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// `?1` … `?8`: [`DeadFilter`].
macro_rules! matches_filter {
    () => {
        " WHERE (?1 IS NULL OR bot = ?1) AND (?2 IS NULL OR class = ?2) AND (?3 IS NULL OR code = ?3)
            AND (?4 IS NULL OR died_at >= ?4) AND (?5 IS NULL OR id = ?5) AND (?6 OR resolved_at IS NULL)
            AND (?7 IS NULL OR id > ?7) AND (?8 IS NULL OR id < ?8) "
    };
}

macro_rules! bind_filter {
    ($query:expr, $filter:expr) => {
        $query
            .bind($filter.bot.as_ref().map(openclaw_common::bot::BotId::as_str))
            .bind($filter.class.as_deref())
            .bind($filter.code)
            .bind($filter.since_ms)
            .bind($filter.id)
            .bind($filter.closed)
            .bind($filter.after)
            .bind($filter.before)
    };
}

macro_rules! letters {
    ($order:literal) => {
        concat!(
            "SELECT id, app_id, key, bot, chat, class, code, error, attempts, replay_gen, created_at AS created_ms,
                    died_at AS died_ms, replayed_at AS replayed_ms, resolved_at AS resolved_ms
             FROM dead_letters",
            matches_filter!(),
            $order
        )
    };
}

/// [`openclaw_common::store::Store::dead_letters`]
pub(super) async fn dead_letters(
    database: &Sqlite,
    filter: &DeadFilter,
    limit: u32,
) -> Result<Vec<DeadLetter>, StoreError> {
    // Two texts, so that either order is the key's own.
    let query = sqlx::query_as(if filter.oldest_first {
        letters!("ORDER BY id LIMIT ?9")
    } else {
        letters!("ORDER BY id DESC LIMIT ?9")
    });
    let records: Vec<DeadRecord> = bind_filter!(query, filter)
        .bind(limit)
        .fetch_all(&database.reader)
        .await
        .map_err(store_error)?;
    records.into_iter().map(DeadRecord::into_letter).collect()
}

/// [`openclaw_common::store::Store::count_dead`]
pub(super) async fn count(database: &Sqlite, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError> {
    let query = sqlx::query_as(concat!(
        "SELECT class, count(*) FROM dead_letters",
        matches_filter!(),
        "GROUP BY class"
    ));
    let counts: Vec<(String, i64)> = bind_filter!(query, filter)
        .fetch_all(&database.reader)
        .await
        .map_err(store_error)?;
    Ok(counts
        .into_iter()
        .map(|(class, count)| (class, count.unsigned_abs()))
        .collect())
}

/// [`openclaw_common::store::Store::replay`]
pub(super) async fn replay(database: &Sqlite, order: &Replay) -> Result<Replayed, StoreError> {
    let ids = replay::distinct_ids(&order.ids);
    let mut total = Replayed::default();
    let mut before = 0;
    for chunk in ids.chunks(replay::CHUNK) {
        let classes = revive(database, order, chunk, before).await.map_err(store_error)?;
        before += classes.values().sum::<u64>();
        replay::add(&mut total, classes);
    }
    total.skipped = ids.len() as u64 - before;
    Ok(total)
}

async fn revive(
    database: &Sqlite,
    order: &Replay,
    ids: &[i64],
    before: u64,
) -> Result<HashMap<String, u64>, sqlx::Error> {
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let candidates: Vec<Candidate> = sqlx::query_as(
        "SELECT d.id, d.class, e.app_id, e.key, e.replay_gen, e.bot
         FROM json_each(?1) AS i CROSS JOIN dead_letters d ON d.id = i.value
         JOIN events e ON e.app_id = d.app_id AND e.key = d.key
         WHERE d.resolved_at IS NULL AND e.state = 'dead'",
    )
    .bind(json(ids)?)
    .fetch_all(&mut *transaction)
    .await?;
    let names: Vec<(&str, &str)> = candidates
        .iter()
        .map(|candidate| (candidate.app_id.as_str(), candidate.key.as_str()))
        .collect();
    let unknown: Vec<UnknownAction> = sqlx::query_as(
        "SELECT i.key AS place, a.idx, a.kind
         FROM json_each(?1) AS i CROSS JOIN actions a ON a.app_id = i.value ->> 0 AND a.key = i.value ->> 1
         WHERE a.state = 'unknown'",
    )
    .bind(json(&names)?)
    .fetch_all(&mut *transaction)
    .await?;
    let bots = replay::bots(&candidates);
    let last_due_ms = sqlx::query_scalar(
        "SELECT max(e.due_at) - ?1 FROM json_each(?2) AS i CROSS JOIN events e ON e.bot = i.value
         WHERE e.state = 'waiting' AND e.replay_gen > 0 AND e.attempt = 0",
    )
    .bind(now_ms())
    .bind(json(&bots)?)
    .fetch_one(&mut *transaction)
    .await?;
    let revivals = replay::decide(order, ids, before, last_due_ms, candidates, unknown);
    if !revivals.events.is_empty() {
        write(&mut transaction, order, &revivals).await?;
    }
    transaction.commit().await?;
    Ok(revivals.classes)
}

async fn write(connection: &mut SqliteConnection, order: &Replay, revivals: &Revivals) -> Result<(), sqlx::Error> {
    let now = now_ms();
    let events: Vec<_> = revivals
        .events
        .iter()
        .map(|event| (&event.app_id, &event.key, event.due_ms))
        .collect();
    let events = json(&events)?;
    let ids: Vec<i64> = revivals.events.iter().map(|event| event.id).collect();
    sqlx::query(
        "UPDATE events AS e
         SET state = 'waiting', fence = e.fence + 1, attempt = 0, handler_starts = 0, replay_gen = e.replay_gen + 1, priority = 2,
             due_at = ?1 + (i.value ->> 2), hold = 0, finished_at = NULL
         FROM json_each(?2) AS i WHERE e.app_id = i.value ->> 0 AND e.key = i.value ->> 1",
    )
    .bind(now)
    .bind(&events)
    .execute(&mut *connection)
    .await?;
    // What a person decided about unknown ones.
    let decisions: Vec<_> = revivals
        .decisions
        .iter()
        .map(|decision| (&decision.app_id, &decision.key, decision.idx, &decision.uuid))
        .collect();
    sqlx::query(
        "UPDATE actions AS a
         SET state = CASE WHEN i.value ->> 3 IS NULL THEN 'sent' ELSE 'planned' END,
             uuid = coalesce(i.value ->> 3, a.uuid),
             first_try_at = CASE WHEN i.value ->> 3 IS NULL THEN a.first_try_at END, refused = 0, code = NULL,
             sent_at = CASE WHEN i.value ->> 3 IS NULL THEN ?1 END
         FROM json_each(?2) AS i
         WHERE a.app_id = i.value ->> 0 AND a.key = i.value ->> 1 AND a.idx = i.value ->> 2 AND a.state = 'unknown'",
    )
    .bind(now)
    .bind(json(&decisions)?)
    .execute(&mut *connection)
    .await?;
    // Refused ones get another chance, and every unfinished one its tries back. A refusal means that no copy exists.
    sqlx::query(
        "UPDATE actions AS a SET state = 'planned', refused = a.refused OR a.state = 'refused', tries = 0
         FROM json_each(?1) AS i
         WHERE a.app_id = i.value ->> 0 AND a.key = i.value ->> 1 AND a.state IN ('planned', 'refused')",
    )
    .bind(&events)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE dead_letters SET replayed_at = ?1, resolved_at = ?1 WHERE id IN (SELECT value FROM json_each(?2))",
    )
    .bind(now)
    .bind(json(&ids)?)
    .execute(&mut *connection)
    .await?;
    audit(
        connection,
        &order.who,
        "replay",
        &replay::describe(&ids, order),
        ids.len() as i64,
    )
    .await
}

pub(super) async fn audit(
    connection: &mut SqliteConnection,
    who: &str,
    what: &str,
    filter: &str,
    count: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO audit (at, who, what, filter, count) VALUES (?1, ?2, ?3, ?4, ?5)")
        .bind(now_ms())
        .bind(clean(who))
        .bind(what)
        .bind(filter)
        .bind(count)
        .execute(connection)
        .await?;
    Ok(())
}

/// [`openclaw_common::store::Store::drop_dead`]
pub(super) async fn drop_dead(database: &Sqlite, ids: &[i64], who: &str) -> Result<u64, StoreError> {
    close(database, ids, who).await.map_err(store_error)
}

async fn close(database: &Sqlite, ids: &[i64], who: &str) -> Result<u64, sqlx::Error> {
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let closed: Vec<i64> = sqlx::query_scalar(
        "UPDATE dead_letters SET resolved_at = ?1
         WHERE id IN (SELECT value FROM json_each(?2)) AND resolved_at IS NULL RETURNING id",
    )
    .bind(now_ms())
    .bind(json(ids)?)
    .fetch_all(&mut *transaction)
    .await?;
    if !closed.is_empty() {
        audit(
            &mut transaction,
            who,
            "drop",
            &replay::describe_ids(&closed),
            closed.len() as i64,
        )
        .await?;
    }
    transaction.commit().await?;
    Ok(closed.len() as u64)
}
