//! The columns of a taken row, and its actions. `?1` is now in every statement that uses them.

use sqlx::SqliteConnection;

use super::input::json;
use crate::stores::records::{ActionRecord, EventRecord};

/// What [`EventRecord`] reads. A row that the statement itself created has fence 1; its body is not copied back to the
/// caller who just gave it.
macro_rules! event_columns {
    () => {
        event_columns!("CASE WHEN fence > 1 THEN envelope END")
    };
    ($body:literal) => {
        concat!(
            "app_id, key, bot, chat, type AS event_type, origin, tenant, happened_ms, received_at AS received_ms, traceparent, state,
         fence, position, attempt, replay_gen, handler_starts, ?1 - created_at AS age_ms, hold, plan,
         ",
            $body,
            " AS body"
        )
    };
}
pub(super) use event_columns;

/// The actions of taken rows.
pub(super) async fn actions(
    connection: &mut SqliteConnection,
    now: i64,
    events: &[EventRecord],
) -> Result<Vec<ActionRecord>, sqlx::Error> {
    if events.iter().all(|event| event.plan.is_none()) {
        return Ok(Vec::new());
    }
    let names: Vec<(&str, &str)> = events
        .iter()
        .map(|event| (event.app_id.as_str(), event.key.as_str()))
        .collect();
    // CROSS JOIN keeps SQLite from scanning all actions.
    sqlx::query_as(
        "SELECT i.key AS place, a.idx, a.state, ?1 - a.first_try_at AS tried_ms_ago, a.refused, a.uuid, a.message_id, a.sender
         FROM json_each(?2) AS i CROSS JOIN actions a ON a.app_id = i.value ->> 0 AND a.key = i.value ->> 1
         ORDER BY i.key, a.idx",
    )
    .bind(now)
    .bind(json(&names)?)
    .fetch_all(connection)
    .await
}
