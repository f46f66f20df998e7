//! The model check: one event's life among workers that die, queues that deliver twice, a platform that keeps its answers
//! to itself, operators that replay, and a clock that jumps.
//!
//! It is the product that is explored, not a description of it: [`crate::process`] and [`crate::sending`] run as they are,
//! over the real client and a real database, and stop at **gates** (before every commit, at every request, at their end),
//! where a play decides who goes on and what goes wrong. What takes a delivery up ([`crate::attachment`]) is followed by
//! hand, in a dozen lines. `docs/reliability.md` says what is explored, within which bounds, and what was found.
//!
//! | module | job |
//! |---|---|
//! | [`choices`] | by chance, or every path of a tree |
//! | [`gate`] | where runs stop |
//! | [`platform`] | Feishu: a uuid shows one message an hour |
//! | [`tables`] | the databases, and time in them |
//! | [`stage`] | puts a run between gates |
//! | [`play`] | one play: what may happen next, and makes it happen |
//! | [`taking_up`] | the one step that no play takes: from the queue to the row |
//! | [`promises`] | what must hold after every step, and at the end |
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "how much was explored is part of the result")]

mod choices;
mod gate;
mod platform;
mod play;
mod promises;
mod stage;
mod tables;
mod taking_up;
mod tests;

/// The app of every bot.
const APP: &str = "cli_model";

/// A mistake made on purpose, to see the exploration find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// A delivery is acknowledged before its row is committed.
    AckFirst,
    /// Changes name whatever fence the row has.
    NoFence,
    /// The plan is committed with what follows the first send.
    PlanAfterSend,
    /// Each run makes up its own uuids.
    UuidPerRun,
    /// Nobody minds that the uuid's hour is over.
    NoHour,
}
