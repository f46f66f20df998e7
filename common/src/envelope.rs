//! One event on its way through the pipeline.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bot::BotId;

/// What the types of our own events begin with. Nothing that was pushed may have one.
pub const OWN_TYPES: &str = "openclaw.";
/// The event type of a call of the send API, for people and reports: what is done with it is decided by its [`Origin`].
pub const SEND: &str = "openclaw.send";

/// Who made an event. Only our own code sets it: what a pushed body says of itself decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The platform pushed it: a handler is asked.
    Push,
    /// Somebody called the send API: the body is a [`crate::send::SendOrder`], and no handler is asked.
    Send,
}

impl Origin {
    /// Of an event that an older program left without its origin; there the type told. What somebody pushed under the type
    /// of a send in those days goes no further: a push has fields that no [`crate::send::SendOrder`] has.
    #[must_use]
    pub fn of_older(event_type: &str) -> Self {
        if event_type == SEND { Self::Send } else { Self::Push }
    }

    /// As stored.
    #[must_use]
    pub fn as_number(self) -> i16 {
        match self {
            Self::Push => 0,
            Self::Send => 1,
        }
    }

    /// The inverse of [`Origin::as_number`]; `None` for what a newer program stored.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        match number {
            0 => Some(Self::Push),
            1 => Some(Self::Send),
            _ => None,
        }
    }
}

/// What makes two pushes the same event, across re-pushes, nodes and restarts.
///
/// `key` is the `message_id` of a message event (Feishu changes `event_id` between re-pushes of one message), else the
/// `event_id` (v1: `uuid`). It is scoped by app because two bots in one group receive the same `message_id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    /// The Feishu app (`cli_…`).
    pub app_id: Arc<str>,
    /// The event's identity within the app.
    pub key: Arc<str>,
}

impl EventKey {
    /// Builds a key.
    pub fn new(app_id: impl Into<Arc<str>>, key: impl Into<Arc<str>>) -> Self {
        Self {
            app_id: app_id.into(),
            key: key.into(),
        }
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.app_id, self.key)
    }
}

/// One event as it travels: routing data in the open, the body as Feishu sent it (decrypted).
///
/// Everything that wants something sent is an envelope: a Feishu event, a call of the send API, a scheduled message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Identity; the Store's primary key.
    pub key: EventKey,
    /// Who made it.
    pub origin: Origin,
    /// The bot that answers.
    pub bot: BotId,
    /// Feishu's event type, such as `im.message.receive_v1`.
    pub event_type: Arc<str>,
    /// The lane: `chat_id`, else `open_chat_id`, else `open_id`, else the key. One event of a lane runs at a time.
    pub chat: Arc<str>,
    /// Feishu tenant, empty when the event names none.
    pub tenant: Arc<str>,
    /// When Feishu says the event happened, Unix milliseconds; 0 when it does not say.
    pub created_ms: i64,
    /// When ingest accepted it, Unix milliseconds.
    pub received_ms: i64,
    /// W3C trace context to continue, if any.
    pub traceparent: Option<Arc<str>>,
    /// The decrypted JSON body, byte for byte; sealed (`crate::seal`) when a key ring is configured.
    pub body: Bytes,
}
