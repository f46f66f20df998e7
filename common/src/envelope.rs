//! One event on its way through the pipeline.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::bot::BotId;

/// The event type of a call of the send API: its body is a [`crate::send::SendOrder`], and no handler is asked. Feishu's own
/// types never begin so.
pub const SEND: &str = "openclaw.send";

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
