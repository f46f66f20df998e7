//! The worker: queue in, Feishu out.
//!
//! | module | job |
//! |---|---|
//! | [`placement`] | which bots this worker consumes |
//! | [`runner`] | one bot: attached again and again |
//! | [`attachment`] | one attachment: deliveries into lanes, lanes into tasks |
//! | [`anchor`] | the delivery that tells a standby that it is the active one |
//! | [`lanes`] | a chat's events in order, one at a time |
//! | [`process`] | one event from its row to its end |
//! | [`order`] | sends that somebody asked for |
//! | [`sender`], [`membership`] | through whom: the bot, or the member of a pool that is in the chat |
//! | [`sending`] | one action: a slot, a request, a verdict |
//! | [`commit`] | group commit over the Store |
//! | [`gate`] | what keeps a bot from sending although it has slots: [`tenants`], [`spending`], [`breaker`] |
//! | [`adaptive_limit`], [`people`] | what refusals teach about a chat; which person a chat is with |
//! | [`meter`] | counts calls of the Open API |
//! | [`verdict`] | what becomes of an event after a send |
//! | [`levels`] | which limits a send counts against |
//! | [`handler`], [`event`], [`words`], [`action`] | what a bot answers |
//! | [`feishu`] | the Open API: tokens, requests, what an answer means |
//! | [`waiting_room`] | due rows, the sweeper, retention |
//! | [`archive`] | messages that never became a row |
//! | [`unrecorded`] | sends that the Store does not know the end of: a message that comes back may be theirs |
//! | [`silence`] | notices a consumer that hears nothing although events wait |
//! | [`pulse`] | notices that the process was frozen |

pub mod action;
mod adaptive_limit;
mod anchor;
mod archive;
mod attachment;
mod breaker;
mod commit;
mod engine;
pub mod event;
pub mod feishu;
mod gate;
pub mod handler;
mod lanes;
mod levels;
#[cfg(feature = "measured")]
pub mod measured;
mod membership;
mod meter;
#[cfg(test)]
mod model;
mod order;
mod people;
mod placement;
mod process;
mod pulse;
mod recent;
mod runner;
mod sender;
mod sending;
mod silence;
mod spending;
mod tenants;
mod unrecorded;
mod verdict;
mod waiting_room;
mod words;

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::Bots;
use openclaw_common::cache::Cache;
use openclaw_common::config::Config;
use openclaw_common::queue::Queue;
use openclaw_common::quota::{self, Quota};
use openclaw_common::seal::KeyRing;
use openclaw_common::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adaptive_limit::AdaptiveLimits;
use crate::commit::Commits;
use crate::engine::Engine;
use crate::feishu::{Client, ClientError};
use crate::gate::Gate;
use crate::handler::Handlers;
use crate::meter::Meter;
use crate::people::People;
use crate::placement::{Placement, Roster};
use crate::pulse::Pulse;
use crate::unrecorded::Unrecorded;

/// A drain that takes longer is cut off: redelivery and the uuid cover what was on its way (`docs/design/delivery.md` §8).
const DRAIN: Duration = Duration::from_secs(25);

/// A database that leaves a commit unanswered for so long during the drain is not waited for: what it has not heard of is
/// found again by the next owner. Longer than a failover takes.
const DATABASE_PATIENCE: Duration = Duration::from_secs(6);

/// What a worker works with.
pub struct Worker {
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The bots, as they change.
    pub bots: Bots,
    /// Where events come from.
    pub queue: Arc<dyn Queue>,
    /// Quota slots, tokens, membership.
    pub cache: Arc<dyn Cache>,
    /// What has happened.
    pub store: Arc<dyn Store>,
    /// Opens sealed bodies.
    pub keys: Arc<KeyRing>,
    /// Unique a process; shown to the other workers.
    pub id: String,
}

/// Works until `shutdown`, then drains: starts nothing new, finishes what runs, commits, acknowledges, and cuts the
/// consuming connection. Returns when nothing of it runs any more.
///
/// # Errors
/// When no HTTPS client can be made: the machine has no certificates.
pub async fn run(worker: Worker, shutdown: CancellationToken) -> Result<(), ClientError> {
    let Worker {
        config,
        bots,
        queue,
        cache,
        store,
        keys,
        id,
    } = worker;
    let tracker = TaskTracker::new();
    let hard_stop = CancellationToken::new();
    let meter = Arc::new(Meter::default());
    let engine = Arc::new(Engine {
        commits: Commits::start(store.clone(), &tracker, &hard_stop),
        looks: Arc::new(Semaphore::new(engine::LOOKS)),
        quota: Quota::new(cache.clone(), config.quota.max_workers, quota::HORIZON),
        gate: Gate::new(store.clone(), meter.clone()),
        adaptive_limits: AdaptiveLimits::new(),
        people: People::new(cache.clone(), tracker.clone()),
        handlers: Handlers::default(),
        feishu: Arc::new(Client::metered(cache.clone(), meter)?),
        pulse: Pulse::start(&tracker, &hard_stop),
        unrecorded: Unrecorded::default(),
        config,
        bots,
        cache: cache.clone(),
        queue: queue.clone(),
        store,
        keys,
        tracker: tracker.clone(),
        drain: shutdown.clone(),
    });
    let roster = Roster::default();
    let background = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        tracker.spawn(hard_stop.clone().run_until_cancelled_owned(task))
    };
    background(Box::pin(waiting_room::poll(engine.clone(), roster.clone())));
    background(Box::pin(waiting_room::count(engine.clone(), roster.clone())));
    background(Box::pin(waiting_room::sweep(engine.clone(), roster.clone())));
    background(Box::pin(waiting_room::purge(engine.clone())));
    background(Box::pin(gate::watch(engine.clone())));
    background(Box::pin(archive::archive_dead(engine.clone())));
    background(Box::pin(archive::route_unrouted(engine.clone())));
    let mut placement = tracker.spawn(Placement::new(engine.clone(), cache, roster, id).run());
    shutdown.cancelled().await;
    let kept = tokio::select! {
        kept = tokio::time::timeout(DRAIN, &mut placement) => kept.ok(),
        () = engine.commits.stuck(DATABASE_PATIENCE) => None,
    };
    if kept.is_none() {
        tracing::warn!(
            database_answers = engine.commits.is_reachable(),
            "drain cut off: what was on its way is redelivered"
        );
    }
    // Before anything detaches: a polite goodbye would put held messages behind later ones.
    queue.close().await;
    placement.abort();
    drop(kept);
    hard_stop.cancel();
    engine.gate.last_flush().await;
    tracker.close();
    tracker.wait().await;
    Ok(())
}
