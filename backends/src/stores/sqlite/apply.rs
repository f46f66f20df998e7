//! Guarded changes.

use sqlx::SqliteConnection;

use super::input::{Bodies, json};
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::{Patch, clean, waves};
use openclaw_common::store::{ActionState, Change, State, StoreError};
use openclaw_common::time::now_ms;

/// Which changes still have their fence, and the state they would start from; for a plan also the one that is there, and
/// whether it is for a message that a send of ours was answered with.
const FIND: &str = "
    SELECT i.key AS ord, e.position, e.state, CASE WHEN i.value ->> 3 THEN e.plan END,
           i.value ->> 3 AND EXISTS (SELECT 1 FROM actions a INDEXED BY actions_by_message WHERE a.message_id = i.value ->> 1)
    FROM json_each(?1) AS i CROSS JOIN events e ON e.app_id = i.value ->> 0 AND e.key = i.value ->> 1
    WHERE e.fence = i.value ->> 2";

const CHANGE: &str = "
    UPDATE events AS e
    SET state = coalesce(i.value ->> 1, e.state),
        plan = CASE WHEN i.value ->> 2 IS NULL THEN e.plan ELSE substr(?3, i.value ->> 2, i.value ->> 3) END,
        -- A plan or a failure in good order ends the suspicion that the event kills its worker.
        handler_starts = CASE
            WHEN i.value ->> 4 THEN e.handler_starts + 1
            WHEN i.value ->> 1 = 'planned' OR (coalesce(i.value ->> 1, 'waiting') = 'waiting' AND i.value ->> 8 IS NOT NULL)
                THEN 0
            ELSE e.handler_starts
        END,
        attempt = coalesce(i.value ->> 5, e.attempt),
        due_at = ?1 + (i.value ->> 6),
        hold = coalesce(i.value ->> 7, e.hold),
        -- What goes behind its lane, due at once, is covered by a row that already waits there: one that stands before it, or
        -- is due.
        covered = CASE WHEN i.value ->> 7 AND i.value ->> 6 = 0 THEN EXISTS (
                SELECT 1 FROM events w INDEXED BY events_waiting
                WHERE w.bot = e.bot AND w.chat = e.chat AND w.state = 'waiting' AND w.priority <= e.priority
                  AND NOT w.covered AND (w.due_at <= ?1 OR (w.hold AND w.position < e.position)))
            ELSE 0 END,
        last_class = coalesce(i.value ->> 8, e.last_class),
        last_code = CASE WHEN i.value ->> 8 IS NULL THEN e.last_code ELSE i.value ->> 9 END,
        last_error = coalesce(i.value ->> 10, e.last_error),
        finished_at = CASE WHEN i.value ->> 1 IN ('done', 'dead') THEN ?1 END
    FROM json_each(?2) AS i
    WHERE e.position = i.value ->> 0";

const PLAN_ACTIONS: &str = "
    INSERT INTO actions (app_id, key, idx, kind, target, uuid, first_try_at, tries)
    SELECT i.value ->> 0, i.value ->> 1, i.value ->> 2, i.value ->> 3, i.value ->> 4, i.value ->> 5,
           CASE WHEN i.value ->> 6 THEN ?1 END, i.value ->> 6
    FROM json_each(?2) AS i";

/// An outcome without a state is a try that begins. Only planned actions move: what is sent stays sent.
const ACT: &str = "
    UPDATE actions AS a
    SET state = coalesce(i.value ->> 3, a.state),
        uuid = coalesce(i.value ->> 8, a.uuid),
        sender = coalesce(i.value ->> 9, a.sender),
        first_try_at = CASE
            WHEN i.value ->> 8 IS NOT NULL THEN ?1
            WHEN i.value ->> 7 > 0 THEN coalesce(a.first_try_at, ?1)
            ELSE a.first_try_at
        END,
        tries = a.tries + (i.value ->> 7),
        refused = i.value ->> 6,
        message_id = coalesce(i.value ->> 4, a.message_id),
        code = CASE WHEN i.value ->> 3 IS NULL THEN a.code ELSE i.value ->> 5 END,
        sent_at = CASE WHEN i.value ->> 3 = 'sent' THEN ?1 END
    FROM json_each(?2) AS i
    WHERE a.app_id = i.value ->> 0 AND a.key = i.value ->> 1 AND a.idx = i.value ->> 2 AND a.state = 'planned'";

/// [`openclaw_common::store::Store::apply`]
pub(super) async fn apply(database: &Sqlite, changes: &[Change]) -> Result<Vec<bool>, StoreError> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    apply_all(database, changes).await.map_err(store_error)
}

