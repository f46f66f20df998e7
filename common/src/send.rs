//! A send that somebody asked for through the send API, as it travels in an envelope of type [`crate::envelope::SEND`].
//!
//! One form for one request: whoever repeats a request gives the same bytes, and another request under the same
//! `Idempotency-Key` gives others. That is how a conflict is told from a repeat.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One message to send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendOrder {
    /// `oc_…`, `ou_…`, …: whom it goes to.
    pub to: String,
    /// `text`, `post`, `interactive`, …
    pub msg_type: String,
    /// What Feishu wants as `content`: JSON text.
    pub content: String,
    /// Not before, Unix milliseconds; `None`: now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at_ms: Option<i64>,
}

/// What a body of type [`crate::envelope::SEND`] is read from is not one. Ours, and the same at every try.
#[derive(Debug, thiserror::Error)]
#[error("not a send order: {0}")]
pub struct SendOrderError(#[from] serde_json::Error);

impl SendOrder {
    /// As an envelope's body.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Strings and a number: encoding them cannot fail.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The inverse of [`SendOrder::encode`].
    ///
    /// # Errors
    /// When these bytes are something else.
    pub fn decode(body: &[u8]) -> Result<Self, SendOrderError> {
        Ok(serde_json::from_slice(body)?)
    }
}
