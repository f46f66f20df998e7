//! What every bot of this worker shares.

use std::sync::Arc;

use openclaw_common::bot::Bots;
use openclaw_common::cache::Cache;
use openclaw_common::config::Config;
use openclaw_common::queue::Queue;
use openclaw_common::quota::Quota;
use openclaw_common::seal::KeyRing;
use openclaw_common::store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adaptive_limit::AdaptiveLimits;
use crate::commit::Commits;
use crate::feishu::Client;
use crate::gate::Gate;
use crate::handler::Handlers;
use crate::people::People;
use crate::pulse::Pulse;
use crate::unrecorded::Unrecorded;

/// Looks into the waiting room at a time, of all bots.
pub(crate) const LOOKS: usize = 4;

/// The shared parts of a worker process.
pub(crate) struct Engine {
    pub(crate) config: Arc<Config>,
    pub(crate) bots: Bots,
    pub(crate) cache: Arc<dyn Cache>,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) commits: Commits,
    /// Whose turn it is to look into the waiting room. All bots may want to at once, each look is more work for the database than
    /// a commit, and commits that wait for a connection behind them bring nothing further.
    pub(crate) looks: Arc<Semaphore>,
    pub(crate) quota: Quota,
    pub(crate) gate: Gate,
    pub(crate) adaptive_limits: AdaptiveLimits,
    pub(crate) people: People,
    pub(crate) handlers: Handlers,
    pub(crate) feishu: Arc<Client>,
    pub(crate) keys: Arc<KeyRing>,
    pub(crate) pulse: Pulse,
    pub(crate) unrecorded: Unrecorded,
    /// Every task of the worker, so that none is orphaned.
    pub(crate) tracker: TaskTracker,
    /// Start nothing new.
    pub(crate) drain: CancellationToken,
}
