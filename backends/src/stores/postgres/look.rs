//! Looking at events without taking them up.

use std::collections::HashMap;

use super::link::{Link, Work};
use super::rows::event_columns;
use super::session::Session;
use crate::stores::batch::name;
use crate::stores::records::{EventRecord, PartRecord, ReportRecord, StandingRecord, inspection};
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{Inspection, PARTS_A_MANNER, PARTS_ROWS, Standing, StoreError, StoredPart};

const INSPECT: &str = concat!(
    "SELECT ",
    event_columns!("e.envelope"),
    " FROM events e WHERE e.app_id = $1 AND e.key = $2"
);

/// [`openclaw_common::store::Store::is_ours`]
pub(super) async fn is_ours(link: &Link, key: &EventKey) -> Result<bool, StoreError> {
    link.run(key, |connection, key| {
        Box::pin(async move {
            sqlx::query_scalar(r#"SELECT EXISTS (SELECT FROM actions WHERE message_id COLLATE "C" = $1)"#)
                .bind(name(key).1)
                .fetch_one(connection)
                .await
        })
    })
    .await
}

/// [`openclaw_common::store::Store::standing`]
pub(super) async fn standing(link: &Link, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
    link.run(keys, read_standing)
        .await?
        .into_iter()
        .map(StandingRecord::into_standing)
        .collect()
}

fn read_standing<'c>(connection: Session<'c>, keys: &'c [EventKey]) -> Work<'c, Vec<StandingRecord>> {
    let (app_ids, names): (Vec<_>, Vec<_>) = keys.iter().map(name).unzip();
    Box::pin(
        sqlx::query_as(
            "SELECT e.app_id, e.key, e.state, e.attempt::bigint AS attempt, e.replay_gen::bigint AS replay_gen,
                    CASE WHEN e.state = 'waiting' THEN (extract(epoch FROM e.due_at - now()) * 1000)::bigint END AS due_in_ms
             FROM unnest($1::text[], $2::text[]) AS i (app_id, key)
             JOIN events e ON e.app_id = i.app_id AND e.key = i.key",
        )
        .bind(app_ids)
        .bind(names)
        .fetch_all(connection),
    )
}

/// [`openclaw_common::store::Store::inspect`]
pub(super) async fn inspect(link: &Link, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
    let (event, actions) = link.run(key, read).await?;
    event.map(|event| inspection(event, actions)).transpose()
}

type Read = (Option<EventRecord>, Vec<ReportRecord>);

fn read<'c>(mut connection: Session<'c>, key: &'c EventKey) -> Work<'c, Read> {
    Box::pin(async move {
        let (app_id, key) = name(key);
        let event = sqlx::query_as(INSPECT)
            .bind(&app_id)
            .bind(&key)
            .fetch_optional(connection.again())
            .await?;
        let actions = sqlx::query_as(
            "SELECT idx::bigint AS idx, kind, target, uuid, state, tries::bigint AS tries, code, message_id, sender,
                    (extract(epoch FROM first_try_at) * 1000)::bigint AS first_tried_ms,
                    (extract(epoch FROM sent_at) * 1000)::bigint AS sent_ms
             FROM actions WHERE app_id = $1 AND key = $2 ORDER BY idx",
        )
        .bind(&app_id)
        .bind(&key)
        .fetch_all(connection)
        .await?;
        Ok((event, actions))
    })
}

/// [`openclaw_common::store::Store::parts`]
pub(super) async fn parts(link: &Link, bots: &[BotId]) -> Result<Vec<StoredPart>, StoreError> {
    let found = link.run(bots, read_parts).await?;
    found.into_iter().map(PartRecord::into_part).collect()
}

fn read_parts<'c>(connection: Session<'c>, bots: &'c [BotId]) -> Work<'c, Vec<PartRecord>> {
    let bots: Vec<_> = bots.iter().map(BotId::as_str).collect();
    // The third byte says how long the key's id is, which follows it (`seal.rs`).
    Box::pin(
        sqlx::query_as(
            "SELECT app_id, key, bot, chat, event_type, origin, tenant, is_plan, bytes FROM (
                 SELECT e.app_id, e.key, e.bot, e.chat, e.type AS event_type, e.origin::bigint AS origin, e.tenant, s.is_plan, s.bytes,
                        row_number() OVER (PARTITION BY CASE
                            WHEN substring(s.bytes FROM 1 FOR 1) = '\\xf5' AND length(s.bytes) > 3
                            THEN substring(s.bytes FROM 1 FOR 3 + get_byte(s.bytes, 2)) END) AS place
                 FROM unnest($1::text[]) AS b (bot)
                 CROSS JOIN LATERAL (
                     (SELECT * FROM events WHERE bot = b.bot AND state <> 'waiting' AND state = 'received' LIMIT $2)
                     UNION ALL
                     (SELECT * FROM events WHERE bot = b.bot AND state <> 'waiting' AND state = 'planned' LIMIT $2)
                     UNION ALL
                     (SELECT * FROM events WHERE bot = b.bot AND state = 'waiting' LIMIT $2)
                 ) e
                 CROSS JOIN LATERAL (VALUES (e.envelope, false), (e.plan, true)) AS s (bytes, is_plan)
                 WHERE s.bytes IS NOT NULL
             ) each WHERE place <= $3",
        )
        .bind(bots)
        .bind(i64::from(PARTS_ROWS))
        .bind(i64::from(PARTS_A_MANNER))
        .fetch_all(connection),
    )
}
