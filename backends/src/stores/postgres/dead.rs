//! Dead letters and their replay.

use std::collections::HashMap;

use super::link::{Link, Work};
use super::session::Session;
use crate::stores::batch::clean;
use crate::stores::records::DeadRecord;
use crate::stores::replay::{self, Candidate, Revivals, UnknownAction};
use openclaw_common::store::{DeadFilter, DeadLetter, Replay, Replayed, StoreError};

/// `$1` … `$8`: [`DeadFilter`].
macro_rules! matches_filter {
    () => {
        " WHERE ($1::text IS NULL OR bot = $1) AND ($2::text IS NULL OR class = $2) AND ($3::bigint IS NULL OR code = $3)
            AND ($4::bigint IS NULL OR died_at >= timestamptz 'epoch' + $4 * interval '1 millisecond')
            AND ($5::bigint IS NULL OR id = $5) AND ($6 OR resolved_at IS NULL) AND ($7::bigint IS NULL OR id > $7)
            AND ($8::bigint IS NULL OR id < $8) "
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
            "SELECT id, app_id, key, bot, chat, class, code, error, attempts::bigint AS attempts,
                    replay_gen::bigint AS replay_gen, (extract(epoch FROM created_at) * 1000)::bigint AS created_ms,
                    (extract(epoch FROM died_at) * 1000)::bigint AS died_ms,
                    (extract(epoch FROM replayed_at) * 1000)::bigint AS replayed_ms,
                    (extract(epoch FROM resolved_at) * 1000)::bigint AS resolved_ms
             FROM dead_letters",
            matches_filter!(),
            $order
        )
    };
}

/// [`openclaw_common::store::Store::dead_letters`]
pub(super) async fn dead_letters(link: &Link, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
    link.run(&(filter, limit), read)
        .await?
        .into_iter()
        .map(DeadRecord::into_letter)
        .collect()
}

fn read<'c>(connection: Session<'c>, (filter, limit): &'c (&DeadFilter, u32)) -> Work<'c, Vec<DeadRecord>> {
    // Two texts, so that either order is the key's own.
    let query = sqlx::query_as(if filter.oldest_first {
        letters!("ORDER BY id LIMIT $9")
    } else {
        letters!("ORDER BY id DESC LIMIT $9")
    });
    Box::pin(
        bind_filter!(query, filter)
            .bind(i64::from(*limit))
            .fetch_all(connection),
    )
}

/// [`openclaw_common::store::Store::count_dead`]
pub(super) async fn count(link: &Link, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError> {
    let counts = link.run(filter, read_counts).await?;
    Ok(counts
        .into_iter()
        .map(|(class, count)| (class, count.unsigned_abs()))
        .collect())
}

fn read_counts<'c>(connection: Session<'c>, filter: &'c DeadFilter) -> Work<'c, Vec<(String, i64)>> {
    let query = sqlx::query_as(concat!(
        "SELECT class, count(*) FROM dead_letters",
        matches_filter!(),
        "GROUP BY class"
    ));
    Box::pin(bind_filter!(query, filter).fetch_all(connection))
}

struct Chunk<'a> {
    order: &'a Replay,
    ids: &'a [i64],
    /// Events revived by earlier chunks: they take the earlier turns.
    before: u64,
}

/// [`openclaw_common::store::Store::replay`]
pub(super) async fn replay(link: &Link, order: &Replay) -> Result<Replayed, StoreError> {
    let ids = replay::distinct_ids(&order.ids);
    let mut total = Replayed::default();
    let mut before = 0;
    for ids in ids.chunks(replay::CHUNK) {
        let classes = link.run(&Chunk { order, ids, before }, revive).await?;
        before += classes.values().sum::<u64>();
        replay::add(&mut total, classes);
    }
    total.skipped = ids.len() as u64 - before;
    Ok(total)
}

fn revive<'c>(mut connection: Session<'c>, chunk: &'c Chunk<'_>) -> Work<'c, HashMap<String, u64>> {
    Box::pin(async move {
        let mut transaction = connection.begin().await?;
        // One replay at a time, or two would take the same places in a bot's schedule.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('openclaw.replay', 0))")
            .execute(transaction.session())
            .await?;
        let candidates: Vec<Candidate> = sqlx::query_as(
            "SELECT d.id, d.class, e.app_id, e.key, e.replay_gen::bigint AS replay_gen, e.bot
             FROM dead_letters d JOIN events e ON e.app_id = d.app_id AND e.key = d.key
             WHERE d.id = ANY ($1) AND d.resolved_at IS NULL AND e.state = 'dead'
             ORDER BY e.app_id, e.key FOR NO KEY UPDATE OF e, d",
        )
        .bind(chunk.ids)
        .fetch_all(transaction.session())
        .await?;
        // After the lock and by a snapshot of its own: it sees what the last owner committed.
        let unknown: Vec<UnknownAction> = sqlx::query_as(
            "SELECT i.ord - 1 AS place, a.idx::bigint AS idx, a.kind
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i (app_id, key, ord)
             JOIN actions a ON a.app_id = i.app_id AND a.key = i.key AND a.state = 'unknown'",
        )
        .bind(
            candidates
                .iter()
                .map(|candidate| candidate.app_id.as_str())
                .collect::<Vec<&str>>(),
        )
        .bind(
            candidates
                .iter()
                .map(|candidate| candidate.key.as_str())
                .collect::<Vec<&str>>(),
        )
        .fetch_all(transaction.session())
        .await?;
        let last_due_ms = sqlx::query_scalar(
            "SELECT (extract(epoch FROM max(due_at) - now()) * 1000)::bigint FROM events
             WHERE bot = ANY ($1) AND state = 'waiting' AND replay_gen > 0 AND attempt = 0",
        )
        .bind(replay::bots(&candidates))
        .fetch_one(transaction.session())
        .await?;
        let revivals = replay::decide(chunk.order, chunk.ids, chunk.before, last_due_ms, candidates, unknown);
        if !revivals.events.is_empty() {
            write(transaction.session(), chunk, &revivals).await?;
        }
        transaction.commit().await?;
        Ok(revivals.classes)
    })
}

