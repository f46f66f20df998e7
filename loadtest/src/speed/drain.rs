//! A backlog, pushed before the worker starts, through handler, quota, send and outcome.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::sleep;
use world::{Kind, Process, World};

use super::{BOTS, Speed, UNBOUND, accept, answered};
use crate::load::{Batch, Pace, Shape};
use crate::report::{self, Report, Row, median, short, whole};
use crate::usage::{Census, Usage, mib};

/// Events a turn, for each second it is meant to last.
pub(super) const EVENTS_A_SECOND: u64 = 8_000;

/// Nothing moves for this long: the drain has failed.
const STUCK: Duration = Duration::from_secs(20);

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let ingest = Process::start("ingest", world.path()).await;
    let events = EVENTS_A_SECOND * speed.seconds;
    let (mut rates, mut costs, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..speed.pairs {
        let turn = turn(&world, &ingest, events).await?;
        rates.push(turn.rate);
        costs.push(turn.worker);
        peak = peak.max(turn.peak);
    }
    let rate = median(&rates);
    let beside = format!(
        "{} events a turn; worker {} µs of processor an event, {} MiB at most",
        whole(events as f64),
        short(median(&costs)),
        whole(mib(peak))
    );
    report.add(Row::rate(
        "drained through handler, quota, send, outcome",
        rate,
        beside,
        5_000.0,
    ));
    Ok(())
}

/// What one backlog gave.
pub(super) struct Turn {
    /// Events a second.
    pub(super) rate: f64,
    /// Microseconds of the worker's processor an event.
    pub(super) worker: f64,
    /// The most resident bytes of the worker.
    pub(super) peak: u64,
}

/// Pushes that many events and drains them with a worker of their own.
pub(super) async fn turn(world: &World, ingest: &Process, events: u64) -> anyhow::Result<Turn> {
    let before = answered(world);
    push(world, ingest, events).await?;
    let census = Census::take()?;
    let worker = Process::spawn("worker", world.path()).await;
    let took = drained(world, before, events).await?;
    let all = Census::take()?.since(&census, events as f64);
    let rate = events as f64 / took.as_secs_f64();
    report::say(&format!("   {}/s; an event costs the whole machine {all}", whole(rate)));
    let usage = Usage::of(worker.id())?;
    ensure!(worker.stop().await.success(), "the worker did not stop in order");
    Ok(Turn {
        rate,
        worker: usage.cpu.as_secs_f64() * 1e6 / events as f64,
        peak: usage.peak,
    })
}

/// Accepts that many events.
pub(super) async fn push(world: &World, ingest: &Process, events: u64) -> anyhow::Result<()> {
    let batch = Batch::new(&world.bots, Shape::default(), usize::try_from(events)?).await?;
    let load = accept::load(ingest.address, Pace::Closed, Duration::from_secs(240));
    let tally = load.run(batch).await?;
    ensure!(
        tally.accepted_in_all == events,
        "{} of {events} accepted: {:?}",
        tally.accepted_in_all,
        tally.answers
    );
    Ok(())
}

/// From the first answer to the last, the rows of all finished: how long it took.
pub(super) async fn drained(world: &World, before: u64, events: u64) -> anyhow::Result<Duration> {
    let (mut first, mut last) = (None, (before, Instant::now()));
    loop {
        let now = answered(world);
        if now > last.0 {
            first.get_or_insert_with(Instant::now);
            last = (now, Instant::now());
        }
        if now >= before + events {
            break;
        }
        ensure!(
            last.1.elapsed() < STUCK,
            "{} of {events} answered, and no more are coming",
            now - before
        );
        sleep(Duration::from_millis(5)).await;
    }
    world.finished(before + events).await;
    Ok(first.unwrap_or(last.1).elapsed())
}
