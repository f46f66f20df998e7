//! Accepting and draining at once: as much is accepted as is finished, with a bounded backlog between.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;
use world::{Kind, Process, World};

use super::{BOTS, Speed, UNBOUND, accept, answered};
use crate::load::{Batch, Load, Pace, Shape};
use crate::report::{self, Report, Row, median, short, whole};
use crate::usage::{Census, Usage};

/// Accepted and not finished, at most: half a second's worth or so, so that neither side runs ahead.
const BACKLOG: u64 = 4_000;

/// Above what a second can use up.
const EVENTS_A_SECOND: u64 = 15_000;

/// The backlog fills, connections and plans are made.
pub(super) const WARM_UP: Duration = Duration::from_secs(2);

const STUCK: Duration = Duration::from_secs(20);

/// So long after the last answer the copies of refused events are answered too.
pub(super) const QUIET: Duration = Duration::from_secs(5);

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let processes = world.start(1).await;
    let found = turns(&Plan::of(speed), &world, &processes).await?;
    world.finished(answered(&world)).await;
    report.add(found.row("both at once: accepted and drained", 3_500.0));
    Ok(())
}

/// How to load a whole pipeline.
pub(crate) struct Plan {
    pub(crate) turns: usize,
    /// How long each is counted.
    pub(crate) lasting: Duration,
    pub(crate) shape: Shape,
    /// More than a second can use up.
    pub(crate) events_a_second: u64,
}

impl Plan {
    pub(super) fn of(speed: &Speed) -> Self {
        Self {
            turns: speed.pairs,
            lasting: speed.lasting(),
            shape: Shape::default(),
            events_a_second: EVENTS_A_SECOND,
        }
    }
}

/// What the turns of a whole pipeline gave.
pub(crate) struct Found {
    rates: Vec<f64>,
    p99s: Vec<f64>,
    /// Microseconds of processor an event, by role.
    costs: Vec<(String, f64)>,
}

impl Found {
    pub(super) fn row(&self, what: &str, goal: f64) -> Row {
        let backlog = whole(BACKLOG as f64);
        let beside = format!("backlog at most {backlog}; {}", self.beside());
        Row::rate(what, self.rate(), beside, goal)
    }

    /// Events a second.
    pub(crate) fn rate(&self) -> f64 {
        median(&self.rates)
    }

    /// What they took.
    pub(crate) fn beside(&self) -> String {
        let costs = self
            .costs
            .iter()
            .map(|(role, cost)| format!("{role} {} µs", short(*cost)));
        let turns = self.rates.iter().map(|rate| whole(*rate));
        format!(
            "turns {}; accept p99 {} ms; processor an event: {}",
            turns.collect::<Vec<_>>().join(", "),
            short(median(&self.p99s)),
            costs.collect::<Vec<_>>().join(", ")
        )
    }
}

/// Pushes to the first of the processes, as fast as events are finished.
pub(crate) async fn turns(plan: &Plan, world: &World, processes: &[Process]) -> anyhow::Result<Found> {
    let used = || {
        processes
            .iter()
            .map(|process| Ok(Usage::of(process.id())?.cpu))
            .collect::<anyhow::Result<Vec<_>>>()
    };
    let first = processes.first().ok_or_else(|| anyhow::anyhow!("no processes"))?;
    let (mut rates, mut p99s, used_before, answered_before) = (Vec::new(), Vec::new(), used()?, answered(world));
    for _ in 0..plan.turns {
        let events = usize::try_from(plan.events_a_second * (plan.lasting + WARM_UP).as_secs())?;
        let batch = Batch::new(&world.bots, plan.shape, events).await?;
        let before = answered(world);
        let census = Census::take()?;
        let sim = world.sim.clone();
        let finished = move || sim.ledger(|ledger| ledger.totals().replied) - before;
        let load = Load {
            target: first.address,
            connections: accept::CONNECTIONS,
            pace: Pace::Behind(BACKLOG, Arc::new(finished)),
            warm_up: WARM_UP,
            lasting: plan.lasting,
        };
        let (tally, drained) = tokio::join!(load.run(batch), rate(plan.lasting, world));
        let tally = tally?;
        tally.all_accepted("ingest")?;
        // The slower of the two sides.
        rates.push(drained.min(tally.rate()));
        p99s.push(tally.latency_ms(0.99));
        settle(world, before + tally.accepted_in_all, 0).await?;
        let all = Census::take()?.since(&census, tally.accepted_in_all as f64);
        report::say(&format!("   an event costs the whole machine {all}"));
    }
    let events = (answered(world) - answered_before) as f64;
    let costs = processes.iter().zip(used()?.into_iter().zip(used_before));
    let costs =
        costs.map(|(process, (after, before))| (process.role.clone(), (after - before).as_secs_f64() * 1e6 / events));
    Ok(Found {
        rates,
        p99s,
        costs: costs.collect(),
    })
}

/// Answers a second at the platform, over the same time that the load is counted.
async fn rate(lasting: Duration, world: &World) -> f64 {
    sleep(WARM_UP).await;
    let begun = (answered(world), std::time::Instant::now());
    sleep(lasting).await;
    (answered(world) - begun.0) as f64 / begun.1.elapsed().as_secs_f64()
}

/// Everything that was accepted has been answered, once; of what was refused some may be as well, because a confirm that was
/// late for the answer proves nothing. How many are answered, once no more are coming. Events are counted and not named, so
/// with refused ones among them it cannot say that no accepted one is missing.
///
/// The rows are counted by whoever knows how many there were before.
pub(crate) async fn settle(world: &World, accepted: u64, refused: u64) -> anyhow::Result<u64> {
    let most = accepted + refused;
    let mut last = (answered(world), std::time::Instant::now());
    while last.0 < accepted || (refused > 0 && last.1.elapsed() < QUIET) {
        sleep(Duration::from_millis(10)).await;
        let now = answered(world);
        if now > last.0 {
            last = (now, std::time::Instant::now());
        }
        ensure!(
            now >= accepted || last.1.elapsed() < STUCK,
            "{now} of {accepted} answered, and no more are coming"
        );
    }
    let extra = world.sim.ledger(|ledger| ledger.totals().extra_replies);
    ensure!(
        last.0 <= most && extra == 0,
        "{} answered of {accepted} accepted and {refused} refused, {extra} of them twice",
        last.0
    );
    Ok(last.0)
}
