//! A received event as handlers see it.

use std::sync::Arc;

use openclaw_common::envelope::Envelope;
use openclaw_common::outside;
use serde::Deserialize;
use serde_json::Value;

use crate::action::Action;
use crate::words;

/// The type of a received message.
pub(crate) const MESSAGE: &str = "im.message.receive_v1";

/// An event, parsed once. Its type comes from the envelope, where ingest has already told v2 from v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Feishu's type, such as `im.message.receive_v1`.
    pub event_type: Arc<str>,
    /// The message, of `im.message.receive_v1`; all other events have none.
    pub message: Option<Message>,
}

/// A message somebody sent where the bot can see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `om_…`
    pub message_id: String,
    /// `oc_…`
    pub chat_id: String,
    /// `p2p` or `group`; empty when Feishu does not say.
    pub chat_type: String,
    /// `text`, `post`, `image`, … An open list.
    pub message_type: String,
    /// The content as received: JSON text. Half characters are replaced ([`outside::whole_characters`]).
    pub content: String,
    /// The words of a text message, with Feishu's `@_user_N` where somebody is mentioned; `None` for other types and for
    /// content that is not `{"text": …}`.
    pub text: Option<String>,
    /// Who is mentioned.
    pub mentions: Vec<Mention>,
    /// Who sent it.
    pub sender: Sender,
}

/// Who sent a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// `ou_…`, the person within this app; empty when Feishu does not say.
    pub open_id: String,
    /// `user` for a person. An open list; empty when Feishu does not say.
    pub kind: String,
}

/// Somebody mentioned in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// What stands for it in the text: `@_user_1`, `@_all`.
    pub key: String,
    /// The name people see.
    pub name: String,
}

/// The body is not what its type promises. Feishu's fault or ours, and the same at every try: do not retry.
#[derive(Debug, thiserror::Error)]
#[error("the event is not readable as `{event_type}`: {reason}")]
pub struct EventError {
    event_type: String,
    reason: String,
}

impl Event {
    /// Parses an envelope's (opened) body. Unknown fields and event types are no errors; a message without its id is one.
    ///
    /// # Errors
    /// When the body is not JSON or lacks what every event of its type has.
    pub fn parse(envelope: &Envelope, body: &[u8]) -> Result<Self, EventError> {
        let event_type = envelope.event_type.clone();
        if &*event_type != MESSAGE {
            return Ok(Self {
                event_type,
                message: None,
            });
        }
        let read = serde_json::from_slice::<Body>(body).or_else(|reason| match std::str::from_utf8(body) {
            Ok(text) => serde_json::from_str(&outside::whole_characters(text)),
            Err(_) => Err(reason),
        });
        match read {
            Ok(body) => Ok(Self {
                event_type,
                message: Some(body.event.into_message(&envelope.chat)),
            }),
            Err(reason) => Err(EventError {
                event_type: outside::quoted(&event_type),
                reason: outside::json_fault(&reason),
            }),
        }
    }

    /// A plain text in answer to this event, where there is a message to answer.
    #[must_use]
    pub fn reply_text(&self, text: &str) -> Option<Action> {
        let (message, _) = self.words_from_user()?;
        Some(message.reply(serde_json::json!({ "text": text }).to_string()))
    }

    /// The message, when it is of type text and a person wrote it.
    #[must_use]
    pub fn text_from_user(&self) -> Option<(&Message, &str)> {
        let message = self.users_message()?;
        Some((message, message.text.as_deref()?))
    }

    /// The message and its words as people see them (the module `words`), in whichever type they came, when a person said
    /// them: what conversational handlers answer.
    #[must_use]
    pub fn words_from_user(&self) -> Option<(&Message, String)> {
        let message = self.users_message()?;
        Some((message, words::of(message)?))
    }

    /// A person's message. Never a bot's, else two bots in one group answer each other for ever.
    fn users_message(&self) -> Option<&Message> {
        self.message.as_ref().filter(|message| message.sender.kind == "user")
    }
}

impl Message {
    /// A text message in answer to this one; `content` is `{"text": …}`.
    #[must_use]
    pub fn reply(&self, content: String) -> Action {
        Action::Reply {
            message_id: self.message_id.clone(),
            chat: self.chat_id.clone(),
            msg_type: "text".to_owned(),
            content,
            in_thread: false,
        }
    }
}

#[derive(Deserialize)]
struct Body {
    event: Received,
}

#[derive(Deserialize)]
struct Received {
    sender: Option<ReceivedSender>,
    message: ReceivedMessage,
}

