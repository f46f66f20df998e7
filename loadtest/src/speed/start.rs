//! From nothing to the first accepted event, and what a role uses while nothing happens.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;
use world::{Kind, Process};

use super::{BOTS, Speed, UNBOUND};
use crate::load::{Batch, Shape, accepted};
use crate::report::{Report, Row, median, short, whole};
use crate::usage::{Usage, mib};

/// The bots of an idle node.
const IDLE_BOTS: usize = 200;

/// Long enough for a start's own work to be over: members, health and configuration have been looked at.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(15);

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    for (kind, role) in [(Kind::Distributed, "ingest"), (Kind::Embedded, "run")] {
        let world = super::world(kind, BOTS, UNBOUND).await;
        let mut took = Vec::new();
        for _ in 0..speed.pairs {
            let batch = Batch::new(&world.bots, Shape::default(), 1).await?;
            let begun = Instant::now();
            let process = Process::spawn(role, world.path()).await;
            accepted(process.address, &batch).await?;
            took.push(begun.elapsed().as_secs_f64());
        }
        let what = format!("start to first accepted event, `openclaw {role}`");
        report.add(Row::most(&what, median(&took), "s", format!("{BOTS} bots"), 1.0));
    }
    idle(report).await
}

async fn idle(report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, IDLE_BOTS, "").await;
    let processes = world.start(1).await;
    // Every bot has had an event, so that all its queues and consumers are there.
    let batch = Batch::new(&world.bots, Shape::default(), IDLE_BOTS).await?;
    let ingest = processes.first().context("no ingest")?;
    accepted(ingest.address, &batch).await?;
    sleep(SETTLE).await;
    let before = processes
        .iter()
        .map(|process| Usage::of(process.id()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    sleep(IDLE).await;
    for (process, before) in processes.iter().zip(before) {
        let now = Usage::of(process.id())?;
        let percent = (now.cpu - before.cpu).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        let what = format!("idle {}, {IDLE_BOTS} bots: of one core", process.role);
        let beside = format!(
            "over {} s; {} MiB resident at most",
            IDLE.as_secs(),
            short(mib(now.peak))
        );
        report.add(Row::most(&what, percent, "%", beside, 1.0));
    }
    let program = std::env::current_exe()?.with_file_name("openclaw");
    let size = mib(std::fs::metadata(program)?.len());
    report.add(Row::plain(
        "size of the binary",
        format!("{} MiB", whole(size)),
        "with the line tables that name places in a backtrace".to_owned(),
    ));
    Ok(())
}
