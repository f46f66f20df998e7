//! An envelope as an AMQP message: everything about routing in one header of our own, the body byte for byte.
//!
//! One header and not one for each field: client and broker unpack the table at every hop, and an entry costs them as much
//! as the whole text.
//!
//! Every publish gets a fresh property set made here. A received header table is never copied: a copied `x-death` makes
//! RabbitMQ 3.x drop the message as a cycle (`reliability.md` §0.5).

use std::borrow::Cow;
use std::sync::Arc;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde::{Deserialize, Serialize};

use crate::bot::BotId;
use crate::envelope::{Envelope, EventKey};
use crate::queue::Unreadable;

/// The version of the header below. A reader that meets another one leaves the message to the dead letters.
const VERSION: i64 = 1;

/// Survives a restart of the broker (AMQP 0-9-1 `delivery-mode`).
const PERSISTENT: u8 = 2;

/// Longest `message-id` we send: the AMQP limit is 255 bytes, management pages show less.
const MESSAGE_ID_BYTES: usize = 200;

/// Longest AMQP short string.
const SHORT_STRING_BYTES: usize = 255;

/// [`Routing`] as JSON.
const ROUTING: &str = "openclaw";
/// Set by quorum queues from the second delivery on.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// What an envelope says beside its body.
#[derive(Deserialize, Serialize)]
struct Routing<'a> {
    v: i64,
    #[serde(borrow)]
    bot: Cow<'a, str>,
    #[serde(borrow)]
    app: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    /// Also in the `type` property, which is cut to 255 bytes and only for people to read.
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    chat: Cow<'a, str>,
    #[serde(borrow)]
    tenant: Cow<'a, str>,
    created: i64,
    received: i64,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Version {
    v: i64,
}

/// The property set of one publish.
pub(super) fn properties(envelope: &Envelope) -> BasicProperties {
    let routing = Routing {
        v: VERSION,
        bot: envelope.bot.as_str().into(),
        app: (&*envelope.key.app_id).into(),
        key: (&*envelope.key.key).into(),
        event_type: (&*envelope.event_type).into(),
        chat: (&*envelope.chat).into(),
        tenant: (&*envelope.tenant).into(),
        created: envelope.created_ms,
        received: envelope.received_ms,
        traceparent: envelope.traceparent.as_deref().map(Into::into),
    };
    #[expect(clippy::expect_used, reason = "strings and numbers always serialise")]
    let routing = serde_json::to_vec(&routing).expect("routing serialises");
    let mut headers = FieldTable::default();
    headers.insert(ROUTING.into(), AMQPValue::LongString(LongString::from(routing)));

    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type("application/json".into())
        .with_message_id(cut(&envelope.key.to_string(), MESSAGE_ID_BYTES))
        .with_type(cut(&envelope.event_type, SHORT_STRING_BYTES))
        .with_timestamp(u64::try_from(envelope.received_ms / 1000).unwrap_or(0))
        .with_app_id("openclaw".into())
        .with_headers(headers)
}

/// The envelope of a received message.
pub(super) fn envelope(delivery: &mut Delivery) -> Result<Arc<Envelope>, Unreadable> {
    let body = bytes::Bytes::from(std::mem::take(&mut delivery.data));
    read(&delivery.properties, body.clone())
        .map(Arc::new)
        .map_err(|reason| Unreadable {
            reason,
            body,
            message_id: delivery.properties.message_id().as_ref().map(ToString::to_string),
        })
}

/// How often the broker handed the message out before, as far as it says.
pub(super) fn redelivered(delivery: &Delivery) -> u32 {
    let counted = delivery
        .properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(DELIVERY_COUNT))
        .and_then(integer)
        .and_then(|count| u32::try_from(count).ok());
    counted.unwrap_or(u32::from(delivery.redelivered))
}

fn read(properties: &BasicProperties, body: bytes::Bytes) -> Result<Envelope, String> {
    let headers = properties.headers().as_ref().ok_or("it has no headers")?;
    let routing = match headers.inner().get(ROUTING) {
        Some(AMQPValue::LongString(text)) => text.as_bytes(),
        Some(_) => return Err(format!("the header `{ROUTING}` is no string")),
        None => return Err(format!("the header `{ROUTING}` is missing")),
    };
    let unreadable = |error| format!("the header `{ROUTING}` is not readable: {error}");
    // The version first: a newer one may have other fields.
    let Version { v } = serde_json::from_slice(routing).map_err(unreadable)?;
    if v != VERSION {
        return Err(format!("it has version {v}, this program reads version {VERSION}"));
    }
    let routing: Routing<'_> = serde_json::from_slice(routing).map_err(unreadable)?;
    Ok(Envelope {
        key: EventKey::new(&*routing.app, &*routing.key),
        bot: BotId::new(&routing.bot).map_err(|invalid| invalid.to_string())?,
        event_type: (&*routing.event_type).into(),
        chat: (&*routing.chat).into(),
        tenant: (&*routing.tenant).into(),
        created_ms: routing.created,
        received_ms: routing.received,
        traceparent: routing.traceparent.as_deref().map(Into::into),
        body,
    })
}

