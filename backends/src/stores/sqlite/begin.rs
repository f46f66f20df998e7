//! Taking up deliveries, and burying what never became an event.

use serde::Serialize;

use super::input::{Bodies, json};
use super::rows::{actions, event_columns};
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::{Name, clean, distinct, message_type, received_ms, sentence, speakers};
use crate::stores::records::{ActionRecord, EventRecord, answers};
use openclaw_common::envelope::Envelope;
use openclaw_common::priority::Priority;
use openclaw_common::store::{Arrival, Begun, Burial, Intent, StoreError};
use openclaw_common::time::now_ms;

/// The columns of an envelope, from [`row`].
macro_rules! envelope_columns {
    () => {
        "i.value ->> 0, i.value ->> 1, i.value ->> 2, i.value ->> 3, i.value ->> 4, i.value ->> 5, i.value ->> 6,
         i.value ->> 7, i.value ->> 8, min(i.value ->> 8, ?1), substr(?3, i.value ->> 9, i.value ->> 10),
         i.value ->> 11, "
    };
}

/// In the order of the array, which is the order of delivery, so `position` grows in it. Existing unfinished rows get a
/// higher fence; finished and waiting ones are not returned. A new message that one of our sends was answered with is `done`.
/// Of a chat's parked rows those that a row found here, or another new one of this batch, will bring forward are covered.
const BEGIN: &str = concat!(
    "INSERT INTO events (app_id, key, bot, chat, type, tenant, traceparent, happened_ms, received_at, created_at, envelope,
                         origin, state, due_at, hold, handler_starts, priority, finished_at, covered)
     SELECT ",
    envelope_columns!(),
    "CASE WHEN i.ours THEN 'done' WHEN i.value ->> 12 THEN 'waiting' ELSE 'received' END,
     CASE WHEN i.value ->> 12 AND NOT i.ours THEN ?1 END, i.value ->> 12, i.value ->> 13, i.value ->> 14,
     CASE WHEN i.ours THEN ?1 END,
     i.value ->> 12
     AND ((i.value ->> '$[15][1]' IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM events s
                           WHERE s.app_id = i.value ->> '$[15][0]' AND s.key = i.value ->> '$[15][1]')
           AND NOT EXISTS (SELECT 1 FROM actions a INDEXED BY actions_by_message
                           WHERE a.message_id = i.value ->> '$[15][1]'))
          OR EXISTS (SELECT 1 FROM events w INDEXED BY events_waiting
                     WHERE w.bot = i.value ->> 2 AND w.chat = i.value ->> 3 AND w.state = 'waiting'
                       AND w.priority <= i.value ->> 14 AND NOT w.covered AND (w.hold OR w.due_at <= ?1)))
     FROM (SELECT j.key, j.value, j.value ->> 4 = '",
    message_type!(),
    "' AND EXISTS (SELECT 1 FROM actions a INDEXED BY actions_by_message WHERE a.message_id = j.value ->> 1) AS ours
           FROM json_each(?2) AS j) AS i
     WHERE true ORDER BY i.key
     ON CONFLICT (app_id, key) DO UPDATE SET fence = fence + 1 WHERE state IN ('received', 'planned')
     RETURNING ",
    event_columns!()
);

/// A row whose event was alive or unknown dies; every other is left alone.
const BURY: &str = concat!(
    "INSERT INTO events (app_id, key, bot, chat, type, tenant, traceparent, happened_ms, received_at, created_at, envelope,
                         origin, last_class, last_error, state, finished_at)
     SELECT ",
    envelope_columns!(),
    "i.value ->> 12, i.value ->> 13, 'dead', ?1
     FROM json_each(?2) AS i WHERE true ORDER BY i.key
     ON CONFLICT (app_id, key) DO UPDATE
         SET state = 'dead', fence = fence + 1, finished_at = ?1, due_at = NULL,
             last_class = excluded.last_class, last_code = NULL, last_error = excluded.last_error
         WHERE state IN ('received', 'planned')
     RETURNING position"
);

/// One row of input: an envelope, two columns of the statement's own, the priority, and the name of another one.
fn row<'a, A: Serialize + 'a, B: Serialize + 'a>(
    name: &'a Name<'a>,
    envelope: &'a Envelope,
    bodies: &mut Bodies,
    own: (A, B),
    speaker: Option<&'a Name<'a>>,
) -> impl Serialize + use<'a, A, B> {
    let (start, length) = bodies.push(&envelope.body);
    (
        &name.0,
        &name.1,
        envelope.bot.as_str(),
        clean(&envelope.chat),
        clean(&envelope.event_type),
        clean(&envelope.tenant),
        envelope.traceparent.as_deref().map(clean),
        envelope.created_ms,
        received_ms(envelope),
        start,
        length,
        envelope.origin.as_number(),
        own.0,
        own.1,
        Priority::of(envelope, 0).as_number(),
        speaker.map(|name| (&name.0, &name.1)),
    )
}

/// [`openclaw_common::store::Store::begin`]
pub(super) async fn begin(database: &Sqlite, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError> {
    if arrivals.is_empty() {
        return Ok(Vec::new());
    }
    let batch = distinct(arrivals, |arrival| &arrival.envelope);
    let (events, actions) = take(database, &batch.firsts).await.map_err(store_error)?;
    answers(arrivals, &batch, events, actions)
}

async fn take(
    database: &Sqlite,
    firsts: &[(Name<'_>, &Arrival)],
) -> Result<(Vec<EventRecord>, Vec<ActionRecord>), sqlx::Error> {
    let mut bodies = Bodies::new();
    let rows: Vec<_> = firsts
        .iter()
        .zip(speakers(firsts))
        .map(|((name, arrival), speaker)| {
            let own = (
                arrival.intent == Intent::Park,
                i32::from(arrival.intent == Intent::Start),
            );
            let speaker = speaker.and_then(|place| firsts.get(place)).map(|(name, _)| name);
            row(name, &arrival.envelope, &mut bodies, own, speaker)
        })
        .collect();
    let rows = json(&rows)?;
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let now = now_ms();
    let events = sqlx::query_as(BEGIN)
        .bind(now)
        .bind(rows)
        .bind(bodies.into_blob())
        .fetch_all(&mut *transaction)
        .await?;
    let actions = actions(&mut transaction, now, &events).await?;
    transaction.commit().await?;
    Ok((events, actions))
}

/// [`openclaw_common::store::Store::bury`]
pub(super) async fn bury(database: &Sqlite, deaths: &[Burial]) -> Result<(), StoreError> {
    if deaths.is_empty() {
        return Ok(());
    }
    let batch = distinct(deaths, |death| &death.envelope);
    bury_all(database, &batch.firsts).await.map_err(store_error)
}

async fn bury_all(database: &Sqlite, firsts: &[(Name<'_>, &Burial)]) -> Result<(), sqlx::Error> {
    let mut bodies = Bodies::new();
    let rows: Vec<_> = firsts
        .iter()
        .map(|(name, death)| {
            row(
                name,
                &death.envelope,
                &mut bodies,
                (death.class, sentence(&death.error)),
                None,
            )
        })
        .collect();
    let rows = json(&rows)?;
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let now = now_ms();
    let buried: Vec<i64> = sqlx::query_scalar(BURY)
        .bind(now)
        .bind(rows)
        .bind(bodies.into_blob())
        .fetch_all(&mut *transaction)
        .await?;
    super::dead::write_letters(&mut transaction, now, &buried).await?;
    transaction.commit().await
}
