//! Looking at events without taking them up.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::link::{Link, Work};
use super::rows::event_columns;
use crate::envelope::EventKey;
use crate::store::{Inspection, Standing, StoreError};
use crate::stores::batch::name;
use crate::stores::records::{EventRecord, ReportRecord, StandingRecord, inspection};

const INSPECT: &str = concat!(
    "SELECT ",
    event_columns!("e.envelope"),
    " FROM events e WHERE e.app_id = $1 AND e.key = $2"
);

/// [`crate::store::Store::standing`]
pub(super) async fn standing(link: &Link, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
    link.run(keys, read_standing)
        .await?
        .into_iter()
        .map(StandingRecord::into_standing)
        .collect()
}

fn read_standing<'c>(connection: &'c mut PgConnection, keys: &'c [EventKey]) -> Work<'c, Vec<StandingRecord>> {
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

/// [`crate::store::Store::inspect`]
pub(super) async fn inspect(link: &Link, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
    let (event, actions) = link.run(key, read).await?;
    event.map(|event| inspection(event, actions)).transpose()
}

type Read = (Option<EventRecord>, Vec<ReportRecord>);

fn read<'c>(connection: &'c mut PgConnection, key: &'c EventKey) -> Work<'c, Read> {
    Box::pin(async move {
        let (app_id, key) = name(key);
        let event = sqlx::query_as(INSPECT)
            .bind(&app_id)
            .bind(&key)
            .fetch_optional(&mut *connection)
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
