//! Seam 3: the cache. Anything in it may be lost; what says "done" in it was written after the broker's confirm.
//!
//! Two backends, one conformance suite (`backends/tests/contracts/cache.rs`): Redis and memory (`backends/src/caches/`).

use std::time::Duration;

use async_trait::async_trait;

use crate::envelope::EventKey;

/// Dedup filter, quota slots, small values with expiry, worker membership.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// Claims an event for `ttl`, or says who has it.
    ///
    /// # Errors
    /// When the cache cannot be reached in time: go on without a claim.
    async fn claim(&self, key: &EventKey, token: &str, ttl: Duration) -> Result<Claim, CacheError>;

    /// Marks each event done for its time, whoever claimed it.
    ///
    /// # Errors
    /// When the cache cannot be reached: costs one duplicate of each, which the Store drops.
    async fn finish(&self, events: &[(EventKey, Duration)]) -> Result<(), CacheError>;

    /// Gives a claim back, if `token` still holds it.
    ///
    /// # Errors
    /// When the cache cannot be reached: the claim ends by itself.
    async fn release(&self, key: &EventKey, token: &str) -> Result<(), CacheError>;

    /// Takes one send slot that fits **every** level at once, within `horizon`; takes nothing otherwise.
    /// An empty `levels` grants at once; a level of count 0 never grants. Name the widest level first.
    /// For sending use [`crate::quota::Quota`], which waits, queues and survives an outage.
    ///
    /// # Errors
    /// When the cache cannot be reached in time: the caller falls back to a conservative local bucket.
    async fn take(&self, levels: &[Level], horizon: Duration) -> Result<Take, CacheError>;

    /// Returns a slot under which nothing was or will be sent, before or after its time.
    ///
    /// # Errors
    /// When the cache cannot be reached: the slot is lost, which only costs utilisation.
    async fn give_back(&self, levels: &[Level], slot: &Slot) -> Result<(), CacheError>;

    /// Counts a slot as if its send arrived now, because it may have. Gives the slot's new name.
    ///
    /// # Errors
    /// When the cache cannot be reached: the slot counts from its own time.
    async fn hold(&self, levels: &[Level], slot: &Slot) -> Result<Slot, CacheError>;

    /// Grants nothing of the level `key` for `pause`, for every process. The longest pause wins.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    async fn pause(&self, key: &str, pause: Duration) -> Result<(), CacheError>;

    /// A stored value.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError>;

    /// Stores a value for `ttl`.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), CacheError>;

    /// Stores a value for `ttl` unless there is one; whether it did.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, CacheError>;

    /// Removes a value if it still is `value`.
    ///
    /// # Errors
    /// When the cache cannot be reached.
    async fn remove_if(&self, key: &str, value: &[u8]) -> Result<(), CacheError>;

    /// Announces a worker for `ttl`, with what it wants the others to know, and returns all live ones (itself included).
    ///
    /// # Errors
    /// When the cache cannot be reached: the members stay as last seen.
    async fn beat(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, CacheError>;

    /// Takes a worker's announcement back.
    ///
    /// # Errors
    /// When the cache cannot be reached: it ends by itself.
    async fn leave(&self, id: &str) -> Result<(), CacheError>;

    /// Whether it answers and takes what is written to it.
    ///
    /// # Errors
    /// When it does not.
    async fn ping(&self) -> Result<(), CacheError>;
}

/// The cache cannot be used now: the network's or the server's fault. Nothing depends on it; go on without.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cache: {0}")]
pub struct CacheError(pub String);

/// What a claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Ours.
    Claimed,
    /// Another claim is running.
    Busy,
    /// Already stored in the queue.
    Done,
}

/// One limit that a send counts against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Level {
    /// Its name, such as `b:bot1` or `c:oc_1`; the backend adds its prefix.
    pub key: String,
    /// Sends in any rolling window.
    pub count: u32,
    /// The window as the platform sees it; the backend adds the guard.
    pub window: Duration,
}

/// The answer to [`Cache::take`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    /// Send after `wait`, and at most `slack` after that. Later needs a new slot.
    Granted {
        /// From when the answer arrived.
        wait: Duration,
        /// What the answer's own way left of the guard.
        slack: Duration,
        /// To give it back.
        slot: Slot,
    },
    /// Nothing was taken; ask again after `wait`.
    Later {
        /// From when the answer arrived.
        wait: Duration,
        /// Index of the level that stands in the way: whoever shares it need not ask before `wait` either.
        level: usize,
    },
}

/// A slot that was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot(pub String);

/// A live worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Unique a process.
    pub id: String,
    /// What it announces; the worker crate writes and reads it.
    pub note: String,
}
