//! An envelope as an AMQP message: everything about routing in headers of our own, the body byte for byte.
//!
//! Every publish gets a fresh property set made here. A received header table is never copied: a copied `x-death` makes
//! RabbitMQ 3.x drop the message as a cycle (`reliability.md` §0.5).

use std::sync::Arc;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

use crate::bot::BotId;
use crate::envelope::{Envelope, EventKey};
use crate::queue::Unreadable;

/// The version of the headers below. A reader that meets another one leaves the message to the dead letters.
const VERSION: i64 = 1;

/// Survives a restart of the broker (AMQP 0-9-1 `delivery-mode`).
const PERSISTENT: u8 = 2;

/// Longest `message-id` we send: the AMQP limit is 255 bytes, management pages show less.
const MESSAGE_ID_BYTES: usize = 200;

/// Longest AMQP short string.
const SHORT_STRING_BYTES: usize = 255;

mod header {
    pub(super) const VERSION: &str = "oc-v";
    pub(super) const BOT: &str = "oc-bot";
    pub(super) const TENANT: &str = "oc-tenant";
    pub(super) const CHAT: &str = "oc-chat";
    pub(super) const APP: &str = "oc-app";
    pub(super) const KEY: &str = "oc-key";
    // Also in the `type` property, which is cut to 255 bytes and only for people to read.
    pub(super) const TYPE: &str = "oc-type";
    pub(super) const CREATED: &str = "oc-created";
    pub(super) const RECEIVED: &str = "oc-received";
    pub(super) const TRACEPARENT: &str = "traceparent";
    /// Set by quorum queues from the second delivery on.
    pub(super) const DELIVERY_COUNT: &str = "x-delivery-count";
}

/// The property set of one publish.
pub(super) fn properties(envelope: &Envelope) -> BasicProperties {
    let mut headers = FieldTable::default();
    let mut text = |name: &'static str, value: &str| {
        headers.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
    };
    text(header::BOT, envelope.bot.as_str());
    text(header::TENANT, &envelope.tenant);
    text(header::CHAT, &envelope.chat);
    text(header::APP, &envelope.key.app_id);
    text(header::KEY, &envelope.key.key);
    text(header::TYPE, &envelope.event_type);
    if let Some(traceparent) = &envelope.traceparent {
        text(header::TRACEPARENT, traceparent);
    }
    headers.insert(header::VERSION.into(), AMQPValue::LongLongInt(VERSION));
    headers.insert(header::CREATED.into(), AMQPValue::LongLongInt(envelope.created_ms));
    headers.insert(header::RECEIVED.into(), AMQPValue::LongLongInt(envelope.received_ms));

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
        .and_then(|headers| headers.inner().get(header::DELIVERY_COUNT))
        .and_then(integer)
        .and_then(|count| u32::try_from(count).ok());
    counted.unwrap_or(u32::from(delivery.redelivered))
}

fn read(properties: &BasicProperties, body: bytes::Bytes) -> Result<Envelope, String> {
    let headers = properties.headers().as_ref().ok_or("it has no headers")?;
    let value = |name: &str| {
        headers
            .inner()
            .get(name)
            .ok_or_else(|| format!("the header `{name}` is missing"))
    };
    let number = |name: &str| integer(value(name)?).ok_or_else(|| format!("the header `{name}` is no integer"));
    let text = |name: &str| -> Result<&str, String> {
        let AMQPValue::LongString(bytes) = value(name)? else {
            return Err(format!("the header `{name}` is no string"));
        };
        std::str::from_utf8(bytes.as_bytes()).map_err(|_| format!("the header `{name}` is not UTF-8"))
    };

    let version = number(header::VERSION)?;
    if version != VERSION {
        return Err(format!(
            "it has version {version}, this program reads version {VERSION}"
        ));
    }
    let traceparent = match value(header::TRACEPARENT) {
        Ok(_) => Some(text(header::TRACEPARENT)?.into()),
        Err(_) => None,
    };
    Ok(Envelope {
        key: EventKey::new(text(header::APP)?, text(header::KEY)?),
        bot: BotId::new(text(header::BOT)?).map_err(|invalid| invalid.to_string())?,
        event_type: text(header::TYPE)?.into(),
        chat: text(header::CHAT)?.into(),
        tenant: text(header::TENANT)?.into(),
        created_ms: number(header::CREATED)?,
        received_ms: number(header::RECEIVED)?,
        traceparent,
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

    #[test]
    fn a_newer_version_is_unreadable_and_keeps_its_body_and_id() {
        let sent = example();
        let mut newer = properties(&sent);
        let mut headers = newer.headers().clone().unwrap();
        headers.insert(header::VERSION.into(), AMQPValue::LongLongInt(2));
        newer = newer.with_headers(headers);
        let unreadable = envelope(&mut delivered(newer, &sent.body)).unwrap_err();
        assert!(unreadable.reason.contains("version 2"), "{}", unreadable.reason);
        assert_eq!(unreadable.body, sent.body);
        assert_eq!(unreadable.message_id.as_deref(), Some("cli_1:om_é"));
    }

    #[test]
    fn a_message_without_one_of_our_headers_is_unreadable() {
        let sent = example();
        for name in [
            "oc-v",
            "oc-bot",
            "oc-app",
            "oc-key",
            "oc-type",
            "oc-chat",
            "oc-tenant",
            "oc-created",
            "oc-received",
        ] {
            let kept: FieldTable = properties(&sent)
                .headers()
                .as_ref()
                .unwrap()
                .inner()
                .iter()
                .filter(|(key, _)| key.as_str() != name)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect::<std::collections::BTreeMap<_, _>>()
                .into();
            let mut delivery = delivered(BasicProperties::default().with_headers(kept), b"");
            let unreadable = envelope(&mut delivery).unwrap_err();
            assert!(unreadable.reason.contains(name), "{name}: {}", unreadable.reason);
        }
        let unreadable = envelope(&mut delivered(BasicProperties::default(), b"")).unwrap_err();
        assert!(unreadable.reason.contains("no headers"));
    }

    #[test]
    fn the_delivery_count_is_the_brokers_or_else_its_redelivered_flag() {
        let mut delivery = delivered(BasicProperties::default(), b"");
        assert_eq!(redelivered(&delivery), 0);
        delivery.redelivered = true;
        assert_eq!(redelivered(&delivery), 1);
        let mut headers = FieldTable::default();
        headers.insert(header::DELIVERY_COUNT.into(), AMQPValue::LongLongInt(7));
        delivery.properties = BasicProperties::default().with_headers(headers);
        assert_eq!(redelivered(&delivery), 7);
    }
}
