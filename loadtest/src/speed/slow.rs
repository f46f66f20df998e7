//! A slow disk under the database: each commit waits ten milliseconds for it, by PostgreSQL's own `commit_delay`. What is pushed to
//! small machines is held there too, and a backlog drains nearly as fast as without the delay: nobody computes meanwhile,
//! so what waits must go together and side by side.

use std::time::Duration;

use anyhow::Context as _;
use testkit::Database;
use world::{Kind, Process, World};

use super::{BOTS, Speed, UNBOUND, drain, small};
use crate::report::{Report, Row, median, short, whole};

/// What a commit waits in addition to what the disk of this machine takes.
const DELAY: Duration = Duration::from_millis(10);

/// Of the rate without the delay.
const KEPT: f64 = 0.6;

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, small::BOTS, "").await;
    database(&world)?.delay_commits(DELAY).await;
    small::hold(&world, "slow disk, half a core a role", report).await?;
    drop(world);
    drained(speed, report).await
}

/// The setting is the database's own and goes with it, however this ends.
fn database(world: &World) -> anyhow::Result<&Database> {
    Ok(&world.shared.as_ref().context("no servers")?.database)
}

/// A backlog with the delay and one without, in turns.
async fn drained(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    let ingest = Process::start("ingest", world.path()).await;
    let events = drain::EVENTS_A_SECOND * speed.seconds;
    let (mut slow, mut ratios, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..speed.pairs {
        let mut rates = [0.0; 2];
        // Who comes first changes: the tables grow meanwhile.
        for delayed in [turn % 2 == 0, turn % 2 == 1] {
            let delay = if delayed { DELAY } else { Duration::ZERO };
            // Each turn has a worker of its own, so all its connections have the setting.
            database(&world)?.delay_commits(delay).await;
            let turn = drain::turn(&world, &ingest, events).await?;
            rates[usize::from(delayed)] = turn.rate;
            if delayed {
                costs.push(turn.worker);
            }
        }
        let [fast, delayed] = rates;
        slow.push(delayed);
        ratios.push(delayed / fast);
    }
    let turns: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    let beside = format!(
        "{}/s; turns {}; worker {} µs of processor an event",
        whole(median(&slow)),
        turns.join(", "),
        short(median(&costs))
    );
    report.add(Row::ratio(
        "slow disk: drained ÷ drained without",
        median(&ratios),
        beside,
        KEPT,
    ));
    Ok(())
}
