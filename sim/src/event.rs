//! Events and callbacks of every type a bot receives (`docs/design/feishu-protocol.md` §4), as bytes on the wire: encrypted, signed.

use std::borrow::Cow;
use std::sync::Arc;

use openclaw_common::bot::Credentials;
use openclaw_common::crypto;
use openclaw_common::time::now_ms;
use rand::Rng as _;
use serde_json::{Value, json};

use crate::openapi::chats::pushed_message_id;

/// The one tenant of the simulated platform.
pub const TENANT: &str = "16a1b2c3d4e5f678";

/// Whom events are pushed to: the last segment of `/webhook/{bot}`, and the app behind it.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// The bot's id.
    pub bot: Arc<str>,
    /// Its app.
    pub credentials: Credentials,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A person's text: `im.message.receive_v1`.
    Text {
        /// What was said.
        text: String,
    },
    /// A person's message of another type.
    Message {
        /// `image`, `post`, `sticker` and so on.
        message_type: String,
        /// The JSON string of that type.
        content: String,
    },
    /// A click on a card: `card.action.trigger`, a callback that wants its answer in the response.
    CardAction {
        /// The card.
        message_id: String,
        /// What the button carries: an object or a string.
        value: Value,
        /// Allows delayed updates.
        token: String,
    },
    /// `url.preview.get`, a callback.
    UrlPreview,
    /// `im.chat.member.bot.added_v1`
    BotAdded,
    /// `im.chat.member.bot.deleted_v1`
    BotDeleted,
    /// `im.chat.disbanded_v1`
    ChatDisbanded,
    /// `im.chat.updated_v1`
    ChatUpdated,
    /// `im.chat.member.user.added_v1`
    UserAdded,
    /// `im.chat.member.user.deleted_v1`
    UserDeleted,
    /// `im.chat.member.user.withdrawn_v1`
    UserWithdrawn,
    /// `im.chat.access_event.bot_p2p_chat_entered_v1`
    P2pEntered,
    /// `im.message.reaction.created_v1`
    ReactionCreated,
    /// `im.message.reaction.deleted_v1`
    ReactionDeleted,
    /// `im.message.message_read_v1`
    MessageRead,
    /// `im.message.recalled_v1`
    MessageRecalled,
    /// `application.bot.menu_v6`
    Menu {
        /// The menu entry.
        event_key: String,
    },
    /// `p2p_chat_create`, an event of the first version.
    P2pCreatedV1,
    /// `app_ticket`, an event of the first version.
    AppTicketV1,
    /// `card.action.trigger_v1`: the old card callback, SHA-1, never encrypted.
    OldCardAction {
        /// The card.
        message_id: String,
    },
    /// The address check: encrypted when there is a key, never signed.
    Challenge {
        /// What must come back.
        challenge: String,
    },
}

impl Kind {
    /// The platform's name of the type.
    #[must_use]
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Text { .. } | Self::Message { .. } => "im.message.receive_v1",
            Self::CardAction { .. } => "card.action.trigger",
            Self::UrlPreview => "url.preview.get",
            Self::BotAdded => "im.chat.member.bot.added_v1",
            Self::BotDeleted => "im.chat.member.bot.deleted_v1",
            Self::ChatDisbanded => "im.chat.disbanded_v1",
            Self::ChatUpdated => "im.chat.updated_v1",
            Self::UserAdded => "im.chat.member.user.added_v1",
            Self::UserDeleted => "im.chat.member.user.deleted_v1",
            Self::UserWithdrawn => "im.chat.member.user.withdrawn_v1",
            Self::P2pEntered => "im.chat.access_event.bot_p2p_chat_entered_v1",
            Self::ReactionCreated => "im.message.reaction.created_v1",
            Self::ReactionDeleted => "im.message.reaction.deleted_v1",
            Self::MessageRead => "im.message.message_read_v1",
            Self::MessageRecalled => "im.message.recalled_v1",
            Self::Menu { .. } => "application.bot.menu_v6",
            Self::P2pCreatedV1 => "p2p_chat_create",
            Self::AppTicketV1 => "app_ticket",
            Self::OldCardAction { .. } => "card.action.trigger_v1",
            Self::Challenge { .. } => "url_verification",
        }
    }

    /// Callbacks are answered in the response and never pushed again.
    #[must_use]
    pub fn is_callback(&self) -> bool {
        matches!(
            self,
            Self::CardAction { .. } | Self::UrlPreview | Self::OldCardAction { .. } | Self::Challenge { .. }
        )
    }

    fn is_message(&self) -> bool {
        matches!(self, Self::Text { .. } | Self::Message { .. })
    }
}

