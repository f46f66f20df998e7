//! Stopped tenants and counted calls.

use super::dead::audit;
use super::link::{Link, Work};
use super::session::Session;
use crate::stores::batch::clean;
use crate::stores::records::{self, CallsRecord, StopRecord};
use openclaw_common::store::{Calls, Spent, Stop, Stopped, StoreError, Tally};

/// This month in UTC+8, as 202611. The database's clock: all processes agree on the month.
macro_rules! month {
    () => {
        "to_char(now() AT TIME ZONE 'UTC' + interval '8 hours', 'YYYYMM')::integer"
    };
}

/// [`openclaw_common::store::Store::stop_tenant`]
pub(super) async fn stop(link: &Link, stop: &Stop) -> Result<bool, StoreError> {
    link.run(stop, insert_stop).await
}

fn insert_stop<'c>(connection: Session<'c>, stop: &'c Stop) -> Work<'c, bool> {
    Box::pin(async move {
        let done = sqlx::query(
            "INSERT INTO tenant_stops (tenant, bot, code, error, stopped_at) VALUES ($1, $2, $3, $4, now())
             ON CONFLICT (tenant) DO NOTHING",
        )
        .bind(clean(&stop.tenant))
        .bind(&stop.bot)
        .bind(stop.code)
        .bind(clean(&stop.error))
        .execute(connection)
        .await?;
        Ok(done.rows_affected() > 0)
    })
}

/// [`openclaw_common::store::Store::stopped_tenants`]
pub(super) async fn stopped(link: &Link) -> Result<Vec<Stopped>, StoreError> {
    let rows = link.run(&(), read_stops).await?;
    Ok(rows.into_iter().map(records::stopped).collect())
}

fn read_stops<'c>(connection: Session<'c>, (): &'c ()) -> Work<'c, Vec<StopRecord>> {
    Box::pin(
        sqlx::query_as(
            "SELECT tenant, bot, code, error, (extract(epoch FROM stopped_at) * 1000)::bigint
             FROM tenant_stops ORDER BY tenant",
        )
        .fetch_all(connection),
    )
}

/// [`openclaw_common::store::Store::resume_tenants`]
pub(super) async fn resume(link: &Link, tenants: &[String], who: &str) -> Result<u64, StoreError> {
    link.run(&(tenants, who), delete_stops).await
}

fn delete_stops<'c>(mut connection: Session<'c>, (tenants, who): &'c (&[String], &str)) -> Work<'c, u64> {
    Box::pin(async move {
        let mut transaction = connection.begin().await?;
        let resumed: Vec<String> =
            sqlx::query_scalar("DELETE FROM tenant_stops WHERE tenant = ANY ($1) RETURNING tenant")
                .bind(*tenants)
                .fetch_all(transaction.session())
                .await?;
        let count = resumed.len();
        if count > 0 {
            let filter = format!("tenants {}", resumed.join(", "));
            audit(transaction.session(), who, "resume", &filter, count as i64).await?;
        }
        transaction.commit().await?;
        Ok(count as u64)
    })
}

/// [`openclaw_common::store::Store::add_calls`]
pub(super) async fn add_calls(link: &Link, tally: &Tally) -> Result<(), StoreError> {
    link.run(tally, upsert_calls).await
}

/// One statement, so that the writer's number and its calls are committed together.
fn upsert_calls<'c>(connection: Session<'c>, tally: &'c Tally) -> Work<'c, ()> {
    Box::pin(async move {
        let column = |read: fn(&Calls) -> &str| {
            let values = tally.calls.iter().map(read);
            values.map(|text| clean(text).into_owned()).collect::<Vec<_>>()
        };
        let counts = tally.calls.iter().map(|calls| calls.count.cast_signed());
        sqlx::query(concat!(
            "WITH old AS (DELETE FROM call_writers WHERE at < now() - interval '7 days' AND writer <> $1),
             fresh AS (
                 INSERT INTO call_writers AS w (writer, number, at) VALUES ($1, $2, now())
                 ON CONFLICT (writer) DO UPDATE SET number = excluded.number, at = now()
                 WHERE w.number < excluded.number
                 RETURNING 1
             )
             INSERT INTO calls AS c (tenant, month, kind, count)
             SELECT i.tenant, ",
            month!(),
            ", i.kind, i.count
             FROM unnest($3::text[], $4::text[], $5::bigint[]) AS i (tenant, kind, count), fresh
             ORDER BY i.tenant, i.kind
             ON CONFLICT (tenant, month, kind) DO UPDATE SET count = c.count + excluded.count"
        ))
        .bind(&tally.writer)
        .bind(tally.number)
        .bind(column(|calls| &calls.tenant))
        .bind(column(|calls| &calls.kind))
        .bind(counts.collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    })
}

/// [`openclaw_common::store::Store::spent`]
pub(super) async fn spent(link: &Link) -> Result<Spent, StoreError> {
    let (now_ms, rows) = link.run(&(), read_calls).await?;
    Ok(records::spent(now_ms, rows))
}

type Read = (i64, Vec<CallsRecord>);
/// The time beside a month's calls, or beside nothing.
type MonthRow = (i64, Option<String>, Option<String>, Option<i64>);

fn read_calls<'c>(connection: Session<'c>, (): &'c ()) -> Work<'c, Read> {
    Box::pin(async move {
        // Rows of both at once, so that the month and its calls belong together.
        let rows: Vec<MonthRow> = sqlx::query_as(concat!(
            "SELECT (extract(epoch FROM now()) * 1000)::bigint, c.tenant, c.kind, c.count
             FROM (SELECT 1) AS always LEFT JOIN calls c ON c.month = ",
            month!(),
            " ORDER BY c.tenant, c.kind"
        ))
        .fetch_all(connection)
        .await?;
        let now_ms = rows.first().map_or(0, |row| row.0);
        let calls = rows
            .into_iter()
            .filter_map(|(_, tenant, kind, count)| Some((tenant?, kind?, count?)));
        Ok((now_ms, calls.collect()))
    })
}

/// [`openclaw_common::store::Store::note_warning`]
pub(super) async fn note_warning(link: &Link, tenant: &str, percent: u32) -> Result<bool, StoreError> {
    link.run(&(tenant, i64::from(percent)), insert_warning).await
}

fn insert_warning<'c>(connection: Session<'c>, (tenant, percent): &'c (&str, i64)) -> Work<'c, bool> {
    Box::pin(async move {
        let noted = sqlx::query(concat!(
            "INSERT INTO budget_warnings (tenant, month, percent, at) VALUES ($1, ",
            month!(),
            ", $2, now()) ON CONFLICT DO NOTHING"
        ))
        .bind(clean(tenant))
        .bind(*percent)
        .execute(connection)
        .await?;
        Ok(noted.rows_affected() > 0)
    })
}
