//! Taking up deliveries, and burying what never became an event.

use std::borrow::Cow;

use super::link::{Link, Work};
use super::rows::{actions, event_columns};
use super::session::Session;
use crate::stores::batch::{Name, clean, distinct, message_type, received_ms, sentence, speakers};
use crate::stores::records::{ActionRecord, EventRecord, answers};
use openclaw_common::envelope::Envelope;
use openclaw_common::priority::Priority;
use openclaw_common::store::{Arrival, Begun, Burial, Intent, StoreError};

/// Events of one statement: the size of a block of `event_position`.
const BLOCK: usize = 1000;

/// New rows in key order, so that two batches wait for each other instead of deadlocking; existing unfinished ones get a
/// higher fence; finished and waiting ones are not returned. A new message that one of our sends was answered with is `done`
/// (`OFFSET 0` keeps the planner from looking for it in each place that asks). Of a chat's parked rows those that a row found
/// here, or another new one of this batch, will bring forward are covered. The planner has to look there by chat, so its text
/// rules the other ways out: it is no join, ordered like the index, and hides that only speakers count.
const BEGIN: &str = concat!(
    "WITH block AS MATERIALIZED (SELECT nextval('event_position') AS first)
     INSERT INTO events AS e (app_id, key, bot, chat, type, tenant, happened_ms, received_at, created_at, traceparent,
                              envelope, origin, state, due_at, hold, handler_starts, position, priority, covered,
                              finished_at)
     SELECT i.app_id, i.key, i.bot, i.chat, i.type, i.tenant, i.happened_ms, i.received_at,
            least(i.received_at, now()), i.traceparent, i.envelope, i.origin,
            CASE WHEN i.ours THEN 'done' WHEN i.park THEN 'waiting' ELSE 'received' END,
            CASE WHEN i.park AND NOT i.ours THEN now() END, i.park, i.starts,
            block.first + i.ord - 1, i.priority,
            i.park AND ((i.speaker IS NOT NULL
                         AND (SELECT true FROM events s
                              WHERE s.app_id = ($1::text[])[i.speaker] AND s.key = ($2::text[])[i.speaker]) IS NULL
                         AND (SELECT true FROM actions a
                              WHERE a.message_id COLLATE \"C\" = ($2::text[])[i.speaker] LIMIT 1) IS NULL)
                        OR (SELECT true FROM events w
                            WHERE w.bot = i.bot AND w.chat = i.chat AND w.state = 'waiting' AND w.priority <= i.priority
                              AND w.covered IS NOT TRUE AND (w.hold OR w.due_at <= now())
                            ORDER BY w.priority, w.position LIMIT 1) IS NOT NULL),
            CASE WHEN i.ours THEN now() END
     FROM (SELECT u.*, timestamptz 'epoch' + u.received_ms * interval '1 millisecond' AS received_at,
                  u.type = '",
    message_type!(),
    "' AND (SELECT true FROM actions a WHERE a.message_id COLLATE \"C\" = u.key LIMIT 1) IS NOT NULL AS ours
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[],
                       $9::text[], $10::bytea[], $11::smallint[], $12::boolean[], $13::integer[], $14::smallint[],
                       $15::integer[]) WITH ORDINALITY
                AS u (app_id, key, bot, chat, type, tenant, happened_ms, received_ms, traceparent, envelope, origin, park,
                      starts, priority, speaker, ord)
           OFFSET 0) AS i
     CROSS JOIN block
     ORDER BY i.app_id, i.key
     ON CONFLICT (app_id, key) DO UPDATE SET fence = e.fence + 1 WHERE e.state IN ('received', 'planned')
     RETURNING ",
    event_columns!()
);

/// A row whose event was alive or unknown dies, with its dead letter; every other is left alone.
const BURY: &str = "
    WITH block AS MATERIALIZED (SELECT nextval('event_position') AS first),
    buried AS (
        INSERT INTO events AS e (app_id, key, bot, chat, type, tenant, happened_ms, received_at, created_at, traceparent,
                                 envelope, origin, state, finished_at, last_class, last_error, position)
        SELECT i.app_id, i.key, i.bot, i.chat, i.type, i.tenant, i.happened_ms, i.received_at,
               least(i.received_at, now()), i.traceparent, i.envelope, i.origin, 'dead', now(), i.class, i.error,
               block.first + i.ord - 1
        FROM (SELECT u.*, timestamptz 'epoch' + u.received_ms * interval '1 millisecond' AS received_at
              FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                          $8::bigint[], $9::text[], $10::bytea[], $11::smallint[], $12::text[], $13::text[])
                   WITH ORDINALITY
                   AS u (app_id, key, bot, chat, type, tenant, happened_ms, received_ms, traceparent, envelope, origin,
                         class, error, ord)) AS i
        CROSS JOIN block
        ORDER BY i.app_id, i.key
        ON CONFLICT (app_id, key) DO UPDATE
            SET state = 'dead', fence = e.fence + 1, finished_at = now(), due_at = NULL,
                last_class = excluded.last_class, last_code = NULL, last_error = excluded.last_error
            WHERE e.state IN ('received', 'planned')
        RETURNING e.*
    )
    INSERT INTO dead_letters (app_id, key, bot, chat, class, error, attempts, replay_gen, created_at, died_at)
    SELECT app_id, key, bot, chat, last_class, last_error, attempt + handler_starts, replay_gen, created_at, now()
    FROM buried";