async fn apply_all(database: &Sqlite, changes: &[Change]) -> Result<Vec<bool>, sqlx::Error> {
    let mut applied = vec![false; changes.len()];
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    for wave in waves(changes) {
        apply_wave(&mut transaction, &wave, &mut applied).await?;
    }
    transaction.commit().await?;
    Ok(applied)
}

/// Place in the wave, position, state, plan, and whether it is a message of our own.
type Found = (i64, i64, String, Option<Vec<u8>>, bool);

async fn apply_wave(
    connection: &mut SqliteConnection,
    wave: &[Patch<'_>],
    applied: &mut [bool],
) -> Result<(), sqlx::Error> {
    let now = now_ms();
    let wanted: Vec<_> = wave
        .iter()
        .map(|patch| (&patch.name.0, &patch.name.1, patch.fence, patch.plan.is_some()))
        .collect();
    let found: Vec<Found> = sqlx::query_as(FIND)
        .bind(json(&wanted)?)
        .fetch_all(&mut *connection)
        .await?;
    let mut fresh: Vec<(i64, &Patch<'_>)> = Vec::with_capacity(found.len());
    for (ord, position, state, plan, is_ours) in found {
        let Some(patch) = usize::try_from(ord).ok().and_then(|ord| wave.get(ord)) else {
            continue;
        };
        let state = State::parse(&state);
        let applies = match state {
            Some(State::Received) => patch.from_received && !is_ours,
            Some(State::Planned) => patch.from_planned,
            _ => false,
        };
        if applies {
            fresh.push((position, patch));
        }
        // A row that has the target state under our own fence has it from this very change, sent before. Only `planned`
        // outlives a change of owner, so there the plan itself has to be ours.
        let repeated = state.is_some() && state == patch.target && plan.as_deref() == patch.plan;
        applied[patch.place] = applies || repeated;
    }
    act(connection, now, &fresh).await?;
    change(connection, now, &fresh).await?;
    let dead: Vec<i64> = fresh
        .iter()
        .filter(|(_, patch)| patch.target == Some(State::Dead))
        .map(|(position, _)| *position)
        .collect();
    super::dead::write_letters(connection, now, &dead).await
}

async fn act(connection: &mut SqliteConnection, now: i64, fresh: &[(i64, &Patch<'_>)]) -> Result<(), sqlx::Error> {
    let mut planned = Vec::new();
    let mut outcomes = Vec::new();
    for (_, patch) in fresh {
        let (app_id, key) = &patch.name;
        planned.extend(patch.new_actions.iter().enumerate().map(|(index, action)| {
            (
                app_id,
                key,
                index,
                action.kind,
                clean(&action.target),
                &action.uuid,
                action.tried,
            )
        }));
        outcomes.extend(patch.outcomes.iter().map(|outcome| {
            let state = outcome.state.map(ActionState::as_str);
            let message_id = outcome.message_id.as_deref();
            (
                app_id,
                key,
                outcome.index,
                state,
                message_id,
                outcome.code,
                outcome.refused,
                outcome.tries,
                outcome.uuid,
                outcome.sender,
            )
        }));
    }
    if !planned.is_empty() {
        sqlx::query(PLAN_ACTIONS)
            .bind(now)
            .bind(json(&planned)?)
            .execute(&mut *connection)
            .await?;
    }
    if !outcomes.is_empty() {
        sqlx::query(ACT)
            .bind(now)
            .bind(json(&outcomes)?)
            .execute(connection)
            .await?;
    }
    Ok(())
}

async fn change(connection: &mut SqliteConnection, now: i64, fresh: &[(i64, &Patch<'_>)]) -> Result<(), sqlx::Error> {
    let mut plans = Bodies::new();
    let mut rows = Vec::with_capacity(fresh.len());
    for (position, patch) in fresh {
        if patch.target.is_some() || patch.starts || patch.attempt.is_some() {
            let plan = patch.plan.map(|plan| plans.push(plan));
            rows.push((
                position,
                patch.target.map(State::as_str),
                plan.map(|(start, _)| start),
                plan.map(|(_, length)| length),
                patch.starts,
                patch.attempt,
                patch.due_ms,
                patch.hold,
                patch.class,
                patch.code,
                &patch.error,
            ));
        }
    }
    if !rows.is_empty() {
        sqlx::query(CHANGE)
            .bind(now)
            .bind(json(&rows)?)
            .bind(plans.into_blob())
            .execute(connection)
            .await?;
    }
    Ok(())
}