/// RabbitMQ may hand an integer back in another width than it was sent.
fn integer(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::LongLongInt(number) => Some(*number),
        _ => None,
    }
}

/// lapin panics on a short string over 255 bytes, so everything of foreign length goes through here.
fn cut(text: &str, most: usize) -> ShortString {
    text[..text.floor_char_boundary(most)].into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn example() -> Envelope {
        Envelope {
            key: EventKey::new("cli_1", "om_é"),
            bot: BotId::new("bot1").unwrap(),
            event_type: "im.message.receive_v1".into(),
            chat: "oc_1".into(),
            tenant: "".into(),
            created_ms: 1_700_000_000_123,
            received_ms: 1_700_000_000_456,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            body: bytes::Bytes::from_static(b"{\"a\":\x00 not even JSON"),
        }
    }

    fn delivered(properties: BasicProperties, body: &[u8]) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body.to_vec());
        delivery.properties = properties;
        delivery
    }

    #[test]
    fn an_envelope_comes_back_byte_for_byte() {
        let plain = Envelope {
            traceparent: None,
            ..example()
        };
        for sent in [example(), plain] {
            let mut delivery = delivered(properties(&sent), &sent.body);
            assert_eq!(*envelope(&mut delivery).unwrap(), sent);
        }
    }

    #[test]
    fn text_of_any_length_survives_although_amqp_short_strings_do_not_hold_it() {
        let long: Arc<str> = "é".repeat(400).into();
        let sent = Envelope {
            key: EventKey::new(Arc::clone(&long), Arc::clone(&long)),
            event_type: Arc::clone(&long),
            chat: Arc::clone(&long),
            tenant: long,
            ..example()
        };
        let mut delivery = delivered(properties(&sent), &sent.body);
        assert_eq!(*envelope(&mut delivery).unwrap(), sent);
    }

    /// The header of `sent`, changed.
    fn with_routing(
        sent: &Envelope,
        change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
    ) -> BasicProperties {
        let properties = properties(sent);
        let headers = properties.headers().clone().unwrap();
        let AMQPValue::LongString(text) = &headers.inner()[ROUTING] else {
            panic!("no text")
        };
        let mut routing = serde_json::from_slice(text.as_bytes()).unwrap();
        change(&mut routing);
        let mut headers = FieldTable::default();
        let text = serde_json::to_vec(&routing).unwrap();
        headers.insert(ROUTING.into(), AMQPValue::LongString(LongString::from(text)));
        properties.with_headers(headers)
    }

    #[test]
    fn a_newer_version_is_unreadable_and_keeps_its_body_and_id() {
        let sent = example();
        let newer = with_routing(&sent, |routing| {
            routing.insert("v".to_owned(), 2.into());
            routing.remove("chat");
        });
        let unreadable = envelope(&mut delivered(newer, &sent.body)).unwrap_err();
        assert!(unreadable.reason.contains("version 2"), "{}", unreadable.reason);
        assert_eq!(unreadable.body, sent.body);
        assert_eq!(unreadable.message_id.as_deref(), Some("cli_1:om_é"));
    }

    #[test]
    fn a_message_without_our_header_or_one_of_its_fields_is_unreadable() {
        let sent = example();
        for name in [
            "v", "bot", "app", "key", "type", "chat", "tenant", "created", "received",
        ] {
            let kept = with_routing(&sent, |routing| {
                routing.remove(name);
            });
            let unreadable = envelope(&mut delivered(kept, b"")).unwrap_err();
            assert!(unreadable.reason.contains(name), "{name}: {}", unreadable.reason);
        }
        let unreadable = envelope(&mut delivered(BasicProperties::default(), b"")).unwrap_err();
        assert!(unreadable.reason.contains("no headers"));
        let strange = BasicProperties::default().with_headers(FieldTable::default());
        let unreadable = envelope(&mut delivered(strange, b"")).unwrap_err();
        assert!(unreadable.reason.contains("`openclaw` is missing"));
    }

    #[test]
    fn the_delivery_count_is_the_brokers_or_else_its_redelivered_flag() {
        let mut delivery = delivered(BasicProperties::default(), b"");
        assert_eq!(redelivered(&delivery), 0);
        delivery.redelivered = true;
        assert_eq!(redelivered(&delivery), 1);
        let mut headers = FieldTable::default();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(7));
        delivery.properties = BasicProperties::default().with_headers(headers);
        assert_eq!(redelivered(&delivery), 7);
    }
}
