//! The product's exchange and queues, as yardsticks use them and measurements empty them.

use anyhow::Context as _;
use lapin::options::QueuePurgeOptions;
use lapin::{Connection, ConnectionProperties};
use world::World;

/// Where every event is published, with the bot's id as routing key.
pub(crate) const EVENTS: &str = "openclaw.v1.events";

/// One bot's queue.
pub(crate) fn queue(bot: &str) -> String {
    format!("openclaw.v1.bot.{bot}")
}

/// Empties all bots' queues; says how many events were in them.
pub(crate) async fn purge(world: &World) -> anyhow::Result<u64> {
    let shared = world.shared.as_ref().context("no broker")?;
    let connection = Connection::connect(shared.rabbitmq.amqp_url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut purged = 0;
    for recipient in &world.bots {
        let options = QueuePurgeOptions::default();
        purged += u64::from(channel.queue_purge(queue(&recipient.bot).into(), options).await?);
    }
    connection.close(200, "purged".into()).await?;
    Ok(purged)
}
