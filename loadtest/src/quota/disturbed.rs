//! The same load while Redis goes and comes back, a worker freezes and wakes, and the way to Redis becomes long.

use std::time::Duration;

use anyhow::Context as _;
use openclaw_sim::clock::monotonic_us;
use openclaw_sim::proxy::{Direction, Flow};
use rustix::process::Signal;
use tokio::time::sleep;

use super::Extent;
use super::arrivals::{Arrivals, PER_SECOND};
use super::stage::{Demand, SHARED, Stage};
use super::steady::{BACKLOG, BOTS, WORKERS, lanes, mean_of};
use crate::plot::{Axis, Chart, Line};
use crate::report::{Report, Row, page, percent, say};

/// How long a worker stands still.
const FROZEN: Duration = Duration::from_secs(5);
/// Half of the round trip to Redis in the last phase.
const FAR: Duration = Duration::from_millis(15);

/// What was going on from when until when.
struct Phase {
    name: &'static str,
    from: u64,
    until: u64,
}

pub(super) async fn run(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    say("disturbed: Redis stopped and started, a worker frozen, 30 ms to Redis");
    let mut stage = Stage::new(BOTS, WORKERS, "").await?;
    let lanes = lanes(&stage);
    let count = lanes.len();
    let mut demand = Demand::start(&stage, lanes, BACKLOG);
    let begun = demand.flowing(count).await?;
    let mut phases = Vec::new();
    let lasts = |full: f64| sleep(Duration::from_secs_f64(extent.seconds(full)));

    lasts(20.0).await;
    let mut from = ended(&mut phases, "undisturbed", begun);
    redis(&mut stage)?.kill();
    lasts(20.0).await;
    from = ended(&mut phases, "Redis is down", from);
    redis(&mut stage)?.restart().await;
    lasts(20.0).await;
    from = ended(&mut phases, "Redis is back", from);
    let (worker, silent) = freeze(&stage).await?;
    from = ended(&mut phases, "a worker is frozen", from);
    worker.signal(Signal::CONT);
    lasts(20.0).await;
    from = ended(&mut phases, "it has woken", from);
    let ways = &stage.world.shared.as_ref().context("a distributed world")?.ways;
    ways.redis.set(Direction::Both, &Flow::slow(FAR, Duration::ZERO));
    lasts(40.0).await;
    let until = ended(&mut phases, "30 ms to Redis", from);

    demand.end()?;
    let arrivals = Arrivals::at(&stage.world.sim);
    for phase in &phases {
        let Phase { name, from, until } = *phase;
        let under = format!(
            "{:.0} s; {silent} bots were the frozen worker's",
            (until - from) as f64 / 1e6
        );
        let sends: usize = (0..BOTS)
            .map(|bot| arrivals.count(&format!("bot cli_bot{bot}"), from, until))
            .sum();
        let what = format!("disturbed: {name}: violations, every level");
        report.add(Row::violations(
            &what,
            arrivals.violations(from, until),
            sends,
            under.clone(),
        ));
        let bots = mean_of(&arrivals.used("bot ", from, until));
        let chat = mean_of(&arrivals.used(&format!("chat {SHARED}"), from, until));
        report.add(Row::plain(
            &format!("disturbed: {name}: use"),
            format!("bots {}, shared chat {}", percent(bots), percent(chat)),
            under,
        ));
    }
    if extent.published() {
        let shown = |name: &str| arrivals.plotted(name, begun, until);
        Chart {
            title: "Sends in the second that ends here, while Redis goes, a worker freezes, the way to Redis grows long",
            x: Axis { label: "seconds", range: 0.0..(until - begun) as f64 / 1e6 },
            y: Axis { label: "sends in a rolling second", range: 0.0..(PER_SECOND + 2) as f64 },
            lines: vec![
                Line { name: "bot0", points: shown("bot cli_bot0") },
                Line { name: "the shared chat", points: shown(&format!("chat {SHARED}")) },
            ],
        }
        .write(&page("quota-disturbed.svg"))?;
    }
    Ok(())
}

fn ended(phases: &mut Vec<Phase>, name: &'static str, from: u64) -> u64 {
    let until = monotonic_us();
    phases.push(Phase { name, from, until });
    until
}

fn redis(stage: &mut Stage) -> anyhow::Result<&mut testkit::RedisProcess> {
    Ok(&mut stage.world.shared.as_mut().context("a distributed world")?.redis)
}

/// Stops a worker that serves some bots, for five seconds; gives it, still stopped, and how many fell silent.
async fn freeze(stage: &Stage) -> anyhow::Result<(&world::Process, usize)> {
    for worker in stage.processes.iter().skip(1) {
        let begun = monotonic_us();
        worker.signal(Signal::STOP);
        sleep(Duration::from_secs(2)).await;
        let arrivals = Arrivals::at(&stage.world.sim);
        let quiet = |bot: &usize| arrivals.count(&format!("bot cli_bot{bot}"), begun + 500_000, begun + 2_000_000) == 0;
        let silent = (0..BOTS).filter(quiet).count();
        if silent > 0 {
            sleep(FROZEN - Duration::from_secs(2)).await;
            return Ok((worker, silent));
        }
        worker.signal(Signal::CONT);
    }
    anyhow::bail!("no worker served any bot")
}
