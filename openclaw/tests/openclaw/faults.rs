//! The fault matrix: each row of the reliability design by its number, against real processes and real servers, with the
//! ledger check after every run.
//!
//! `./dev test faults` runs all of it, one row at a time; plain `./dev test` a short selection (`.config/nextest.toml`).
//! Where a row names a longer outage or more repetitions than fit, the test says what it uses.
//!
//! | file | breaks |
//! |---|---|
//! | `processes` | ingest and worker processes: killed, frozen, replaced |
//! | `crash` | a process at each step of the case table |
//! | `broker` | RabbitMQ and the way to it |
//! | `cache` | Redis and the way to it |
//! | `database` | PostgreSQL and the way to it |
//! | `dead_letters` | their replay: crowded, killed, repeated |
//! | `feishu` | the platform's answers |
//! | `intake` | what is pushed, and by whom |
//! | `upgrade` | the broker's version |

mod audit;
mod broker;
mod cache;
mod crash;
mod database;
mod dead_letters;
mod feishu;
mod intake;
mod processes;
mod upgrade;

use std::time::{Duration, Instant};

use openclaw_sim::event::Event;
use openclaw_sim::push::{PushOptions, Pusher};
use tokio::task::JoinHandle;

use audit::{Audit, figure};
use world::{Shared, World};

/// A platform that does not give up: a first re-push after a second and a half, and forty of them.
fn patient() -> PushOptions {
    PushOptions {
        timetable: vec![Duration::from_millis(1500); 40],
        ..PushOptions::default()
    }
}

/// One attempt each.
fn once() -> PushOptions {
    PushOptions {
        timetable: Vec::new(),
        ..PushOptions::default()
    }
}

/// Pushes in the background.
fn pushing(pusher: &Pusher, rate: f64, events: impl Iterator<Item = Event> + Send + 'static) -> JoinHandle<()> {
    let pusher = pusher.clone();
    tokio::spawn(async move { pusher.open_loop(rate, events).await })
}

/// An outage lasts: nothing is waited for but time.
async fn lasts(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn shared(world: &World) -> &Shared {
    world.shared.as_ref().unwrap()
}

fn shared_mut(world: &mut World) -> &mut Shared {
    world.shared.as_mut().unwrap()
}

/// Distributed, with so many bots.
async fn world(bots: usize) -> World {
    World::new(world::Kind::Distributed, bots, "").await
}
