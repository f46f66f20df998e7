//! The send limits: never more than N in any rolling window, and nearly N of them used.
//!
//! | part | job |
//! |---|---|
//! | [`SlidingWindowLog`] | the algorithm itself, a pure function of the time it is given; `take.lua` is the same in Redis |
//! | [`Quota`] | what a sender calls: asks the cache, waits in turn, checks that it woke in time |
//! | [`Reservation`] | the earliest slot of several ways to send: a pool's members |
//! | [`Urgency`] | whose turn it is among those who wait: answers, then notifications, then replays |
//! | `lines` | who may ask next, so that two hundred lanes of a full bot are one question and not two hundred |
//! | `fallback` | the conservative local bucket while the cache is down |
//!
//! **Why it is exact.** A slot is an instant. Of any N+1 slots of a level the last is at least `window + GUARD` after the
//! first. A send starts at most [`LATE_GUARD`] after its slot and travels with at most [`JITTER`] more delay than another, so
//! any N+1 arrivals span at least the window. A sender that wakes later than that takes a new slot instead of sending.

mod fallback;
mod limiter;
mod lines;
mod sliding_window_log;
mod urgency;

use std::time::Duration;

pub use limiter::{Permit, Quota, Refused, Reservation};
pub use sliding_window_log::{Offer, SlidingWindowLog};
pub use urgency::{ToldToWait, Urgency};

/// How late a send may start after its slot. Must exceed the cache's round trip plus scheduler noise: the Redis backend
/// widens it, for every process, when it does not.
pub const LATE_GUARD: Duration = Duration::from_millis(15);

/// The widest it becomes: a call of the cache has 100 ms, so nothing much slower is ever seen.
pub const WIDEST_GUARD: Duration = Duration::from_millis(240);

/// How much longer one send may travel than another of the same window (`docs/design/delivery.md` §5).
pub const JITTER: Duration = Duration::from_millis(10);

/// What is added to a level's window: a slot comes back at `window + GUARD`. 1.025 s leaves 97.6 % of 5/s.
pub const GUARD: Duration = LATE_GUARD.saturating_add(JITTER);

/// How far ahead a slot may be reserved: long enough to fill gaps without a pause, short enough that a busy chat's
/// reservations do not push its bot's other chats.
pub const HORIZON: Duration = Duration::from_millis(300);

/// Whoever has no memory grants nothing for this long **plus the horizon**: the forgotten slots may lie that far ahead, and
/// their sends may be late by the widest guard, of which nobody remembers whether it was in use.
pub const QUIET: Duration = Duration::from_millis(1300);

/// What was sent last and forgotten arrives a second before what is granted first.
const _: () = assert!(QUIET.as_millis() >= 1000 + WIDEST_GUARD.as_millis() + JITTER.as_millis());

/// Keys of levels that one process serves at a time begin with this: while the cache is down it may use most of them. Every
/// other level is shared, and divided.
pub const BOT: &str = "b:";

/// Up to this count a level's slots are searched for gaps. Above it a slot needs its N-th newest predecessor to be a window
/// old: as strict, one lookup whatever N is, and blind only to gaps before reservations, which are rare among so many.
pub const LARGEST_SEARCHED: u32 = 50;