/// One event, ready to be pushed as often as it takes.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whom to.
    pub recipient: Arc<Recipient>,
    /// What happened.
    pub kind: Kind,
    /// Its identity: the `message_id` of a message, else the `event_id` (v1: `uuid`).
    pub key: Arc<str>,
    /// Where it happened; chats named `oc_p2p_…` are p2p chats.
    pub chat: Arc<str>,
    /// Who did it.
    pub user: Arc<str>,
    /// When, Unix milliseconds.
    pub created_ms: i64,
}

/// A request body and its signature headers.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Exactly these bytes are signed.
    pub body: Vec<u8>,
    /// `X-Lark-…` headers; none without an encrypt key, and none for the address check.
    pub headers: Vec<(&'static str, String)>,
}

impl Event {
    /// An event that happens now, with a fresh identity.
    #[must_use]
    pub fn new(recipient: Arc<Recipient>, kind: Kind, chat: &str, user: &str) -> Self {
        let key = if kind.is_message() {
            pushed_message_id(rand::random(), rand::random(), chat)
        } else {
            event_id()
        };
        Self::with_key(recipient, kind, chat, user, &key)
    }

    /// An event that happens now, with the given identity.
    #[must_use]
    pub fn with_key(recipient: Arc<Recipient>, kind: Kind, chat: &str, user: &str, key: &str) -> Self {
        Self {
            recipient,
            kind,
            key: key.into(),
            chat: chat.into(),
            user: user.into(),
            created_ms: now_ms(),
        }
    }

    /// A person's text.
    #[must_use]
    pub fn text(recipient: Arc<Recipient>, chat: &str, user: &str, text: impl Into<String>) -> Self {
        Self::new(recipient, Kind::Text { text: text.into() }, chat, user)
    }

    /// One event of every kind, in the given chat.
    #[must_use]
    pub fn of_every_kind(recipient: &Arc<Recipient>, chat: &str, user: &str) -> Vec<Self> {
        let card = "om_card01".to_owned();
        let kinds = [
            Kind::Text {
                text: "hello".to_owned(),
            },
            Kind::Message {
                message_type: "image".to_owned(),
                content: json!({"image_key": "img_1"}).to_string(),
            },
            Kind::CardAction {
                message_id: card.clone(),
                value: json!({"op": "approve"}),
                token: format!("c-{}", event_id()),
            },
            Kind::UrlPreview,
            Kind::BotAdded,
            Kind::BotDeleted,
            Kind::ChatDisbanded,
            Kind::ChatUpdated,
            Kind::UserAdded,
            Kind::UserDeleted,
            Kind::UserWithdrawn,
            Kind::P2pEntered,
            Kind::ReactionCreated,
            Kind::ReactionDeleted,
            Kind::MessageRead,
            Kind::MessageRecalled,
            Kind::Menu {
                event_key: "help".to_owned(),
            },
            Kind::P2pCreatedV1,
            Kind::AppTicketV1,
            Kind::OldCardAction { message_id: card },
            Kind::Challenge { challenge: event_id() },
        ];
        kinds
            .into_iter()
            .map(|kind| Self::new(recipient.clone(), kind, chat, user))
            .collect()
    }

    /// The JSON inside. From the second attempt on a message event carries another `event_id`, which the platform's page
    /// warns of by telling receivers to go by the `message_id`; every other event keeps its one.
    #[must_use]
    pub fn plaintext(&self, attempt: u32) -> Value {
        let credentials = &self.recipient.credentials;
        let (app_id, token) = (&*credentials.app_id, credentials.verification_token.expose());
        match &self.kind {
            Kind::Challenge { challenge } => {
                json!({"challenge": challenge, "token": token, "type": "url_verification"})
            }
            Kind::P2pCreatedV1 => self.first_version(json!({
                "app_id": app_id, "chat_id": self.chat, "operator": {"open_id": self.user, "user_id": "u7"},
                "tenant_key": TENANT, "type": "p2p_chat_create",
                "user": {"name": "Li", "open_id": self.user, "user_id": "u7"},
            })),
            Kind::AppTicketV1 => self.first_version(json!({
                "app_id": app_id, "app_ticket": "ticket", "tenant_key": TENANT, "type": "app_ticket",
            })),
            Kind::OldCardAction { message_id } => json!({
                "open_id": self.user, "user_id": "u7", "open_message_id": message_id, "open_chat_id": self.chat,
                "tenant_key": TENANT, "token": self.key, "action": {"value": {"op": "approve"}, "tag": "button"},
            }),
            _ => json!({
                "schema": "2.0",
                "header": {
                    "event_id": self.event_id(attempt),
                    "event_type": self.kind.event_type(),
                    "create_time": self.create_time(),
                    "token": token,
                    "app_id": app_id,
                    "tenant_key": TENANT,
                },
                "event": self.event(),
            }),
        }
    }

