//! The columns of a taken row, and its actions.

use super::session::Session;
use crate::stores::records::{ActionRecord, EventRecord};

/// What [`EventRecord`] reads from `events e`. A row that the statement itself created has fence 1; its body is not sent
/// back to the caller who just sent it.
macro_rules! event_columns {
    () => {
        event_columns!("CASE WHEN e.fence > 1 THEN e.envelope END")
    };
    ($body:literal) => {
        concat!(
            "e.app_id, e.key, e.bot, e.chat, e.type AS event_type, e.origin::bigint AS origin, e.tenant, e.happened_ms,
         (extract(epoch FROM e.received_at) * 1000)::bigint AS received_ms, e.traceparent, e.state, e.fence, e.position,
         e.attempt::bigint AS attempt, e.replay_gen::bigint AS replay_gen, e.handler_starts::bigint AS handler_starts,
         (extract(epoch FROM now() - e.created_at) * 1000)::bigint AS age_ms, e.hold, e.plan,
         ",
            $body,
            " AS body"
        )
    };
}
pub(super) use event_columns;

/// The actions of taken rows. A statement of its own, never part of the one that raised the fences: that one's snapshot
/// may be older than the commit it waited for, and would miss the actions of a plan it returns.
pub(super) async fn actions(connection: Session<'_>, events: &[EventRecord]) -> Result<Vec<ActionRecord>, sqlx::Error> {
    if events.iter().all(|event| event.plan.is_none()) {
        return Ok(Vec::new());
    }
    let app_ids: Vec<&str> = events.iter().map(|event| event.app_id.as_str()).collect();
    let keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
    sqlx::query_as(
        "SELECT i.ord - 1 AS place, a.idx::bigint AS idx, a.state,
                (extract(epoch FROM now() - a.first_try_at) * 1000)::bigint AS tried_ms_ago, a.refused, a.uuid, a.message_id, a.sender
         FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS i (app_id, key, ord)
         JOIN actions a ON a.app_id = i.app_id AND a.key = i.key
         ORDER BY i.ord, a.idx",
    )
    .bind(&app_ids)
    .bind(&keys)
    .fetch_all(connection)
    .await
}
