//! What HTTP, broker, cache and database can do alone: how far the product is from them.

use std::sync::Arc;

use world::Kind;

use super::{BOTS, Speed, UNBOUND, accept};
use crate::load::{Batch, Pace, Shape};
use crate::report::{Report, Row, median, whole};
use crate::topology;
use crate::yardstick::{Server, limits};

/// axum answers about this many here.
const EVENTS_A_SECOND: u64 = 90_000;

pub(super) async fn measure(speed: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let world = super::world(Kind::Distributed, BOTS, UNBOUND).await;
    // It declares the queues.
    let _ingest = accept::ready(&world).await?;
    let hello = Server::hello().await?;
    let events = usize::try_from(EVENTS_A_SECOND * (speed.seconds + 1))?;
    let batch = Batch::new(&world.bots, Shape::default(), events).await?;
    let (mut http, mut broker, mut redis, mut database) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..speed.pairs {
        let load = accept::load(hello.address, Pace::Closed, speed.lasting());
        http.push(load.run(Arc::clone(&batch)).await?.rate());
        topology::purge(&world).await?;
        broker.push(limits::broker(&world, speed.lasting()).await?);
        redis.push(limits::redis(&world, speed.lasting()).await?);
        database.push(limits::database(&world, speed.lasting()).await?);
    }
    for (what, rates, how) in [
        (
            "limit: axum alone",
            http,
            "requests of 1.4 KiB, 256 connections, the same load driver",
        ),
        (
            "limit: RabbitMQ",
            broker,
            "confirmed persistent publishes of 1 KiB, 20 quorum queues, 4 channels × 128",
        ),
        ("limit: Redis", redis, "SET NX, one connection, 512 at once"),
        (
            "limit: PostgreSQL",
            database,
            "rows of 1 KiB, UNNEST of 500, 4 connections",
        ),
    ] {
        report.add(Row::plain(what, format!("{}/s", whole(median(&rates))), how.to_owned()));
    }
    Ok(())
}