    /// The request of one attempt, with its own timestamp, nonce and initialisation vector.
    #[must_use]
    pub fn wire(&self, attempt: u32) -> Wire {
        let credentials = &self.recipient.credentials;
        let plaintext = self.plaintext(attempt).to_string();
        if let Kind::OldCardAction { .. } = self.kind {
            let body = plaintext.into_bytes();
            let token = credentials.verification_token.expose();
            let headers = signed(|timestamp, nonce| crypto::signature_sha1(timestamp, nonce, token, &body));
            return Wire { body, headers };
        }
        let Some(key) = credentials.encrypt_key.as_ref().map(|key| key.expose()) else {
            return Wire {
                body: plaintext.into_bytes(),
                headers: Vec::new(),
            };
        };
        let encrypted = crypto::encrypt(key, rand::rng().random(), plaintext.as_bytes());
        // Base64 needs no escaping.
        let body = format!(r#"{{"encrypt":"{encrypted}"}}"#).into_bytes();
        let headers = match self.kind {
            Kind::Challenge { .. } => Vec::new(),
            _ => signed(|timestamp, nonce| crypto::signature_sha256(timestamp, nonce, key, &body)),
        };
        Wire { body, headers }
    }

    /// Whether an echoing bot owes this event a visible reply.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        matches!(self.kind, Kind::Text { .. })
    }

    /// A message's content, the JSON string an echoing bot sends back.
    #[must_use]
    pub fn content(&self) -> Option<Cow<'_, str>> {
        match &self.kind {
            Kind::Text { text } => Some(json!({"text": text}).to_string().into()),
            Kind::Message { content, .. } => Some(content.into()),
            _ => None,
        }
    }

    fn event_id(&self, attempt: u32) -> String {
        match (self.kind.is_message(), attempt) {
            (false, _) => self.key.to_string(),
            (true, _) => format!("{attempt:x}-{}", event_id()),
        }
    }

    /// Digits whose unit depends on the type: microseconds for callbacks, else milliseconds.
    fn create_time(&self) -> String {
        let ms = self.created_ms;
        if self.kind.is_callback() {
            format!("{ms}000")
        } else {
            ms.to_string()
        }
    }

    fn first_version(&self, event: Value) -> Value {
        json!({
            "uuid": self.key,
            "token": self.recipient.credentials.verification_token.expose(),
            "ts": format!("{}.{:03}", self.created_ms / 1000, self.created_ms % 1000),
            "type": "event_callback",
            "event": event,
        })
    }

    fn event(&self) -> Value {
        let user = json!({"union_id": format!("on_{}", self.user), "user_id": "u7", "open_id": self.user});
        let chat = &self.chat;
        match &self.kind {
            Kind::Text { .. } => self.message("text", &user),
            Kind::Message { message_type, .. } => self.message(message_type, &user),
            Kind::CardAction {
                message_id,
                value,
                token,
            } => json!({
                "operator": {"tenant_key": TENANT, "user_id": "u7", "open_id": self.user, "union_id": "on_aa11"},
                "token": token,
                "action": {"value": value, "tag": "button", "name": "Button_ok", "timezone": "Asia/Shanghai"},
                "host": "im_message",
                "context": {"open_message_id": message_id, "open_chat_id": chat},
            }),
            Kind::UrlPreview => json!({
                "operator": {"tenant_key": TENANT, "user_id": "u7", "open_id": self.user, "union_id": "on_aa11"},
                "host": "im_message",
                "context": {"url": "https://example.com/a", "preview_token": "pt", "open_message_id": "om_link01",
                            "open_chat_id": chat},
            }),
            Kind::BotAdded | Kind::BotDeleted | Kind::ChatDisbanded | Kind::ChatUpdated => json!({
                "chat_id": chat, "operator_id": user, "external": false, "operator_tenant_key": TENANT,
                "name": "Warehouse", "i18n_names": {"zh_cn": "仓库", "en_us": "Warehouse", "ja_jp": "倉庫"},
            }),
            Kind::UserAdded | Kind::UserDeleted | Kind::UserWithdrawn => json!({
                "chat_id": chat, "operator_id": user, "external": false, "operator_tenant_key": TENANT,
                "users": [{"name": "Li", "tenant_key": TENANT, "user_id": user}],
                "name": "Warehouse", "i18n_names": {"zh_cn": "仓库", "en_us": "Warehouse", "ja_jp": "倉庫"},
            }),
            Kind::P2pEntered => json!({
                "chat_id": chat, "operator_id": user, "last_message_id": "om_last01",
                "last_message_create_time": self.created_ms.to_string(),
            }),
            Kind::ReactionCreated | Kind::ReactionDeleted => json!({
                "message_id": "om_card01", "reaction_type": {"emoji_type": "THUMBSUP"}, "operator_type": "user",
                "user_id": user, "action_time": self.created_ms.to_string(),
            }),
            Kind::MessageRead => json!({
                "reader": {"reader_id": user, "read_time": self.created_ms.to_string(), "tenant_key": TENANT},
                "message_id_list": ["om_card01", "om_card02"],
            }),
            Kind::MessageRecalled => json!({
                "message_id": "om_gone01", "chat_id": chat, "recall_time": self.created_ms.to_string(),
                "recall_type": "message_owner",
            }),
            Kind::Menu { event_key } => json!({
                "operator": {"operator_name": "Li", "operator_id": user}, "event_key": event_key,
                "timestamp": self.created_ms / 1000,
            }),
            // Not of the second version; `plaintext` never asks for them.
            Kind::P2pCreatedV1 | Kind::AppTicketV1 | Kind::OldCardAction { .. } | Kind::Challenge { .. } => Value::Null,
        }
    }

    fn message(&self, message_type: &str, user: &Value) -> Value {
        let chat_type = if self.chat.starts_with("oc_p2p") {
            "p2p"
        } else {
            "group"
        };
        let time = self.created_ms.to_string();
        json!({
            "sender": {"sender_id": user, "sender_type": "user", "tenant_key": TENANT},
            "message": {
                "message_id": self.key, "create_time": time, "update_time": time, "chat_id": self.chat,
                "chat_type": chat_type, "message_type": message_type, "content": self.content(),
            },
        })
    }
}