async fn write(mut connection: Session<'_>, chunk: &Chunk<'_>, revivals: &Revivals) -> Result<(), sqlx::Error> {
    let app_ids: Vec<&str> = revivals.events.iter().map(|event| event.app_id.as_str()).collect();
    let keys: Vec<&str> = revivals.events.iter().map(|event| event.key.as_str()).collect();
    let ids: Vec<i64> = revivals.events.iter().map(|event| event.id).collect();
    sqlx::query(
        "UPDATE events e
         SET state = 'waiting', fence = e.fence + 1, attempt = 0, handler_starts = 0, replay_gen = e.replay_gen + 1, priority = 2,
             due_at = now() + i.due_ms * interval '1 millisecond', hold = false, finished_at = NULL
         FROM unnest($1::text[], $2::text[], $3::bigint[]) AS i (app_id, key, due_ms)
         WHERE e.app_id = i.app_id AND e.key = i.key",
    )
    .bind(&app_ids)
    .bind(&keys)
    .bind(revivals.events.iter().map(|event| event.due_ms).collect::<Vec<i64>>())
    .execute(connection.again())
    .await?;
    // What a person decided about unknown ones.
    sqlx::query(
        "UPDATE actions a
         SET state = CASE WHEN i.uuid IS NULL THEN 'sent' ELSE 'planned' END, uuid = coalesce(i.uuid, a.uuid),
             first_try_at = CASE WHEN i.uuid IS NULL THEN a.first_try_at END, refused = false, code = NULL,
             sent_at = CASE WHEN i.uuid IS NULL THEN now() END
         FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) AS i (app_id, key, idx, uuid)
         WHERE a.app_id = i.app_id AND a.key = i.key AND a.idx = i.idx AND a.state = 'unknown'",
    )
    .bind(
        revivals
            .decisions
            .iter()
            .map(|decision| decision.app_id.as_str())
            .collect::<Vec<&str>>(),
    )
    .bind(
        revivals
            .decisions
            .iter()
            .map(|decision| decision.key.as_str())
            .collect::<Vec<&str>>(),
    )
    .bind(
        revivals
            .decisions
            .iter()
            .map(|decision| decision.idx)
            .collect::<Vec<i64>>(),
    )
    .bind(
        revivals
            .decisions
            .iter()
            .map(|decision| decision.uuid.as_deref())
            .collect::<Vec<Option<&str>>>(),
    )
    .execute(connection.again())
    .await?;
    // Refused ones get another chance, and every unfinished one its tries back. A refusal means that no copy exists.
    sqlx::query(
        "UPDATE actions a SET state = 'planned', refused = a.refused OR a.state = 'refused', tries = 0
         FROM unnest($1::text[], $2::text[]) AS i (app_id, key)
         WHERE a.app_id = i.app_id AND a.key = i.key AND a.state IN ('planned', 'refused')",
    )
    .bind(&app_ids)
    .bind(&keys)
    .execute(connection.again())
    .await?;
    sqlx::query("UPDATE dead_letters SET replayed_at = now(), resolved_at = now() WHERE id = ANY ($1)")
        .bind(&ids)
        .execute(connection.again())
        .await?;
    audit(
        connection,
        &chunk.order.who,
        "replay",
        &replay::describe(&ids, chunk.order),
        ids.len() as i64,
    )
    .await
}

pub(super) async fn audit(
    connection: Session<'_>,
    who: &str,
    what: &str,
    filter: &str,
    count: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO audit (at, who, what, filter, count) VALUES (now(), $1, $2, $3, $4)")
        .bind(clean(who))
        .bind(what)
        .bind(filter)
        .bind(count)
        .execute(connection)
        .await?;
    Ok(())
}

/// [`openclaw_common::store::Store::drop_dead`]
pub(super) async fn drop_dead(link: &Link, ids: &[i64], who: &str) -> Result<u64, StoreError> {
    link.run(&(ids, who), close).await
}

fn close<'c>(mut connection: Session<'c>, (ids, who): &'c (&[i64], &str)) -> Work<'c, u64> {
    Box::pin(async move {
        let mut transaction = connection.begin().await?;
        let closed: Vec<i64> = sqlx::query_scalar(
            "UPDATE dead_letters SET resolved_at = now() WHERE id = ANY ($1) AND resolved_at IS NULL RETURNING id",
        )
        .bind(*ids)
        .fetch_all(transaction.session())
        .await?;
        if !closed.is_empty() {
            audit(
                transaction.session(),
                who,
                "drop",
                &replay::describe_ids(&closed),
                closed.len() as i64,
            )
            .await?;
        }
        transaction.commit().await?;
        Ok(closed.len() as u64)
    })
}
