//! What the Store knows about tenants: who is stopped, and how many calls each has made this month.
//!
//! A tenant is whoever Feishu's monthly quota is for, by the name that [`crate::bot::Bot::tenant`] gives it.

/// Why a tenant is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Whose calls are used up.
    pub tenant: String,
    /// The bot that was told so.
    pub bot: String,
    /// Feishu's code.
    pub code: i64,
    /// One sentence for the operator.
    pub error: String,
}

/// A tenant that is stopped until an operator acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Why.
    pub stop: Stop,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
}

/// Calls that a process has counted and not stored yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Unique a process and start.
    pub writer: String,
    /// Grows by one from tally to tally: one that is repeated because its answer was lost is stored once.
    pub number: i64,
    /// What is added.
    pub calls: Vec<Calls>,
}

/// Calls of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// Whose.
    pub tenant: String,
    /// `create`, `reply`, …
    pub kind: String,
    /// How many.
    pub count: u64,
}

/// What has been spent this month.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The database's time, Unix milliseconds: it says which month this is.
    pub now_ms: i64,
    /// By tenant and kind.
    pub calls: Vec<Calls>,
}

impl Spent {
    /// All calls of one tenant.
    #[must_use]
    pub fn by(&self, tenant: &str) -> u64 {
        let own = self.calls.iter().filter(|calls| calls.tenant == tenant);
        own.map(|calls| calls.count).sum()
    }
}
