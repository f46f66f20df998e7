//! How soon events go through again once a server is back. Nothing is restarted but the server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use openclaw_sim::push::{PushOptions, Pusher};
use tokio::time::sleep;
use world::World;

use super::{Speed, answered};
use crate::report::{Report, Row};

const OUTAGE: Duration = Duration::from_secs(5);
const GOAL_SECONDS: f64 = 5.0;
const GIVE_UP: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

pub(super) async fn measure(_: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let mut world = World::with_broker(1, "").await;
    let processes = world.start(1).await;
    let ingest = processes.first().context("no ingest")?;
    // As Feishu pushes again, only sooner.
    let options = PushOptions {
        timetable: vec![LOOK; 3_000],
        ..PushOptions::default()
    };
    let pusher = world.pusher(&[ingest], options);
    through(&world, &pusher).await?;
    for server in ["RabbitMQ", "Redis", "PostgreSQL"] {
        outage(&mut world, server).await?;
        let back = Instant::now();
        through(&world, &pusher).await?;
        let what = format!("recovery after {server} is back");
        let beside = format!(
            "away for {} s; until an event is accepted and answered",
            OUTAGE.as_secs()
        );
        report.add(Row::most(
            &what,
            back.elapsed().as_secs_f64(),
            "s",
            beside,
            GOAL_SECONDS,
        ));
    }
    Ok(())
}

/// Takes a server away and brings it back; it answers when this returns.
async fn outage(world: &mut World, server: &str) -> anyhow::Result<()> {
    let shared = world.shared.as_mut().context("no servers")?;
    match server {
        "RabbitMQ" => {
            let node = shared.node.as_mut().context("no broker of its own")?;
            node.kill();
            sleep(OUTAGE).await;
            node.restart().await;
        }
        "Redis" => {
            shared.redis.kill();
            sleep(OUTAGE).await;
            shared.redis.restart().await;
        }
        // The shared server serves others: what is cut is the way.
        _ => {
            shared.ways.database.cut();
            sleep(OUTAGE).await;
            shared.ways.database.restore()?;
        }
    }
    Ok(())
}

/// One event is accepted, and answered at the platform.
async fn through(world: &World, pusher: &Pusher) -> anyhow::Result<()> {
    let before = answered(world);
    let event = world.workload(1).next().context("no bots")?;
    let pushed = pusher.push(event).await.context("the pusher stopped")?;
    ensure!(
        pushed.accepted_us.is_some(),
        "an event is not accepted: {:?}",
        pushed.status
    );
    let begun = Instant::now();
    while answered(world) == before {
        ensure!(begun.elapsed() < GIVE_UP, "an accepted event is not answered");
        sleep(LOOK).await;
    }
    Ok(())
}
