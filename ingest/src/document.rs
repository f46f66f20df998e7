//! The JSON of a push, borrowed from its bytes, in one pass.
//!
//! Only what identifies an event is read. What the platform adds or changes elsewhere cannot make a push malformed: fields
//! of another type count as absent. A repeated key of the envelope is an error, because two readers could take different
//! ones.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Why a body cannot be read, without a word of it: it is a stranger's, it may be long, and logs keep no bodies.
pub(crate) fn complaint(error: &serde_json::Error) -> String {
    let complaint = error.to_string();
    // These quote what they found.
    if error.is_data() && complaint.starts_with("invalid ") {
        let (line, column) = (error.line(), error.column());
        format!("a value of another type was expected at line {line} column {column}")
    } else {
        complaint
    }
}

/// `{"encrypt": "…"}`
#[derive(Deserialize)]
pub(crate) struct Wrapper<'json> {
    #[serde(borrow, default)]
    pub(crate) encrypt: Text<'json>,
}

/// The top level of every kind of push (`docs/design/feishu-protocol.md` §1, §2.3).
#[derive(Deserialize)]
pub(crate) struct Document<'json> {
    /// v2 when it is there.
    #[serde(borrow, default)]
    pub(crate) schema: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) header: Option<Header<'json>>,
    #[serde(borrow, default)]
    pub(crate) event: Event<'json>,
    /// v1 when it is there.
    #[serde(borrow, default)]
    pub(crate) uuid: Text<'json>,
    /// v1: seconds with a fraction.
    #[serde(borrow, default)]
    pub(crate) ts: Text<'json>,
    /// v1 and challenge: the verification token. Old card: the token that updates the card.
    #[serde(borrow, default)]
    pub(crate) token: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) r#type: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) challenge: Text<'json>,
    /// Old card, as the next three.
    #[serde(borrow, default)]
    pub(crate) open_message_id: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) open_chat_id: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) open_id: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) tenant_key: Text<'json>,
    /// The push is still encrypted.
    #[serde(borrow, default)]
    pub(crate) encrypt: Text<'json>,
}

/// v2's `header`.
#[derive(Default, Deserialize)]
pub(crate) struct Header<'json> {
    #[serde(borrow, default)]
    pub(crate) event_id: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) event_type: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) create_time: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) token: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) app_id: Text<'json>,
    #[serde(borrow, default)]
    pub(crate) tenant_key: Text<'json>,
}

/// A string, or a number as it is written out. Anything else is empty.
#[derive(Default)]
pub(crate) struct Text<'json>(Cow<'json, str>);

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The first text that is not empty.
    pub(crate) fn or<'text>(&'text self, other: &'text str) -> &'text str {
        if self.0.is_empty() { other } else { &self.0 }
    }
}

impl<'de: 'json, 'json> Deserialize<'de> for Text<'json> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(number.to_string())))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }
    fn visit_f64<E>(self, _: f64) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }
    fn visit_bool<E>(self, _: bool) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }
    fn visit_unit<E>(self) -> Result<Text<'de>, E> {
        Ok(Text::default())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Text<'de>, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::default())
    }
}

/// What is read of `event`, wherever its kind keeps it.
#[derive(Default)]
pub(crate) struct Event<'json> {
    /// v1.
    pub(crate) r#type: Text<'json>,
    /// v1.
    pub(crate) app_id: Text<'json>,
    /// v1.
    pub(crate) tenant_key: Text<'json>,
    /// Of `message`.
    pub(crate) message_id: Text<'json>,
    pub(crate) chat_id: Text<'json>,
    pub(crate) open_chat_id: Text<'json>,
    /// Of the person who acts.
    pub(crate) open_id: Text<'json>,
}

impl<'de: 'json, 'json> Deserialize<'de> for Event<'json> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut event = Event::default();
        let place = Part {
            event: &mut event,
            name: "event",
        };
        place.deserialize(deserializer)?;
        Ok(event)
    }
}

/// One object inside `event` that may hold an id. Others (a card's `action`, whose content strangers choose) are skipped.
struct Part<'event, 'json> {
    event: &'event mut Event<'json>,
    name: &'static str,
}

/// The parts whose ids tell the chat or the person (`docs/design/feishu-protocol.md` §4).
const PARTS: &[&str] = &[
    "message",
    "context",
    "operator",
    "operator_id",
    "sender",
    "sender_id",
    "user",
    "user_id",
    "reader",
    "reader_id",
];

impl<'de> DeserializeSeed<'de> for Part<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let event = self.event;
        while let Some(key) = map.next_key::<Text<'de>>()? {
            let field = match (self.name, key.as_str()) {
                ("event", "type") => &mut event.r#type,
                ("event", "app_id") => &mut event.app_id,
                ("event", "tenant_key") => &mut event.tenant_key,
                ("message", "message_id") => &mut event.message_id,
                (_, "chat_id") => &mut event.chat_id,
                (_, "open_chat_id") => &mut event.open_chat_id,
                (_, "open_id") => &mut event.open_id,
                (_, name) => {
                    match PARTS.iter().find(|part| **part == name) {
                        Some(name) => map.next_value_seed(Part {
                            event: &mut *event,
                            name,
                        })?,
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                    continue;
                }
            };
            let value: Text<'de> = map.next_value()?;
            if field.0.is_empty() {
                *field = value;
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}