fn signed(sign: impl FnOnce(&str, &str) -> String) -> Vec<(&'static str, String)> {
    let timestamp = (now_ms() / 1000).to_string();
    let nonce = format!("{:016x}", rand::random::<u64>());
    let signature = sign(&timestamp, &nonce);
    vec![
        ("x-lark-request-timestamp", timestamp),
        ("x-lark-request-nonce", nonce),
        ("x-lark-signature", signature),
    ]
}

fn event_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A steady stream of texts: bots in turn, and each bot's chats in turn. Each text begins with its number.
#[derive(Clone, Debug)]
pub struct Workload {
    recipients: Vec<Arc<Recipient>>,
    chats: u64,
    text_bytes: usize,
    p2p: bool,
    run: u32,
    next: u64,
}

impl Workload {
    /// Texts of at least `text_bytes` bytes for every recipient, over `chats` groups each.
    #[must_use]
    pub fn new(recipients: Vec<Arc<Recipient>>, chats: u32, text_bytes: usize) -> Self {
        Self {
            recipients,
            chats: u64::from(chats.max(1)),
            text_bytes,
            p2p: false,
            run: rand::random(),
            next: 0,
        }
    }

    /// The same in p2p chats, one user each.
    #[must_use]
    pub fn in_p2p_chats(mut self) -> Self {
        self.p2p = true;
        self
    }
}

impl Iterator for Workload {
    type Item = Event;

    /// Endless, unless there is no recipient: take as many as wanted.
    fn next(&mut self) -> Option<Event> {
        let number = self.next;
        let bots = self.recipients.len() as u64;
        let recipient = self
            .recipients
            .get(usize::try_from(number.checked_rem(bots)?).ok()?)?
            .clone();
        self.next += 1;
        let place = (number / bots) % self.chats;
        let user = format!("ou_{}_{place}", recipient.bot);
        let chat = if self.p2p {
            format!("oc_p2p_{user}")
        } else {
            format!("oc_{}_{place}", recipient.bot)
        };
        let key = pushed_message_id(self.run, number, &chat);
        let mut text = format!("#{number} ");
        text.extend(std::iter::repeat_n('x', self.text_bytes.saturating_sub(text.len())));
        Some(Event::with_key(recipient, Kind::Text { text }, &chat, &user, &key))
    }
}
