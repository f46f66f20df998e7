//! Accept latency over the load: open loop at shares of the peak, from far below to near it.

use std::time::Duration;

use world::Kind;

use super::{BOTS, Speed, UNBOUND, accept};
use crate::load::{Batch, Pace, Shape};
use crate::plot::{Axis, Chart, Line};
use crate::report::{self, Report, Row, short, whole};
use crate::topology;

/// Of the peak.
const SHARES: [f64; 6] = [0.1, 0.25, 0.5, 0.65, 0.8, 0.95];

/// Above what one turn can use up here.
const EVENTS_A_SECOND: u64 = 25_000;

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let ingest = accept::ready(&world).await?;
    let run = async |pace, events: usize, lasting: Duration| {
        let batch = Batch::new(&world.bots, Shape::default(), events).await?;
        topology::purge(&world).await?;
        let tally = accept::load(ingest.address, pace, lasting).run(batch).await?;
        tally.all_accepted("ingest")?;
        anyhow::Ok(tally)
    };
    let events = usize::try_from(EVENTS_A_SECOND * (speed.seconds + 1))?;
    let peak = run(Pace::Closed, events, speed.lasting()).await?.rate();
    let mut found = Vec::new();
    for share in SHARES {
        let rate = share * peak;
        let events = (rate * (accept::WARM_UP + speed.lasting()).as_secs_f64()).ceil() as usize;
        let tally = run(Pace::Open(rate), events, speed.lasting()).await?;
        found.push((rate, [0.5, 0.99, 0.999].map(|quantile| tally.latency_ms(quantile))));
    }
    let told: Vec<String> = found
        .iter()
        .map(|(rate, [_, p99, _])| format!("{}/s: {}", whole(*rate), short(*p99)))
        .collect();
    report.add(Row::plain(
        "accept p99 over the load, ms",
        told.join("; "),
        format!("open loop, shares of the {}/s that 256 connections gave", whole(peak)),
    ));
    draw(&found)
}

fn draw(found: &[(f64, [f64; 3])]) -> anyhow::Result<()> {
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(1.0, f64::max) * 1.1;
    let line = |name, index: usize| Line {
        name,
        points: found
            .iter()
            .filter_map(|(rate, latencies)| Some((*rate, *latencies.get(index)?)))
            .collect(),
    };
    Chart {
        title: "Accept latency over the load (open loop, from the due time)",
        x: Axis {
            label: "events a second",
            range: 0.0..most(&mut found.iter().map(|(rate, _)| *rate)),
        },
        y: Axis {
            label: "ms",
            range: 0.0..most(&mut found.iter().flat_map(|(_, latencies)| *latencies)),
        },
        lines: vec![line("median", 0), line("p99", 1), line("p99.9", 2)],
    }
    .write(&report::page("latency.svg"))
}