/// The columns of an envelope.
#[derive(Default)]
struct Envelopes<'a> {
    app_ids: Vec<&'a str>,
    keys: Vec<&'a str>,
    bots: Vec<&'a str>,
    chats: Vec<Cow<'a, str>>,
    types: Vec<Cow<'a, str>>,
    tenants: Vec<Cow<'a, str>>,
    happened_ms: Vec<i64>,
    received_ms: Vec<i64>,
    traceparents: Vec<Option<Cow<'a, str>>>,
    bodies: Vec<&'a [u8]>,
    origins: Vec<i16>,
}

impl<'a> Envelopes<'a> {
    fn push(&mut self, name: &'a Name<'a>, envelope: &'a Envelope) {
        self.app_ids.push(&name.0);
        self.keys.push(&name.1);
        self.bots.push(envelope.bot.as_str());
        self.chats.push(clean(&envelope.chat));
        self.types.push(clean(&envelope.event_type));
        self.tenants.push(clean(&envelope.tenant));
        self.happened_ms.push(envelope.created_ms);
        self.received_ms.push(received_ms(envelope));
        self.traceparents.push(envelope.traceparent.as_deref().map(clean));
        self.bodies.push(&envelope.body);
        self.origins.push(envelope.origin.as_number());
    }
}

macro_rules! bind_envelopes {
    ($query:expr, $columns:expr) => {
        $query
            .bind(&$columns.app_ids)
            .bind(&$columns.keys)
            .bind(&$columns.bots)
            .bind(&$columns.chats)
            .bind(&$columns.types)
            .bind(&$columns.tenants)
            .bind(&$columns.happened_ms)
            .bind(&$columns.received_ms)
            .bind(&$columns.traceparents)
            .bind(&$columns.bodies)
            .bind(&$columns.origins)
    };
}

type Taken = (Vec<EventRecord>, Vec<ActionRecord>);

/// [`openclaw_common::store::Store::begin`]
pub(super) async fn begin(link: &Link, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError> {
    if arrivals.is_empty() {
        return Ok(Vec::new());
    }
    let batch = distinct(arrivals, |arrival| &arrival.envelope);
    let (events, actions) = link.run(&*batch.firsts, take).await?;
    answers(arrivals, &batch, events, actions)
}

fn take<'c>(mut connection: Session<'c>, firsts: &'c [(Name<'_>, &Arrival)]) -> Work<'c, Taken> {
    Box::pin(async move {
        let events = if firsts.len() <= BLOCK {
            take_block(connection.again(), firsts).await?
        } else {
            let mut transaction = connection.begin().await?;
            let mut events = Vec::with_capacity(firsts.len());
            for block in firsts.chunks(BLOCK) {
                events.extend(take_block(transaction.session(), block).await?);
            }
            transaction.commit().await?;
            events
        };
        let actions = actions(connection, &events).await?;
        Ok((events, actions))
    })
}

async fn take_block(connection: Session<'_>, block: &[(Name<'_>, &Arrival)]) -> Result<Vec<EventRecord>, sqlx::Error> {
    let mut columns = Envelopes::default();
    let mut parks = Vec::with_capacity(block.len());
    let mut starts = Vec::with_capacity(block.len());
    let mut priorities = Vec::with_capacity(block.len());
    // Numbered from 1, as arrays are.
    let number = |place: usize| i32::try_from(place + 1).unwrap_or(i32::MAX);
    let speakers: Vec<Option<i32>> = speakers(block).into_iter().map(|place| place.map(number)).collect();
    for (name, arrival) in block {
        columns.push(name, &arrival.envelope);
        parks.push(arrival.intent == Intent::Park);
        starts.push(i32::from(arrival.intent == Intent::Start));
        priorities.push(Priority::of(&arrival.envelope, 0).as_number());
    }
    bind_envelopes!(sqlx::query_as(BEGIN), columns)
        .bind(&parks)
        .bind(&starts)
        .bind(&priorities)
        .bind(&speakers)
        .fetch_all(connection)
        .await
}

/// [`openclaw_common::store::Store::bury`]
pub(super) async fn bury(link: &Link, deaths: &[Burial]) -> Result<(), StoreError> {
    let batch = distinct(deaths, |death| &death.envelope);
    for block in batch.firsts.chunks(BLOCK) {
        link.run(block, bury_block).await?;
    }
    Ok(())
}

fn bury_block<'c>(connection: Session<'c>, block: &'c [(Name<'_>, &Burial)]) -> Work<'c, ()> {
    Box::pin(async move {
        let mut columns = Envelopes::default();
        let mut classes = Vec::with_capacity(block.len());
        let mut errors = Vec::with_capacity(block.len());
        for (name, death) in block {
            columns.push(name, &death.envelope);
            classes.push(death.class);
            errors.push(sentence(&death.error));
        }
        bind_envelopes!(sqlx::query(BURY), columns)
            .bind(&classes)
            .bind(&errors)
            .execute(connection)
            .await?;
        Ok(())
    })
}