#[derive(Deserialize)]
struct ReceivedSender {
    sender_id: Option<SenderId>,
    sender_type: Option<String>,
}

#[derive(Deserialize)]
struct SenderId {
    open_id: Option<String>,
}

#[derive(Deserialize)]
struct ReceivedMessage {
    message_id: String,
    chat_id: Option<String>,
    chat_type: Option<String>,
    message_type: String,
    content: Option<String>,
    /// Its form must not matter: an odd mention is no reason to leave a person without an answer.
    #[serde(default)]
    mentions: Value,
}

#[derive(Deserialize)]
struct TextContent {
    text: String,
}

impl Mention {
    fn read(received: &Value) -> Option<Self> {
        let text = |name| received.get(name)?.as_str().map(str::to_owned);
        Some(Self {
            key: text("key")?,
            name: text("name").unwrap_or_default(),
        })
    }
}

impl Received {
    fn into_message(self, lane: &str) -> Message {
        let sender = self.sender.map_or_else(Sender::default, |sender| Sender {
            open_id: sender.sender_id.and_then(|id| id.open_id).unwrap_or_default(),
            kind: sender.sender_type.unwrap_or_default(),
        });
        let content = self.message.content.unwrap_or_default();
        let content = outside::whole_characters(&content).into_owned();
        let text = (self.message.message_type == "text")
            .then(|| serde_json::from_str::<TextContent>(&content).ok())
            .flatten()
            .map(|content| content.text);
        let mentions = match self.message.mentions {
            Value::Array(mentions) => mentions,
            _ => Vec::new(),
        };
        Message {
            message_id: self.message.message_id,
            chat_id: self.message.chat_id.unwrap_or_else(|| lane.to_owned()),
            chat_type: self.message.chat_type.unwrap_or_default(),
            message_type: self.message.message_type,
            content,
            text,
            mentions: mentions.iter().filter_map(Mention::read).collect(),
            sender,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use openclaw_common::bot::BotId;
    use openclaw_common::envelope::{EventKey, Origin};

    use super::*;

    fn parse(event_type: &str, body: &str) -> Result<Event, EventError> {
        let envelope = Envelope {
            key: EventKey::new("cli_1", "om_1"),
            bot: BotId::new("bot1").unwrap(),
            origin: Origin::Push,
            event_type: event_type.into(),
            chat: "oc_lane".into(),
            tenant: "".into(),
            created_ms: 0,
            received_ms: 0,
            traceparent: None,
            body: bytes::Bytes::copy_from_slice(body.as_bytes()),
        };
        Event::parse(&envelope, body.as_bytes())
    }

    /// A reply in a thread of a group, with a mention, as the platform documents it; some fields are of the future.
    const GROUP: &str = r#"{"schema":"2.0","header":{"event_id":"e1","event_type":"im.message.receive_v1","token":"v"},
        "event":{"sender":{"sender_id":{"union_id":"on_a","user_id":null,"open_id":"ou_sender"},"sender_type":"user","tenant_key":"t"},
        "message":{"message_id":"om_1","root_id":"om_0","chat_id":"oc_group","thread_id":"omt_1","chat_type":"group",
        "message_type":"text","content":"{\"text\":\"@_user_1 stock of SKU 42?\"}","lark_agent_context":{"x":[]},
        "mentions":[{"key":"@_user_1","id":{"open_id":"ou_bot"},"name":"StockBot","mentioned_type":"bot"}]}}}"#;

    #[test]
    fn a_documented_message_is_read_in_full() {
        let event = parse("im.message.receive_v1", GROUP).unwrap();
        let (message, text) = event.text_from_user().unwrap();
        assert_eq!(text, "@_user_1 stock of SKU 42?");
        assert_eq!(message.content, r#"{"text":"@_user_1 stock of SKU 42?"}"#);
        assert_eq!(
            (
                &*message.message_id,
                &*message.chat_id,
                &*message.chat_type,
                &*message.sender.open_id
            ),
            ("om_1", "oc_group", "group", "ou_sender")
        );
        assert_eq!(message.mentions[0].name, "StockBot");
    }

    #[test]
    fn what_feishu_leaves_out_or_sets_to_null_is_no_error() {
        let bare =
            r#"{"event":{"sender":null,"message":{"message_id":"om_1","message_type":"image","mentions":null}}}"#;
        let event = parse("im.message.receive_v1", bare).unwrap();
        assert!(event.text_from_user().is_none());
        let message = event.message.unwrap();
        assert_eq!(message.chat_id, "oc_lane", "the envelope's lane stands in");
        assert_eq!(message.sender, Sender::default());
    }

    #[test]
    fn only_a_persons_text_is_text_from_a_user() {
        let bot = GROUP.replace(r#""sender_type":"user""#, r#""sender_type":"app""#);
        let post = GROUP.replace(r#""message_type":"text""#, r#""message_type":"post""#);
        let odd = GROUP.replace(r#"{\"text\":\"@_user_1 stock of SKU 42?\"}"#, "no JSON");
        for body in [bot, post, odd] {
            assert!(
                parse("im.message.receive_v1", &body)
                    .unwrap()
                    .text_from_user()
                    .is_none(),
                "{body}"
            );
        }
    }

    #[test]
    fn a_bot_has_said_nothing_in_any_type() {
        let text = GROUP.replace(r#""sender_type":"user""#, r#""sender_type":"app""#);
        let content = r#"{\"title\":\"hi\",\"content\":[]}"#;
        let post = text
            .replace(r#""message_type":"text""#, r#""message_type":"post""#)
            .replace(r#"{\"text\":\"@_user_1 stock of SKU 42?\"}"#, content);
        for body in [text, post] {
            let event = parse("im.message.receive_v1", &body).unwrap();
            assert!(words::of(event.message.as_ref().unwrap()).is_some(), "{body}");
            assert!(event.words_from_user().is_none(), "{body}");
        }
    }

    #[test]
    fn an_odd_mention_costs_its_own_words_nothing_more() {
        for mentions in [
            "null",
            "[]",
            "[null]",
            "[{}]",
            r#"[{"key":7,"name":{}}]"#,
            r#"[{"key":"@_user_1"}]"#,
            "{}",
        ] {
            let body = GROUP.replace(
                r#"[{"key":"@_user_1","id":{"open_id":"ou_bot"},"name":"StockBot","mentioned_type":"bot"}]"#,
                mentions,
            );
            assert!(body.contains(&format!(r#""mentions":{mentions}"#)));
            let event = parse("im.message.receive_v1", &body).unwrap();
            let words = event.words_from_user().unwrap().1;
            assert!(words.ends_with("stock of SKU 42?"), "{mentions}: {words}");
        }
    }

    #[test]
    fn half_a_character_anywhere_leaves_the_words_readable() {
        for body in [
            GROUP.replace("SKU 42?", r"SKU 42 \\ud83d?"),
            GROUP.replace("SKU 42?", r"SKU 42 \ud83d?"),
            GROUP
                .replace("SKU 42?", "SKU 42 \u{fffd}?")
                .replace("StockBot", r"Stock\udc00Bot"),
        ] {
            let event = parse("im.message.receive_v1", &body).unwrap();
            let (message, text) = event.text_from_user().unwrap();
            assert_eq!(text, "@_user_1 stock of SKU 42 \u{fffd}?");
            // Fit to be sent.
            serde_json::from_str::<Value>(&message.content).unwrap();
        }
    }

    #[test]
    fn an_error_holds_nothing_of_what_was_written() {
        let body = r#"{"event":{"message":{"message_id":{"my":"password"},"message_type":"text"}}}"#;
        let error = parse("im.message.receive_v1", body).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("password"), "{error}");
        let body = format!(r#"{{"event":{{"message":"{}"}}}}"#, "password ".repeat(100_000));
        let error = parse("im.message.receive_v1", &body).unwrap_err().to_string();
        assert!(error.len() < 300 && !error.contains("password"), "{error}");
    }

    #[test]
    fn other_events_have_no_message_whatever_their_body() {
        let v1 = r#"{"uuid":"u","token":"t","ts":"1.5","type":"event_callback","event":{"type":"p2p_chat_create"}}"#;
        assert_eq!(parse("p2p_chat_create", v1).unwrap().message, None);
        let flat = r#"{"event":{"message":"a string here"}}"#;
        assert_eq!(parse("some.future_v9", flat).unwrap().message, None);
    }

    #[test]
    fn a_message_event_without_a_message_is_an_error_that_names_the_type() {
        for body in [
            "",
            "[]",
            r#"{"event":{}}"#,
            r#"{"event":{"message":{"message_type":"text"}}}"#,
        ] {
            let error = parse("im.message.receive_v1", body).unwrap_err().to_string();
            assert!(error.contains("im.message.receive_v1"), "{error}");
        }
    }
}
