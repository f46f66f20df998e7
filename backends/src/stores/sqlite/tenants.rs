//! Stopped tenants and counted calls.

use super::dead::audit;
use super::input::json;
use super::store_error;
use crate::sqlite::Sqlite;
use crate::stores::batch::clean;
use crate::stores::records;
use openclaw_common::budget::Month;
use openclaw_common::store::{Spent, Stop, Stopped, StoreError, Tally};
use openclaw_common::time::now_ms;

/// Processes that have stored nothing for a week do not repeat a tally.
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

/// [`openclaw_common::store::Store::stop_tenant`]
pub(super) async fn stop(database: &Sqlite, stop: &Stop) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "INSERT INTO tenant_stops (tenant, bot, code, error, stopped_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (tenant) DO NOTHING",
    )
    .bind(clean(&stop.tenant))
    .bind(&stop.bot)
    .bind(stop.code)
    .bind(clean(&stop.error))
    .bind(now_ms())
    .execute(&database.writer)
    .await
    .map_err(store_error)?;
    Ok(done.rows_affected() > 0)
}

/// [`openclaw_common::store::Store::stopped_tenants`]
pub(super) async fn stopped(database: &Sqlite) -> Result<Vec<Stopped>, StoreError> {
    let rows = sqlx::query_as("SELECT tenant, bot, code, error, stopped_at FROM tenant_stops ORDER BY tenant")
        .fetch_all(&database.reader)
        .await
        .map_err(store_error)?;
    Ok(rows.into_iter().map(records::stopped).collect())
}

/// [`openclaw_common::store::Store::resume_tenants`]
pub(super) async fn resume(database: &Sqlite, tenants: &[String], who: &str) -> Result<u64, StoreError> {
    delete_stops(database, tenants, who).await.map_err(store_error)
}

async fn delete_stops(database: &Sqlite, tenants: &[String], who: &str) -> Result<u64, sqlx::Error> {
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    let resumed: Vec<String> = sqlx::query_scalar(
        "DELETE FROM tenant_stops WHERE tenant IN (SELECT value FROM json_each(?1)) RETURNING tenant",
    )
    .bind(json(tenants)?)
    .fetch_all(&mut *transaction)
    .await?;
    let count = resumed.len();
    if count > 0 {
        let filter = format!("tenants {}", resumed.join(", "));
        audit(&mut transaction, who, "resume", &filter, count as i64).await?;
    }
    transaction.commit().await?;
    Ok(count as u64)
}

/// [`openclaw_common::store::Store::add_calls`]
pub(super) async fn add_calls(database: &Sqlite, tally: &Tally) -> Result<(), StoreError> {
    upsert_calls(database, tally).await.map_err(store_error)
}

async fn upsert_calls(database: &Sqlite, tally: &Tally) -> Result<(), sqlx::Error> {
    let now = now_ms();
    let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("DELETE FROM call_writers WHERE at < ?1 AND writer <> ?2")
        .bind(now - WEEK_MS)
        .bind(&tally.writer)
        .execute(&mut *transaction)
        .await?;
    let fresh = sqlx::query(
        "INSERT INTO call_writers AS w (writer, number, at) VALUES (?1, ?2, ?3)
         ON CONFLICT (writer) DO UPDATE SET number = excluded.number, at = excluded.at WHERE w.number < excluded.number",
    )
    .bind(&tally.writer)
    .bind(tally.number)
    .bind(now)
    .execute(&mut *transaction)
    .await?;
    if fresh.rows_affected() > 0 {
        let calls: Vec<_> = tally
            .calls
            .iter()
            .map(|calls| (clean(&calls.tenant), clean(&calls.kind), calls.count))
            .collect();
        sqlx::query(
            "INSERT INTO calls AS c (tenant, month, kind, count)
             SELECT i.value ->> 0, ?1, i.value ->> 1, i.value ->> 2 FROM json_each(?2) AS i WHERE true
             ON CONFLICT (tenant, month, kind) DO UPDATE SET count = c.count + excluded.count",
        )
        .bind(Month::at(now).number())
        .bind(json(&calls)?)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

/// [`openclaw_common::store::Store::spent`]
pub(super) async fn spent(database: &Sqlite) -> Result<Spent, StoreError> {
    let now = now_ms();
    let rows = sqlx::query_as("SELECT tenant, kind, count FROM calls WHERE month = ?1 ORDER BY tenant, kind")
        .bind(Month::at(now).number())
        .fetch_all(&database.reader)
        .await
        .map_err(store_error)?;
    Ok(records::spent(now, rows))
}

/// [`openclaw_common::store::Store::note_warning`]
pub(super) async fn note_warning(database: &Sqlite, tenant: &str, percent: u32) -> Result<bool, StoreError> {
    let now = now_ms();
    let noted = sqlx::query(
        "INSERT INTO budget_warnings (tenant, month, percent, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )
    .bind(clean(tenant))
    .bind(Month::at(now).number())
    .bind(percent)
    .bind(now)
    .execute(&database.writer)
    .await
    .map_err(store_error)?;
    Ok(noted.rows_affected() > 0)
}
