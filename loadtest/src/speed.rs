//! Rates and latencies beside their yardsticks, on the release binary and real servers. `docs/performance.md` names the goals; every
//! row of the table has its goal beside it.
//!
//! | file | measures |
//! |---|---|
//! | `accept` | accepted events a second beside three yardsticks; latency at half of that |
//! | `latency` | accept latency over the load, plotted |
//! | `limits` | what HTTP, broker, cache and database can do alone |
//! | `drain` | a backlog through handler, quota, send and outcome |
//! | `both` | accepting and draining at once |
//! | `busy` | `drain` and `both` with busy loops beside them |
//! | `embedded` | the same in one process on SQLite |
//! | `small` | 1,000 events a second inside half a core a role |
//! | `slow` | the same, and a backlog, on a database whose disk is slow |
//! | `siege` | what is accepted while one hostile address takes all it can get |
//! | `start` | start to the first accepted event; what idling costs |
//! | `recovery` | until events go through again after an outage |
//!
//! The quota's rows are `quota::short`.

mod accept;
mod both;
mod busy;
mod drain;
mod embedded;
mod latency;
mod limits;
mod recovery;
mod siege;
mod slow;
mod small;
mod start;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
pub(crate) use both::{Found, Plan, settle, turns};
use openclaw_sim::{Limits, Options, UnknownMessages};
use world::{Kind, Process, World};

use crate::load::{Batch, Shape, accepted};
use crate::report::{self, Report};
use crate::{machine, quota};

/// The bots of every rate.
pub(crate) const BOTS: usize = 20;

/// What rates are measured with: every level of the quota but the bot's is off, and that one is out of reach, so that the
/// slot script runs and never makes anything wait.
pub(crate) const UNBOUND: &str = concat!(
    "quota: { bot: 10000/s, chat: \"off\", user: \"off\", card: \"off\", app: \"off\" }\n",
    "message: { queue_size: 1000000 }\n",
);

#[derive(Debug, clap::Args)]
pub(crate) struct Speed {
    /// What to measure; all when none is named
    names: Vec<Name>,
    /// Turns of product and yardsticks; the median counts
    #[arg(long, default_value_t = 5)]
    pairs: usize,
    /// How long each turn is counted
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// A Python that has what loadtest/baseline requires; without it the Python rows are left out
    #[arg(long)]
    python: Option<PathBuf>,
    /// Leave docs/ as it is
    #[arg(long)]
    trial: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    Accept,
    Latency,
    Limits,
    Drain,
    Both,
    Busy,
    Embedded,
    Small,
    Slow,
    Siege,
    Start,
    Recovery,
    Quota,
}

impl Speed {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let mut report = Report::default();
        let names = if self.names.is_empty() {
            <Name as clap::ValueEnum>::value_variants()
        } else {
            &self.names
        };
        for name in names {
            report::say(&format!("-- {name:?}"));
            match name {
                Name::Accept => accept::measure(&self, &mut report).await?,
                Name::Latency => latency::measure(&self, &mut report).await?,
                Name::Limits => limits::measure(&self, &mut report).await?,
                Name::Drain => drain::measure(&self, &mut report).await?,
                Name::Both => both::measure(&self, &mut report).await?,
                Name::Busy => busy::measure(&self, &mut report).await?,
                Name::Embedded => embedded::measure(&self, &mut report).await?,
                Name::Small => small::measure(&self, &mut report).await?,
                Name::Slow => slow::measure(&self, &mut report).await?,
                Name::Siege => siege::measure(&self, &mut report).await?,
                Name::Start => start::measure(&self, &mut report).await?,
                Name::Recovery => recovery::measure(&self, &mut report).await?,
                Name::Quota => quota::short::rows(&mut report).await?,
            }
        }
        if !self.trial {
            let page = report::page("performance.md");
            report.write(&page, "speed")?;
            report::replace(&page, "machine", &machine::described())?;
        }
        Ok(report.reached())
    }

    /// How long a turn is counted.
    fn lasting(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// A world for rates: nothing between the processes and their servers, and a platform that refuses nothing.
pub(crate) async fn world(kind: Kind, bots: usize, extra: &str) -> World {
    let platform = Options {
        limits: Limits::off(),
        // The load driver does not tell the platform of its messages.
        unknown_messages: UnknownMessages::Derive,
        // What is looked at is totals.
        keep: 10_000,
        ..Options::default()
    };
    World::direct(kind, bots, extra, &platform).await
}

/// Messages that are visible at the platform, as answers to different events.
pub(crate) fn answered(world: &World) -> u64 {
    world.sim.ledger(|ledger| ledger.totals().replied)
}

/// Ingest and workers that have taken an event of every bot, so that queues and consumers are there.
pub(crate) async fn ready_with(world: &World, workers: usize) -> anyhow::Result<Vec<Process>> {
    let processes = world.start(workers).await;
    let ingest = processes.first().context("no ingest")?;
    let before = answered(world);
    let batch = Batch::new(&world.bots, Shape::default(), world.bots.len()).await?;
    accepted(ingest.address, &batch).await?;
    settle(world, before + world.bots.len() as u64, 0).await?;
    Ok(processes)
}
