//! What is broken when: random, and the same again for the same seed.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Between two kills, in seconds.
const KILL_EVERY: std::ops::Range<f64> = 1.0..5.0;
/// How long a server stays away, in seconds; its own start comes on top.
const AWAY: std::ops::Range<f64> = 1.0..5.0;
/// Each server's turn within a minute.
const TURN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    Broker,
    Cache,
    Database,
}

/// How a server goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Manner {
    /// As an operator stops it.
    Stopped,
    /// SIGKILL.
    Killed,
    /// SIGKILL, and another comes without its memory; only the cache may do that.
    Replaced,
}

/// One process gets SIGKILL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kill {
    pub(crate) at: Duration,
    pub(crate) process: usize,
}

/// One server goes and comes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) at: Duration,
    pub(crate) server: Server,
    pub(crate) manner: Manner,
    pub(crate) away: Duration,
}

/// Kills of `processes` processes within `span`.
pub(crate) fn kills(seed: u64, span: Duration, processes: usize) -> Vec<Kill> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += Duration::from_secs_f64(random.random_range(KILL_EVERY));
        if at >= span {
            return kills;
        }
        let process = random.random_range(0..processes);
        kills.push(Kill { at, process });
    }
}

/// One outage of each server in each minute, in a random order.
pub(crate) fn outages(seed: u64, minutes: u32) -> Vec<Outage> {
    // Another stream than that of the kills.
    let mut random = StdRng::seed_from_u64(!seed);
    let mut outages = Vec::new();
    for minute in 0..minutes {
        let mut order = [Server::Broker, Server::Cache, Server::Database];
        order.shuffle(&mut random);
        for (turn, server) in (0..).zip(order) {
            let at = Duration::from_secs(60) * minute + TURN * turn;
            let manners: &[Manner] = match server {
                Server::Cache => &[Manner::Stopped, Manner::Killed, Manner::Replaced],
                Server::Broker | Server::Database => &[Manner::Stopped, Manner::Killed],
            };
            let turned = (minute as usize + random.random_range(0..2)) % manners.len();
            outages.push(Outage {
                at: at + Duration::from_secs_f64(random.random_range(1.0..6.0)),
                server,
                manner: manners.get(turned).copied().unwrap_or(Manner::Killed),
                away: Duration::from_secs_f64(random.random_range(AWAY)),
            });
        }
    }
    outages
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Broker => "RabbitMQ",
            Self::Cache => "Redis",
            Self::Database => "PostgreSQL",
        })
    }
}

impl fmt::Display for Manner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Replaced => "replaced by an empty one",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_breaks_the_same() {
        let text = |seed| format!("{:?}{:?}", kills(seed, Duration::from_secs(600), 5), outages(seed, 10));
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn every_server_goes_once_a_minute_and_a_process_every_three_seconds() {
        let outages = outages(3, 10);
        for server in [Server::Broker, Server::Cache, Server::Database] {
            let minutes: Vec<u64> = outages
                .iter()
                .filter(|outage| outage.server == server)
                .map(|outage| outage.at.as_secs() / 60)
                .collect();
            assert_eq!(minutes, (0..10).collect::<Vec<_>>());
        }
        let kills = kills(3, Duration::from_secs(600), 5).len();
        assert!((150..=260).contains(&kills), "{kills} kills in ten minutes");
    }
}
