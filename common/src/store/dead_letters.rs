//! Dead letters: what is buried, how it is found again, and how it is replayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::bot::BotId;
use crate::envelope::{Envelope, EventKey};

/// A death outside the worker's pipeline.
#[derive(Clone, Debug)]
pub struct Burial {
    /// The event, or a made-up one for what cannot be read.
    pub envelope: Arc<Envelope>,
    /// `delivery_limit`, `no_such_bot`, `unreadable`.
    pub class: &'static str,
    /// One sentence.
    pub error: String,
}

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadFilter {
    /// One bot.
    pub bot: Option<BotId>,
    /// One class.
    pub class: Option<String>,
    /// One Feishu code.
    pub code: Option<i64>,
    /// Died at or after, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// One dead letter.
    pub id: Option<i64>,
    /// Also those already replayed or dropped.
    pub closed: bool,
    /// Only ids above this one: for paging oldest first.
    pub after: Option<i64>,
    /// Only ids below this one: for paging newest first, and to leave out what dies meanwhile.
    pub before: Option<i64>,
    /// Oldest first.
    pub oldest_first: bool,
}

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Grows with time.
    pub id: i64,
    /// The event.
    pub key: EventKey,
    /// Its bot.
    pub bot: BotId,
    /// Its chat.
    pub chat: String,
    /// Why it died.
    pub class: String,
    /// Feishu's code.
    pub code: Option<i64>,
    /// One sentence.
    pub error: String,
    /// Tries it had.
    pub attempts: u32,
    /// How often it was replayed before it died.
    pub replay_generation: u32,
    /// When the event was accepted, Unix milliseconds.
    pub created_ms: i64,
    /// When it died, Unix milliseconds.
    pub died_ms: i64,
    /// When it was replayed, Unix milliseconds.
    pub replayed_ms: Option<i64>,
    /// When it was closed (replayed or dropped), Unix milliseconds.
    pub resolved_ms: Option<i64>,
}

/// A replay order.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Which dead letters, by id.
    pub ids: Vec<i64>,
    /// The first one's due time, from now.
    pub first_in: Duration,
    /// Between two.
    pub spacing: Duration,
    /// What becomes of actions whose outcome is unknown; `None` skips such events.
    pub unknown: Option<UnknownChoice>,
    /// Also what was replayed three times already.
    pub force: bool,
    /// For the audit.
    pub who: String,
}

/// What an operator decides about an unknown outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownChoice {
    /// Send it again, with a new uuid.
    Resend,
    /// Take it as sent.
    Drop,
}

/// What a replay did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Now waiting, by class.
    pub done: HashMap<String, u64>,
    /// Left alone: no longer dead, unknown outcome, or replayed too often.
    pub skipped: u64,
}
