//! A database that is empty, and one with ten million finished events and their answers.

use std::time::Instant;

use anyhow::Context as _;
use sqlx::{Connection as _, PgConnection};
use world::{Kind, World};

use super::{BOTS, Cells, KIB, loaded};
use crate::report::{say, short};
use crate::speed;

const ROWS: u32 = 10_000_000;

pub(super) async fn measure(cells: &mut Cells<'_>) -> anyhow::Result<()> {
    let world = speed::world(Kind::Distributed, BOTS, speed::UNBOUND).await;
    cells.add("rows before: 0", 1.0, loaded(&world, 1, KIB).await?);
    let begun = Instant::now();
    fill(&world).await?;
    let took = begun.elapsed().as_secs_f64();
    say(&format!("ten million events and their actions took {} s", short(took)));
    cells.add("rows before: 10 million", 1.0, loaded(&world, 1, KIB).await?);
    Ok(())
}

/// Server-side, and with the indexes made at the end, which is many times faster. Keys are as random as Feishu's; bodies are
/// short, because they lie in pages that nobody reads again.
async fn fill(world: &World) -> anyhow::Result<()> {
    let events = format!(
        "INSERT INTO events (app_id, key, bot, chat, type, tenant, state, position, created_at, received_at, finished_at,
                             happened_ms, envelope)
         SELECT 'cli_bot' || n % 20, 'om_' || md5(n::text), 'bot' || n % 20, 'oc_' || n % 2000, 'im.message.receive_v1',
                '16a1b2c3d4e5f678', 'done', -n, now(), now(), now(), 0, '{{}}'
         FROM generate_series(1, {ROWS}) AS n"
    );
    let actions = format!(
        "INSERT INTO actions (app_id, key, idx, kind, target, uuid, state, tries, message_id, sent_at, first_try_at)
         SELECT 'cli_bot' || n % 20, 'om_' || md5(n::text), 0, 'reply', 'om_' || md5(n::text), md5(n::text), 'sent', 1,
                'om_' || md5(n::text), now(), now()
         FROM generate_series(1, {ROWS}) AS n"
    );
    tokio::try_join!(table(world, "events", events), table(world, "actions", actions))?;
    Ok(())
}

/// Fills one table without its indexes, and makes them again as the catalogue tells them.
async fn table(world: &World, table: &str, fill: String) -> anyhow::Result<()> {
    let url = world.shared.as_ref().context("no database")?.database.url();
    let mut database = PgConnection::connect(url).await?;
    let indexes: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisprimary FROM pg_index
         WHERE indrelid = $1::text::regclass",
    )
    .bind(table)
    .fetch_all(&mut database)
    .await?;
    let key = format!("{table}_pkey");
    let mut statements = vec![
        "SET synchronous_commit = off".to_owned(),
        "SET maintenance_work_mem = '1GB'".to_owned(),
        format!("ALTER TABLE {table} DROP CONSTRAINT {key}"),
    ];
    statements.extend(
        indexes
            .iter()
            .filter(|(.., primary)| !primary)
            .map(|(name, ..)| format!("DROP INDEX {name}")),
    );
    statements.push(fill);
    statements.extend(indexes.iter().map(|(_, definition, _)| definition.clone()));
    statements.push(format!(
        "ALTER TABLE {table} ADD CONSTRAINT {key} PRIMARY KEY USING INDEX {key}"
    ));
    statements.push(format!("VACUUM ANALYZE {table}"));
    for statement in statements {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&mut database)
            .await?;
    }
    database.close().await?;
    Ok(())
}
