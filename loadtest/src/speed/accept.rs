//! Accepted events a second: 20 bots, 1 KiB encrypted events, durable, 256 connections, no worker. Beside the obvious
//! ingest, the broker's own limit over the same queues, and the obvious ingest in Python, in turns.

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use world::{Kind, Process, World};

use super::{BOTS, Speed, UNBOUND};
use crate::load::{Batch, Load, Pace, Shape, Tally};
use crate::report::{self, Report, Row, median, short, whole};
use crate::topology;
use crate::usage::Census;
use crate::yardstick::{Server, limits};

pub(super) const CONNECTIONS: usize = 256;
pub(super) const WARM_UP: Duration = Duration::from_millis(500);

/// Above what one turn can use up here, at 1.9 KiB of memory each. A batch that ends early only shortens the turn.
const EVENTS_A_SECOND: u64 = 25_000;

/// What one turn of each gave.
#[derive(Debug, Default)]
struct Turns {
    product: Vec<Tally>,
    naive: Vec<Tally>,
    python: Vec<Tally>,
    broker: Vec<f64>,
    /// At half the product's rate of the same turn.
    calm: Vec<Tally>,
}

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let ingest = ready(&world).await?;
    let naive = Server::naive(&world).await?;
    let python = match &speed.python {
        Some(python) => Some(Server::python(python, &world).await?),
        None => None,
    };
    let events = usize::try_from(EVENTS_A_SECOND * (speed.seconds + 1))?;
    let mut turns = Turns::default();
    for turn in 0..speed.pairs {
        let batch = Batch::new(&world.bots, Shape::default(), events).await?;
        let closed = async |target| {
            // Full queues are slower, and nobody's turn shall be.
            topology::purge(&world).await?;
            let census = Census::take()?;
            let tally = load(target, Pace::Closed, speed.lasting())
                .run(Arc::clone(&batch))
                .await?;
            let all = Census::take()?.since(&census, tally.accepted_in_all as f64);
            report::say(&format!("   an event costs the whole machine {all}"));
            anyhow::Ok(tally)
        };
        // Who comes first changes: a broker is slower while it has just got its queues.
        let naive_first = turn % 2 == 1;
        let early = if naive_first {
            Some(closed(naive.address).await?)
        } else {
            None
        };
        let product = closed(ingest.address).await?;
        product.all_accepted("ingest")?;
        let half = product.rate() / 2.0;
        turns.product.push(product);
        let tally = match early {
            Some(tally) => tally,
            None => closed(naive.address).await?,
        };
        tally.all_accepted("the naive path")?;
        turns.naive.push(tally);
        topology::purge(&world).await?;
        turns.broker.push(limits::broker(&world, speed.lasting()).await?);
        if let Some(python) = &python {
            turns.python.push(closed(python.address).await?);
        }
        turns.calm.push(calm(speed, &world, &ingest, half).await?);
    }
    rows(report, &turns);
    Ok(())
}

/// An ingest that has accepted something for every bot, so that all queues are declared.
pub(super) async fn ready(world: &World) -> anyhow::Result<Process> {
    let ingest = Process::start("ingest", world.path()).await;
    let batch = Batch::new(&world.bots, Shape::default(), world.bots.len()).await?;
    let declaring = load(ingest.address, Pace::Closed, Duration::from_secs(10));
    let tally = declaring.run(batch).await?;
    ensure!(tally.accepted_in_all == tally.pushed, "not everything was accepted");
    Ok(ingest)
}

/// Fresh events: the product remembers those of its first turn.
async fn calm(speed: &Speed, world: &World, ingest: &Process, rate: f64) -> anyhow::Result<Tally> {
    let lasting = speed.lasting() + WARM_UP;
    let events = (rate * lasting.as_secs_f64()).ceil() as usize + 1;
    let batch = Batch::new(&world.bots, Shape::default(), events).await?;
    topology::purge(world).await?;
    let tally = load(ingest.address, Pace::Open(rate), speed.lasting())
        .run(batch)
        .await?;
    tally.all_accepted("ingest")?;
    Ok(tally)
}

pub(super) fn load(target: std::net::SocketAddr, pace: Pace, lasting: Duration) -> Load {
    Load {
        target,
        connections: CONNECTIONS,
        pace,
        warm_up: WARM_UP,
        lasting,
    }
}

fn rows(report: &mut Report, turns: &Turns) {
    let rates = |tallies: &[Tally]| tallies.iter().map(Tally::rate).collect::<Vec<_>>();
    let p99s = |tallies: &[Tally]| tallies.iter().map(|tally| tally.latency_ms(0.99)).collect::<Vec<_>>();
    let product = rates(&turns.product);
    report.add(Row::plain(
        "accepted, 256 connections",
        format!("{}/s", whole(median(&product))),
        format!(
            "p50 {} ms, p99 {} ms",
            short(median(
                &turns
                    .product
                    .iter()
                    .map(|tally| tally.latency_ms(0.5))
                    .collect::<Vec<_>>()
            )),
            short(median(&p99s(&turns.product)))
        ),
    ));
    let beside = |what: &str, yardstick: &[f64], name: &str, goal: f64| {
        let ratios: Vec<f64> = product
            .iter()
            .zip(yardstick)
            .map(|(product, yardstick)| product / yardstick)
            .collect();
        let spread = ratios
            .iter()
            .map(|ratio| format!("{ratio:.2}"))
            .collect::<Vec<_>>()
            .join(", ");
        let beside = format!("{name} {}/s; turns {spread}", whole(median(yardstick)));
        Row::ratio(what, median(&ratios), beside, goal)
    };
    report.add(beside("accepted ÷ naive path", &rates(&turns.naive), "naive", 1.1));
    report.add(beside(
        "accepted ÷ broker's pipelined limit",
        &turns.broker,
        "broker",
        0.5,
    ));
    if !turns.python.is_empty() {
        report.add(beside(
            "accepted ÷ the same in Python",
            &rates(&turns.python),
            "Python",
            7.0,
        ));
        let (ours, theirs) = (median(&p99s(&turns.product)), median(&p99s(&turns.python)));
        let failed: u64 = turns
            .python
            .iter()
            .map(|tally| tally.answers.values().sum::<u64>() - tally.accepted())
            .sum();
        report.add(Row::most(
            "accept p99 at the peak, against Python's",
            ours,
            "ms",
            format!("Python {} ms, {failed} requests failed", short(theirs)),
            theirs,
        ));
    }
    let calm = rates(&turns.calm);
    report.add(Row::most(
        "accept p99 at half the rate",
        median(&p99s(&turns.calm)),
        "ms",
        format!("open loop, {}/s", whole(median(&calm))),
        25.0,
    ));
}
