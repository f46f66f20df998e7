//! Events of one bot as an AMQP message: everything about routing in one header of our own, the bodies byte for byte, one
//! behind the other.
//!
//! One header and not one for each field: client and broker unpack the table at every hop, and an entry costs them as much
//! as the whole text.
//!
//! Every publish gets a fresh property set made here. A received header table is never copied: a copied `x-death` makes
//! RabbitMQ 3.x drop the message as a cycle (`docs/design/delivery.md` §1).

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde::{Deserialize, Serialize};

use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::outside;
use openclaw_common::queue::Unreadable;

/// The version of the header below. A reader that meets another one leaves the message to the dead letters. (Version 1 held
/// a single event.)
const VERSION: i64 = 2;

/// Survives a restart of the broker (AMQP 0-9-1 `delivery-mode`).
const PERSISTENT: u8 = 2;

/// Longest `message-id` we send: the AMQP limit is 255 bytes, management pages show less.
const MESSAGE_ID_BYTES: usize = 200;

/// Longest AMQP short string.
const SHORT_STRING_BYTES: usize = 255;

/// [`Header`] as JSON.
const HEADER: &str = "openclaw";
/// What [`Routing`] takes beside its texts, about.
const ROUTING_BYTES: usize = 192;
/// Set by quorum queues from the second delivery on.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The header of a message.
#[derive(Deserialize, Serialize)]
struct Header<'a> {
    v: i64,
    #[serde(borrow)]
    bot: Cow<'a, str>,
    #[serde(borrow)]
    events: Vec<Routing<'a>>,
}

/// What an envelope says beside its body.
#[derive(Deserialize, Serialize)]
struct Routing<'a> {
    #[serde(borrow)]
    app: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    /// Absent in what an older program published.
    #[serde(default)]
    origin: Option<Origin>,
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
    /// How many bytes of the message's body are this event's, behind those of the events before it.
    length: usize,
}

#[derive(Deserialize)]
struct Version {
    v: i64,
}

impl<'a> Routing<'a> {
    fn of(envelope: &'a Envelope) -> Self {
        Self {
            app: (&*envelope.key.app_id).into(),
            key: (&*envelope.key.key).into(),
            origin: Some(envelope.origin),
            event_type: (&*envelope.event_type).into(),
            chat: (&*envelope.chat).into(),
            tenant: (&*envelope.tenant).into(),
            created: envelope.created_ms,
            received: envelope.received_ms,
            traceparent: envelope.traceparent.as_deref().map(Into::into),
            length: envelope.body.len(),
        }
    }
}

/// Bytes that an event adds to a message, about.
pub(super) fn weight(envelope: &Envelope) -> usize {
    let texts = [
        &envelope.key.app_id,
        &envelope.key.key,
        &envelope.event_type,
        &envelope.chat,
        &envelope.tenant,
    ];
    ROUTING_BYTES + envelope.body.len() + texts.iter().map(|text| text.len()).sum::<usize>()
}

/// Properties and body of the message that carries `envelopes`, all of `bot`, in their order.
///
/// The properties but our header are for people to read, and name the first of the events.
pub(super) fn message<'a>(
    bot: &BotId,
    envelopes: impl Iterator<Item = &'a Envelope> + Clone,
) -> (BasicProperties, Cow<'a, [u8]>) {
    let header = Header {
        v: VERSION,
        bot: bot.as_str().into(),
        events: envelopes.clone().map(Routing::of).collect(),
    };
    let mut bodies = envelopes.clone().map(|envelope| &*envelope.body);
    let body = match (bodies.next(), header.events.len()) {
        (Some(body), 1) => Cow::Borrowed(body),
        (first, _) => Cow::Owned(first.into_iter().chain(bodies).collect::<Vec<_>>().concat()),
    };
    #[expect(clippy::expect_used, reason = "strings and numbers always serialise")]
    let header = serde_json::to_vec(&header).expect("a header serialises");
    let mut headers = FieldTable::default();
    headers.insert(HEADER.into(), AMQPValue::LongString(LongString::from(header)));

    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_app_id("openclaw".into())
        .with_headers(headers);
    let properties = match envelopes.clone().next() {
        Some(first) => properties
            .with_message_id(cut(&first.key.to_string(), MESSAGE_ID_BYTES))
            .with_type(cut(&first.event_type, SHORT_STRING_BYTES))
            .with_timestamp(u64::try_from(first.received_ms / 1000).unwrap_or(0)),
        None => properties,
    };
    (properties, body)
}

