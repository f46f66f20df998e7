//! Eight bots, one chat of all of them, two private chats of each, four workers: nothing over a limit, nearly all of it used.

use std::time::Duration;

use openclaw_sim::clock::monotonic_us;
use tokio::time::sleep;

use super::Extent;
use super::arrivals::{Arrivals, PER_SECOND};
use super::stage::{Demand, Lane, SHARED, Stage};
use crate::plot::{Axis, Chart, Line};
use crate::report::{Report, Row, page, say};

pub(super) const BOTS: usize = 8;
pub(super) const WORKERS: usize = 4;
/// Waiting in each lane.
pub(super) const BACKLOG: usize = 48;
/// Of the plot.
const SHOWN: f64 = 60.0;

/// Every bot in the shared chat and in two of its own.
pub(super) fn lanes(stage: &Stage) -> Vec<Lane> {
    let of = |bot| [Lane::shared(bot), Lane::private(bot, 0), Lane::private(bot, 1)];
    stage.world.bots.iter().flat_map(of).collect()
}

/// What arrived under endless demand in every lane, and which part of it was counted.
pub(super) struct Counted {
    pub(super) arrivals: Arrivals,
    pub(super) from: u64,
    pub(super) until: u64,
    /// Waiting in each lane, at least.
    pub(super) least: usize,
}

pub(super) async fn counted(workers: usize, lasting: Duration) -> anyhow::Result<Counted> {
    let stage = Stage::new(BOTS, workers, "").await?;
    let lanes = lanes(&stage);
    let count = lanes.len();
    let mut demand = Demand::start(&stage, lanes, BACKLOG);
    let from = demand.flowing(count).await?;
    sleep(lasting).await;
    let until = monotonic_us();
    let least = demand.end()?;
    Ok(Counted {
        arrivals: Arrivals::at(&stage.world.sim),
        from,
        until,
        least,
    })
}

pub(super) async fn run(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    say("steady: eight bots, one shared chat, sixteen private ones, four workers");
    let Counted {
        arrivals,
        from,
        until,
        least,
    } = counted(WORKERS, Duration::from_secs_f64(extent.minutes * 60.0)).await?;
    let under = format!(
        "{} min, {BOTS} bots, {WORKERS} workers, sends ±10 ms, at least {least} waiting in each lane",
        extent.minutes
    );
    // From the first send on: a start is no excuse.
    let violations = arrivals.violations(0, u64::MAX);
    report.add(Row::violations(
        "steady: violations, every level",
        violations,
        arrivals.sends(),
        under.clone(),
    ));
    let bots = arrivals.used("bot ", from, until);
    report.add(Row::share(
        "steady: use of a bot's limit, the worst of 8",
        least_of(&bots),
        under.clone(),
        0.97,
    ));
    let chat = arrivals.used(&format!("chat {SHARED}"), from, until);
    report.add(Row::share(
        "steady: use of the shared chat's limit",
        least_of(&chat),
        under.clone(),
        0.95,
    ));
    if extent.published() {
        let shown = |name: &str| arrivals.plotted(name, from, until.min(from + (SHOWN * 1e6) as u64));
        Chart {
            title: "Sends in the second that ends here: one bot and the chat that eight bots share (limit 5)",
            x: Axis {
                label: "seconds",
                range: 0.0..SHOWN,
            },
            y: Axis {
                label: "sends in a rolling second",
                range: 0.0..(PER_SECOND + 2) as f64,
            },
            lines: vec![
                Line {
                    name: "bot0",
                    points: shown("bot cli_bot0"),
                },
                Line {
                    name: "the shared chat",
                    points: shown(&format!("chat {SHARED}")),
                },
            ],
        }
        .write(&page("quota-steady.svg"))?;
    }
    Ok(())
}

pub(super) fn least_of(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min).min(f64::MAX)
}

pub(super) fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
