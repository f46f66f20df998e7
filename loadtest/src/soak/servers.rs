//! The servers under the processes: stopped, killed, replaced, and started again.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep, sleep_until};
use world::Shared;

use super::schedule::{Manner, Outage, Server};

/// What an outage came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) server: Server,
    pub(crate) manner: Manner,
    /// From its going to its first answer.
    pub(crate) took: Duration,
}

/// Lets every outage happen when it is due, one after the other.
pub(crate) async fn disturb(shared: &mut Shared, begun: Instant, outages: &[Outage]) -> anyhow::Result<Vec<Restart>> {
    let mut restarts = Vec::new();
    for outage in outages {
        sleep_until(begun + outage.at).await;
        let gone = Instant::now();
        go(shared, *outage).await?;
        restarts.push(Restart {
            server: outage.server,
            manner: outage.manner,
            took: gone.elapsed(),
        });
    }
    Ok(restarts)
}

async fn go(shared: &mut Shared, outage: Outage) -> anyhow::Result<()> {
    match outage.server {
        Server::Broker => {
            let node = shared.node.as_mut().context("the broker is not this run's own")?;
            match outage.manner {
                Manner::Stopped => node.stop().await,
                Manner::Killed | Manner::Replaced => node.kill(),
            }
            sleep(outage.away).await;
            node.restart().await;
        }
        Server::Cache => {
            match outage.manner {
                Manner::Stopped => shared.redis.stop().await,
                Manner::Killed | Manner::Replaced => shared.redis.kill(),
            }
            sleep(outage.away).await;
            match outage.manner {
                Manner::Stopped | Manner::Killed => shared.redis.restart().await,
                Manner::Replaced => shared.redis.restart_empty().await,
            }
        }
        Server::Database => {
            let postgres = shared.postgres.as_mut().context("the database is not this run's own")?;
            match outage.manner {
                Manner::Stopped => postgres.stop().await,
                Manner::Killed | Manner::Replaced => postgres.kill(),
            }
            sleep(outage.away).await;
            postgres.restart().await;
        }
    }
    Ok(())
}