/// The envelopes of a received message.
pub(super) fn envelopes(delivery: &mut Delivery) -> Result<Vec<Arc<Envelope>>, Unreadable> {
    let body = Bytes::from(std::mem::take(&mut delivery.data));
    let message_id = delivery.properties.message_id().as_ref();
    read(&delivery.properties, &body).map_err(|reason| Unreadable {
        reason: outside::quoted(&reason),
        body,
        message_id: message_id.map(|id| outside::quoted(id.as_str())),
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

fn read(properties: &BasicProperties, body: &Bytes) -> Result<Vec<Arc<Envelope>>, String> {
    let headers = properties.headers().as_ref().ok_or("it has no headers")?;
    let header = match headers.inner().get(HEADER) {
        Some(AMQPValue::LongString(text)) => text.as_bytes(),
        Some(_) => return Err(format!("the header `{HEADER}` is no string")),
        None => return Err(format!("the header `{HEADER}` is missing")),
    };
    let unreadable = |error| format!("the header `{HEADER}` is not readable: {}", outside::json_fault(&error));
    // The version first: a newer one may have other fields.
    let Version { v } = serde_json::from_slice(header).map_err(unreadable)?;
    if v != VERSION {
        return Err(format!("it has version {v}, this program reads version {VERSION}"));
    }
    let header: Header<'_> = serde_json::from_slice(header).map_err(unreadable)?;
    let bot = BotId::new(&header.bot).map_err(|invalid| invalid.to_string())?;
    let alone = header.events.len() == 1;
    let mut rest = body.clone();
    let wrong_length = || format!("its body of {} bytes is not what its events add up to", body.len());
    let mut envelopes = Vec::with_capacity(header.events.len());
    for routing in header.events {
        if routing.length > rest.len() {
            return Err(wrong_length());
        }
        let own = rest.split_to(routing.length);
        envelopes.push(Arc::new(Envelope {
            key: EventKey::new(&*routing.app, &*routing.key),
            bot: bot.clone(),
            origin: routing.origin.unwrap_or_else(|| Origin::of_older(&routing.event_type)),
            event_type: (&*routing.event_type).into(),
            chat: (&*routing.chat).into(),
            tenant: (&*routing.tenant).into(),
            created_ms: routing.created,
            received_ms: routing.received,
            traceparent: routing.traceparent.as_deref().map(Into::into),
            // A copy, or one event that waits would keep all of them in memory.
            body: if alone { own } else { Bytes::copy_from_slice(&own) },
        }));
    }
    if envelopes.is_empty() || !rest.is_empty() {
        return Err(wrong_length());
    }
    Ok(envelopes)
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
            body: bytes::Bytes::from_static(b"{\"a\":\x00 not even JSON"),
        }
    }

    fn delivered((properties, body): (BasicProperties, Cow<'_, [u8]>)) -> Delivery {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body.into_owned());
        delivery.properties = properties;
        delivery
    }

    fn carrying(envelopes: &[Envelope]) -> Delivery {
        delivered(message(&envelopes[0].bot, envelopes.iter()))
    }

    #[track_caller]
    fn assert_comes_back(sent: &[Envelope]) {
        let received = envelopes(&mut carrying(sent)).unwrap();
        assert!(received.iter().map(|envelope| &**envelope).eq(sent));
    }

    #[test]
    fn envelopes_come_back_byte_for_byte_alone_and_together() {
        let plain = Envelope {
            key: EventKey::new("cli_1", "om_2"),
            traceparent: None,
            body: Bytes::from_static(b"{}"),
            ..example()
        };
        let empty = Envelope {
            key: EventKey::new("cli_1", "om_3"),
            origin: Origin::Send,
            body: Bytes::new(),
            ..example()
        };
        assert_comes_back(&[example()]);
        assert_comes_back(std::slice::from_ref(&empty));
        assert_comes_back(&[plain.clone(), empty.clone(), example(), plain, empty]);
    }

    #[test]
    fn text_of_any_length_survives_although_amqp_short_strings_do_not_hold_it() {
        let long: Arc<str> = "é".repeat(400).into();
        assert_comes_back(&[Envelope {
            key: EventKey::new(Arc::clone(&long), Arc::clone(&long)),
            event_type: Arc::clone(&long),
            chat: Arc::clone(&long),
            tenant: long,
            ..example()
        }]);
    }

    /// A message of one event, its header changed.
    fn with_header(change: impl FnOnce(&mut serde_json::Value)) -> Delivery {
        let mut delivery = carrying(&[example()]);
        let headers = delivery.properties.headers().clone().unwrap();
        let AMQPValue::LongString(text) = &headers.inner()[HEADER] else {
            panic!("no text")
        };
        let mut header = serde_json::from_slice(text.as_bytes()).unwrap();
        change(&mut header);
        let mut headers = FieldTable::default();
        let text = serde_json::to_vec(&header).unwrap();
        headers.insert(HEADER.into(), AMQPValue::LongString(LongString::from(text)));
        delivery.properties = delivery.properties.with_headers(headers);
        delivery
    }

    #[test]
    fn a_newer_version_is_unreadable_and_keeps_its_body_and_id() {
        let mut newer = with_header(|header| *header = serde_json::json!({ "v": 3 }));
        let unreadable = envelopes(&mut newer).unwrap_err();
        assert!(unreadable.reason.contains("version 3"), "{}", unreadable.reason);
        assert_eq!(unreadable.body, example().body);
        assert_eq!(unreadable.message_id.as_deref(), Some("cli_1:om_é"));
    }

    #[track_caller]
    fn assert_unreadable(mut delivery: Delivery, reason: &str) {
        let unreadable = envelopes(&mut delivery).unwrap_err();
        assert!(unreadable.reason.contains(reason), "{reason}: {}", unreadable.reason);
    }

    #[test]
    fn a_message_without_our_header_or_one_of_its_fields_is_unreadable() {
        let remove = |value: &mut serde_json::Value, name| {
            value.as_object_mut().unwrap().remove(name);
        };
        for name in ["v", "bot", "events"] {
            assert_unreadable(with_header(|header| remove(header, name)), name);
        }
        for name in ["app", "key", "type", "chat", "tenant", "created", "received", "length"] {
            assert_unreadable(with_header(|header| remove(&mut header["events"][0], name)), name);
        }
        assert_unreadable(delivered((BasicProperties::default(), b"".into())), "no headers");
        let strange = BasicProperties::default().with_headers(FieldTable::default());
        assert_unreadable(delivered((strange, b"".into())), "`openclaw` is missing");
    }

    #[test]
    fn the_origin_is_what_was_sent_and_not_what_the_type_says() {
        assert_comes_back(&[Envelope {
            event_type: SEND.into(),
            ..example()
        }]);
        // What an older program published has none: its sends are still sent.
        for (event_type, origin) in [(SEND, Origin::Send), ("im.message.receive_v1", Origin::Push)] {
            let mut older = with_header(|header| {
                let event = header["events"][0].as_object_mut().unwrap();
                event.remove("origin");
                event["type"] = event_type.into();
            });
            assert_eq!(envelopes(&mut older).unwrap()[0].origin, origin);
        }
        assert_unreadable(
            with_header(|header| header["events"][0]["origin"] = "moon".into()),
            "not readable",
        );
    }

    #[test]
    fn a_body_of_another_length_than_the_events_have_is_unreadable() {
        let length = example().body.len();
        for other in [0, length - 1, length + 1, usize::MAX] {
            let delivery = with_header(|header| header["events"][0]["length"] = other.into());
            assert_unreadable(delivery, "bytes");
        }
        assert_unreadable(with_header(|header| header["events"] = serde_json::json!([])), "bytes");
    }

    #[test]
    fn the_delivery_count_is_the_brokers_or_else_its_redelivered_flag() {
        let mut delivery = delivered((BasicProperties::default(), b"".into()));
        assert_eq!(redelivered(&delivery), 0);
        delivery.redelivered = true;
        assert_eq!(redelivered(&delivery), 1);
        let mut headers = FieldTable::default();
        headers.insert(DELIVERY_COUNT.into(), AMQPValue::LongLongInt(7));
        delivery.properties = BasicProperties::default().with_headers(headers);
        assert_eq!(redelivered(&delivery), 7);
    }
}
