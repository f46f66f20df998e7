//! The cache's promises over memory and Redis, and the limits built on them.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod algorithm;
mod conformance;
mod differential;
mod outage;
mod proxy;
mod rolling;
mod sending;
mod server;
mod urgency;
mod ways;
mod windows;

use std::time::Duration;

use openclaw_common::cache::{Cache, Level, Slot, Take};
use tokio::time::{Instant, sleep};

/// `count` in any rolling `seconds`.
fn level(key: &str, count: u32, seconds: u64) -> Level {
    Level {
        key: key.to_owned(),
        count,
        window: Duration::from_secs(seconds),
    }
}

/// Asks until there is a slot.
async fn slot(cache: &dyn Cache, levels: &[Level]) -> (Instant, Slot) {
    loop {
        match cache.take(levels, openclaw_common::quota::HORIZON).await.unwrap() {
            Take::Granted { wait, slot, .. } => return (Instant::now() + wait, slot),
            Take::Later { wait, .. } => sleep(wait).await,
        }
    }
}
