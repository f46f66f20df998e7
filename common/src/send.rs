//! A send that somebody asked for through the send API, as it travels in an envelope of origin
//! [`crate::envelope::Origin::Send`].
//!
//! One form for one request: whoever repeats a request gives the same bytes, and another request under the same
//! `Idempotency-Key` gives others. That is how a conflict is told from a repeat.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One message to send.
///
/// A body with any other field is none: it was made by somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// The body of a send is none: not ours, or damaged. The same at every try.
///
/// It says where and not what: the body is a stranger's, and the sentence goes into logs and tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a send order: a field is missing, unknown or of another type at line {line} column {column}")]
pub struct SendOrderError {
    line: usize,
    column: usize,
}

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
        serde_json::from_slice(body).map_err(|error| SendOrderError {
            line: error.line(),
            column: error.column(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kind of push that names the fields of an order beside its own.
    #[test]
    fn no_push_is_an_order() {
        let order = r#""to":"oc_1","msg_type":"text","content":"{\"text\":\"hi\"}""#;
        assert!(SendOrder::decode(format!("{{{order}}}").as_bytes()).is_ok());
        for own in [
            r#""schema":"2.0","header":{"event_type":"openclaw.send"},"event":{}"#,
            r#""uuid":"u_1","token":"t","event":{"type":"openclaw.send"}"#,
            r#""open_message_id":"om_1""#,
            r#""type":"url_verification""#,
        ] {
            let error = SendOrder::decode(format!("{{{order},{own}}}").as_bytes());
            assert!(error.is_err(), "{own}");
        }
    }

    #[test]
    fn an_error_tells_nothing_of_the_body() {
        let error = SendOrder::decode(b"{\"secret\nERROR forged\":1}").map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| !error.contains("secret") && !error.contains('\n')));
    }
}
