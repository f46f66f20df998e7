//! An hour's worth of events: 1,000 a second through ingest and worker. Memory must stay flat, the tables must grow as
//! predicted, and every accepted event must be answered once and be one finished row.

mod tables;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use openclaw_sim::{Limits, Options, UnknownMessages};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use world::{Kind, Process, World};

use crate::load::{Batch, Load, Pace, Shape};
use crate::plot::{Axis, Chart, Line};
use crate::report::{self, Report, Row, median, short, whole};
use crate::speed::{self, BOTS};
use crate::usage::{Usage, mib};

const RATE: u64 = 1_000;
const CONNECTIONS: usize = 64;
/// Requests are made in parts of this many seconds, the next while one is pushed: an hour's would not fit into memory.
const PART: u64 = 20;
/// The last quarter's median may be above the second quarter's by this share, and by this much for the allocator's coarse
/// steps: a leak of 50 bytes an event breaks it in ten minutes, and one of 8 in an hour.
const MORE: f64 = 1.05;
const STEP_MIB: f64 = 8.0;
/// A shorter run is a trial: its figures are printed and not published.
const PUBLISHED: u64 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Hour {
    /// How long; from 10 on the figures go to docs/
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

impl Hour {
    pub(crate) async fn run(self) -> anyhow::Result<bool> {
        let world = world(self.minutes * 60 * RATE).await?;
        let processes = speed::ready_with(&world, 1).await?;
        let mut report = Report::default();
        let tables = tables::Tables::of(&world).await?;
        let before = speed::answered(&world);
        let stop = CancellationToken::new();
        let (pushed, memory) = tokio::join!(
            async {
                let pushed = push(&world, &processes, self.minutes * 60).await;
                stop.cancel();
                pushed
            },
            sampled(&processes, &stop)
        );
        let (pushed, memory) = (pushed?, memory?);
        judge(&world, before, pushed, &mut report).await?;
        for (process, samples) in processes.iter().zip(&memory) {
            flat(&process.role, samples, &mut report);
        }
        tables.grown(&world, pushed.accepted, &mut report).await?;
        if self.minutes < PUBLISHED {
            report::say("a trial: docs/performance.md is left as it is");
            return Ok(report.reached());
        }
        let page = report::page("performance.md");
        report.write(&page, "hour")?;
        draw(&memory)?;
        Ok(report.reached())
    }
}

/// The ledger remembers which events were answered for as many as there will be, with room.
async fn world(events: u64) -> anyhow::Result<World> {
    let platform = Options {
        limits: Limits::off(),
        unknown_messages: UnknownMessages::Derive,
        keep: 10_000,
        keep_ids: usize::try_from(events)? + 1_000_000,
        ..Options::default()
    };
    Ok(World::direct(Kind::Distributed, BOTS, speed::UNBOUND, &platform).await)
}

#[derive(Clone, Copy, Debug, Default)]
struct Pushed {
    events: u64,
    accepted: u64,
    worst_p99: f64,
}

async fn push(world: &World, processes: &[Process], seconds: u64) -> anyhow::Result<Pushed> {
    let target = processes.first().context("no ingest")?.address;
    let (begun, mut done, mut pushed) = (Instant::now(), 0, Pushed::default());
    let made = |seconds: u64| {
        let bots = world.bots.clone();
        tokio::spawn(async move { Batch::new(&bots, Shape::default(), usize::try_from(seconds * RATE)?).await })
    };
    let mut next = made(PART.min(seconds));
    while done < seconds {
        let lasting = PART.min(seconds - done);
        let batch: Arc<Batch> = next.await??;
        done += lasting;
        next = made(PART.min(seconds - done).max(1));
        let load = Load {
            target,
            connections: CONNECTIONS,
            pace: Pace::Open(RATE as f64),
            warm_up: Duration::ZERO,
            lasting: Duration::from_secs(lasting),
        };
        let tally = load.run(batch).await?;
        pushed.events += tally.pushed;
        pushed.accepted += tally.accepted_in_all;
        pushed.worst_p99 = pushed.worst_p99.max(tally.latency_ms(0.99));
        if done % 300 == 0 {
            let answered = speed::answered(world);
            report::say(&format!(
                "{} s: {} answered",
                begun.elapsed().as_secs(),
                whole(answered as f64)
            ));
        }
    }
    next.abort();
    Ok(pushed)
}

/// MiB of each process, each second.
async fn sampled(processes: &[Process], stop: &CancellationToken) -> anyhow::Result<Vec<Vec<f64>>> {
    let mut samples = vec![Vec::new(); processes.len()];
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        for (process, samples) in processes.iter().zip(&mut samples) {
            samples.push(mib(Usage::of(process.id())?.resident));
        }
    }
    Ok(samples)
}

/// Counted at the platform and in the Store.
async fn judge(world: &World, before: u64, pushed: Pushed, report: &mut Report) -> anyhow::Result<()> {
    speed::settle(world, before + pushed.accepted, 0).await?;
    world.finished(before + pushed.accepted).await;
    let visible = world.sim.ledger(|ledger| ledger.totals().visible) - before;
    ensure!(visible >= pushed.accepted, "the ledger counts less than was answered");
    report.add(Row {
        what: "accepted, answered once, one finished row each".to_owned(),
        figure: format!("{} of {}", whole(pushed.accepted as f64), whole(pushed.events as f64)),
        beside: format!(
            "{RATE}/s for {} min, {BOTS} bots; {} messages at the platform; accept p99 {} ms in the worst {PART} s",
            pushed.events / RATE / 60,
            whole(visible as f64),
            short(pushed.worst_p99)
        ),
        goal: "all, none lost or doubled".to_owned(),
        reached: Some(pushed.accepted == pushed.events && visible == pushed.accepted),
    });
    Ok(())
}

fn flat(role: &str, samples: &[f64], report: &mut Report) {
    let quarter = |number: usize| {
        let part = samples.len() / 4;
        median(samples.get(number * part..(number + 1) * part).unwrap_or_default())
    };
    let (second, last) = (quarter(1), quarter(3));
    let most = samples.iter().copied().fold(0.0, f64::max);
    report.add(Row::most(
        &format!("memory of {role}, last quarter's median"),
        last,
        "MiB",
        format!("second quarter's {} MiB; {} MiB at most", short(second), short(most)),
        second * MORE + STEP_MIB,
    ));
}

fn draw(memory: &[Vec<f64>]) -> anyhow::Result<()> {
    let line = |name, index: usize| Line {
        name,
        points: memory.get(index).map_or_else(Vec::new, |samples| {
            samples
                .iter()
                .enumerate()
                .map(|(second, mib)| (second as f64 / 60.0, *mib))
                .collect()
        }),
    };
    let samples = memory.iter().flatten().copied();
    Chart {
        title: "Resident memory at 1,000 events a second",
        x: Axis {
            label: "minutes",
            range: 0.0..memory.first().map_or(1.0, |samples| samples.len() as f64 / 60.0),
        },
        y: Axis {
            label: "MiB",
            range: 0.0..samples.fold(1.0, f64::max) * 1.2,
        },
        lines: vec![line("ingest", 0), line("worker", 1)],
    }
    .write(&report::page("hour.svg"))
}
