//! What an event leaves in the database, beside what its columns say it must.
//!
//! The prediction: a row is its columns and 28 bytes of header and pointer. It is written three times and old copies
//! stay until autovacuum has passed, once a minute: that share is small in an hour and large in a short trial. An index
//! entry is its columns and 12 bytes, in pages that random keys leave two thirds full.

use world::World;

use crate::report::{Report, Row, whole};

const HEADER: f64 = 28.0;
const ENTRY: f64 = 12.0;
const FULL: f64 = 2.0 / 3.0;
/// For dead copies, and for pages that are begun.
const SLACK: f64 = 1.5;

/// Bytes on disk with indexes, before the run.
pub(super) struct Tables {
    bytes: i64,
}

const SIZE: &str = "SELECT pg_total_relation_size('events') + pg_total_relation_size('actions')";

/// Columns of an average finished event, its action, and the index entries of both: primary keys, by state, by end.
const COLUMNS: &str = "
    WITH sampled AS (SELECT * FROM events WHERE state = 'done' LIMIT 10000)
    SELECT avg(pg_column_size(e))::float8, avg(pg_column_size(a))::float8,
           avg(pg_column_size(e.app_id) + pg_column_size(e.key))::float8,
           avg(pg_column_size(e.bot) + pg_column_size(e.state))::float8
    FROM sampled e JOIN actions a USING (app_id, key)";

impl Tables {
    pub(super) async fn of(world: &World) -> anyhow::Result<Self> {
        let (bytes,): (i64,) = world.row(SIZE).await;
        Ok(Self { bytes })
    }

    pub(super) async fn grown(&self, world: &World, events: u64, report: &mut Report) -> anyhow::Result<()> {
        let (bytes,): (i64,) = world.row(SIZE).await;
        let (event, action, key, state): (f64, f64, f64, f64) = world.row(COLUMNS).await;
        // `pg_column_size` of a whole row has its header in it, of 24 bytes.
        let rows = event + action + 2.0 * (HEADER - 24.0);
        let indexes = (2.0 * (key + ENTRY) + 4.0 + (state + ENTRY) + (8.0 + ENTRY)) / FULL;
        let (predicted, grown) = (rows + indexes, (bytes - self.bytes) as f64 / events.max(1) as f64);
        report.add(Row::most(
            "growth of the tables an event",
            grown,
            "bytes",
            format!(
                "predicted {}: rows {}, indexes {}",
                whole(predicted),
                whole(rows),
                whole(indexes)
            ),
            predicted * SLACK,
        ));
        Ok(())
    }
}
