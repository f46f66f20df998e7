//! An envelope as a row's blob: a version byte, the length of a JSON header, the header, the body byte for byte.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::outside;
use openclaw_common::queue::Unreadable;

/// The format below. A reader that meets another one leaves the row to the dead letters.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Header {
    app: Arc<str>,
    key: Arc<str>,
    bot: String,
    /// Absent in what an older program stored.
    #[serde(default)]
    origin: Option<Origin>,
    #[serde(rename = "type")]
    event_type: Arc<str>,
    chat: Arc<str>,
    tenant: Arc<str>,
    created: i64,
    received: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Arc<str>>,
}

/// The blob of one envelope.
pub(super) fn encode(envelope: &Envelope) -> Result<Vec<u8>, String> {
    let header = Header {
        app: Arc::clone(&envelope.key.app_id),
        key: Arc::clone(&envelope.key.key),
        bot: envelope.bot.to_string(),
        origin: Some(envelope.origin),
        event_type: Arc::clone(&envelope.event_type),
        chat: Arc::clone(&envelope.chat),
        tenant: Arc::clone(&envelope.tenant),
        created: envelope.created_ms,
        received: envelope.received_ms,
        traceparent: envelope.traceparent.clone(),
    };
    let header = serde_json::to_vec(&header).map_err(|error| error.to_string())?;
    let length = u32::try_from(header.len()).map_err(|error| error.to_string())?;
    let mut blob = Vec::with_capacity(1 + size_of_val(&length) + header.len() + envelope.body.len());
    blob.push(VERSION);
    blob.extend_from_slice(&length.to_le_bytes());
    blob.extend_from_slice(&header);
    blob.extend_from_slice(&envelope.body);
    Ok(blob)
}

/// The envelope of one blob.
pub(super) fn decode(blob: Vec<u8>) -> Result<Arc<Envelope>, Unreadable> {
    let blob = Bytes::from(blob);
    read(&blob).map(Arc::new).map_err(|reason| Unreadable {
        reason: outside::quoted(&reason),
        body: blob,
        message_id: None,
    })
}

fn read(blob: &Bytes) -> Result<Envelope, String> {
    let (version, rest) = blob.split_first().ok_or("it is empty")?;
    if *version != VERSION {
        return Err(format!(
            "it has version {version}, this program reads version {VERSION}"
        ));
    }
    let (length, rest) = rest.split_first_chunk().ok_or("it is cut short")?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|error| error.to_string())?;
    let (header, body) = rest.split_at_checked(length).ok_or("it is cut short")?;
    let header: Header = serde_json::from_slice(header).map_err(|error| outside::json_fault(&error))?;
    Ok(Envelope {
        key: EventKey::new(header.app, header.key),
        bot: BotId::new(&header.bot).map_err(|invalid| invalid.to_string())?,
        origin: header.origin.unwrap_or_else(|| Origin::of_older(&header.event_type)),
        event_type: header.event_type,
        chat: header.chat,
        tenant: header.tenant,
        created_ms: header.created,
        received_ms: header.received,
        traceparent: header.traceparent,
        body: blob.slice_ref(body),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use openclaw_common::envelope::SEND;

    fn example() -> Envelope {
        Envelope {
            key: EventKey::new("cli_1", "om_é"),
            bot: BotId::new("bot1").unwrap(),
            origin: Origin::Push,
            event_type: "im.message.receive_v1".into(),
            chat: "oc_1".into(),
            tenant: "".into(),
            created_ms: 1_700_000_000_123,
            received_ms: 1_700_000_000_456,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            body: Bytes::from_static(b"{\"a\":\x00 not even JSON"),
        }
    }

    #[test]
    fn an_envelope_comes_back_byte_for_byte() {
        let plain = Envelope {
            origin: Origin::Send,
            traceparent: None,
            body: Bytes::new(),
            ..example()
        };
        for sent in [example(), plain] {
            assert_eq!(*decode(encode(&sent).unwrap()).unwrap(), sent);
        }
    }

    #[test]
    fn the_origin_is_what_was_sent_and_not_what_the_type_says() {
        let forged = Envelope {
            event_type: SEND.into(),
            ..example()
        };
        assert_eq!(decode(encode(&forged).unwrap()).unwrap().origin, Origin::Push);
        // What an older program stored has none: its sends are still sent.
        let origin = br#""origin":"push","#;
        let mut older = encode(&forged).unwrap();
        let at = older.windows(origin.len()).position(|part| part == origin).unwrap();
        older.drain(at..at + origin.len());
        let length = u32::from_le_bytes(older[1..5].try_into().unwrap()) - u32::try_from(origin.len()).unwrap();
        older[1..5].copy_from_slice(&length.to_le_bytes());
        assert_eq!(decode(older).unwrap().origin, Origin::Send);
    }

    #[test]
    fn a_newer_version_is_unreadable_and_keeps_its_bytes() {
        let mut blob = encode(&example()).unwrap();
        blob[0] = 2;
        let unreadable = decode(blob.clone()).unwrap_err();
        assert!(unreadable.reason.contains("version 2"), "{}", unreadable.reason);
        assert_eq!(unreadable.body, blob);
    }

    #[test]
    fn a_cut_blob_is_unreadable_and_no_panic() {
        let blob = encode(&Envelope {
            body: Bytes::new(),
            ..example()
        })
        .unwrap();
        for length in 0..blob.len() {
            assert!(decode(blob[..length].to_vec()).is_err(), "{length} bytes were read");
        }
    }
}
