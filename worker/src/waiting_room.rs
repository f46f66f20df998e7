//! The loops around the waiting room: what is due, what was overlooked, what is old.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use openclaw_common::telemetry;

use crate::engine::Engine;
use crate::placement::Roster;
use crate::runner::Command;

const POLL: Duration = Duration::from_secs(1);
/// Between two counts of what waits.
const COUNT: Duration = Duration::from_secs(10);
const SWEEP: Duration = Duration::from_secs(30);
/// A row this long past its time was overlooked (`docs/design/delivery.md` §10).
const OVERDUE: Duration = Duration::from_secs(5 * 60);
const PURGE: Duration = Duration::from_secs(10 * 60);
/// Rows deleted in one transaction.
const PURGE_ROWS: u32 = 1000;

/// Each second: is the database there, and which served bots have rows whose time has come?
pub(crate) async fn poll(engine: Arc<Engine>, roster: Roster) {
    let mut tick = tokio::time::interval(POLL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        telemetry::CACHE_DEGRADED.set(if engine.quota.is_degraded() { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "a count of senders")]
        telemetry::QUOTA_WAITING.set(engine.quota.waiting() as f64);
        let ready = engine.store.ready().await;
        engine.commits.heard(ready.clone());
        let served = roster.served();
        if ready.is_err() || served.is_empty() {
            continue;
        }
        match engine.store.next_due(&served).await {
            Ok(due) => {
                for (bot, due_in) in due {
                    if due_in.is_zero() {
                        roster.tell(&bot, Command::Due);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot look into the waiting room"),
        }
    }
}

/// Every ten seconds: how much waits for the bots that this worker serves?
pub(crate) async fn count(engine: Arc<Engine>, roster: Roster) {
    let mut shown = HashSet::new();
    loop {
        tokio::time::sleep(COUNT).await;
        let served: HashSet<_> = roster.served().into_iter().collect();
        let asked: Vec<_> = served.iter().cloned().collect();
        match engine.store.waiting(&asked).await {
            Ok(waiting) => {
                // Who was served before is another worker's to count.
                for bot in served.union(&shown) {
                    let rows = waiting.get(bot).copied().unwrap_or(0);
                    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
                    telemetry::WAITING_EVENTS.set(bot.as_str(), rows as f64);
                }
                shown = served;
            }
            Err(error) => tracing::warn!(%error, "cannot count what waits"),
        }
    }
}

/// The safety net: rows long past their time although their bot's worker has nothing else to do. In normal operation there
/// are none; a bot at its quota has them, and they are its backlog.
pub(crate) async fn sweep(engine: Arc<Engine>, roster: Roster) {
    loop {
        tokio::time::sleep(SWEEP).await;
        match engine.store.overdue(OVERDUE).await {
            Ok(overdue) => {
                for (bot, rows) in overdue {
                    if roster.is_idle(&bot) {
                        tracing::warn!(bot = %bot, rows, "events wait long past their time");
                        telemetry::SWEPT.add(rows);
                        roster.tell(&bot, Command::Due);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot sweep"),
        }
    }
}

/// Deletes finished rows beyond `database.retention`, a little at a time.
pub(crate) async fn purge(engine: Arc<Engine>) {
    loop {
        tokio::time::sleep(PURGE).await;
        loop {
            match engine.store.purge(engine.config.database.retention, PURGE_ROWS).await {
                Ok(rows) if rows >= u64::from(PURGE_ROWS) => tokio::task::yield_now().await,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "cannot delete old rows");
                    break;
                }
            }
        }
    }
}
