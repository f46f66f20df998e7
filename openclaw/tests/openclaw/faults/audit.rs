//! The ledger check: what was accepted, what is visible, what the tables say, what is left in the queues.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_sim::check::{Expectations, Report};
use openclaw_sim::push::Pusher;
use testkit::eventually;

use world::{Process, Rows, World};

/// From the last answer to the last row.
const SETTLING: Duration = Duration::from_secs(20);

/// What is to be found after a run.
#[derive(Default)]
pub(super) struct Audit {
    pub(super) expected: Expectations,
    /// Events that are to end as dead letters: those excused, or any.
    pub(super) dead: u64,
    /// Accepted pushes of events that had been accepted before, and had their answer.
    pub(super) repeats: u64,
    /// Refused pushes that may have been stored all the same: their publish was not confirmed, and arrived later.
    pub(super) unknown: u64,
}

impl Audit {
    /// The order of chats is not judged: the row's fault may break it, and the documentation says so.
    pub(super) fn unordered() -> Self {
        Self {
            expected: Expectations {
                order: false,
                ..Expectations::default()
            },
            ..Self::default()
        }
    }

    /// Fails the test unless everything accepted was answered once, in order and inside the quota; every row is terminal;
    /// and, once all processes have stopped, every queue is empty. (A stopped worker's unacknowledged deliveries are
    /// ready again: an empty queue says that there were none.)
    pub(super) async fn check(&self, world: &World, pusher: &Pusher, processes: Vec<Process>) -> Report {
        pusher.settle().await;
        world.answered_but(pusher, self.dead + self.repeats).await;
        let (accepted, given_up) = pusher.log(|log| (log.totals().accepted, log.totals().given_up));
        let rows = accepted - self.repeats..=accepted + given_up + self.unknown - self.repeats;
        let begun = Instant::now();
        loop {
            let Rows {
                done,
                dead,
                letters,
                all,
            } = world.rows().await;
            if done + dead == all && rows.contains(&all) && dead == self.dead && letters == self.dead {
                break;
            }
            assert!(
                begun.elapsed() < SETTLING,
                "{done} done and {dead} dead of {all} rows ({rows:?} expected, {} dead), {letters} dead letters",
                self.dead
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut expected = self.expected.clone();
        if self.dead > 0 && expected.excused.is_empty() {
            expected.excused = dead_keys(world).await;
        }
        // Once while the processes live, so that a failure keeps their logs; once more when nothing can follow.
        world.judge(pusher, &expected);
        for process in processes {
            if process.role == "ingest" {
                process.kill();
            } else {
                assert!(process.stop().await.success());
            }
        }
        // A killed worker's deliveries come back when the broker has noticed.
        eventually("every queue is empty", SETTLING, async || {
            world.queues().await.iter().all(|(_, depth)| *depth == 0)
        })
        .await;
        world.judge(pusher, &expected)
    }
}

/// The events that did die, where a fault chose them.
async fn dead_keys(world: &World) -> HashSet<Arc<str>> {
    let (keys,): (Vec<String>,) = query(world, "SELECT array_agg(key) FROM dead_letters").await;
    keys.into_iter().map(Into::into).collect()
}

/// One row, straight from the database.
pub(super) async fn query<R>(world: &World, text: &'static str) -> R
where
    R: for<'row> sqlx::FromRow<'row, sqlx::postgres::PgRow> + Send + Unpin,
{
    world.row(text).await
}

/// One line for the summary that `./dev test faults` ends with.
pub(super) fn figure(row: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/faults");
    fs::create_dir_all(&folder).unwrap();
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("figures"));
    writeln!(file.unwrap(), "row {row}: {text}").unwrap();
}
