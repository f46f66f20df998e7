//! Who can be written to: chats, the messages in them, who is a member, and card update tokens.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::bounded::BoundedMap;

/// Marks a p2p chat by its name: `oc_p2p_ou_7` is the chat with `ou_7`, so that nothing needs registering.
const P2P_PREFIX: &str = "oc_p2p_";

/// Marks a message id the pusher made: `om_sim<run>_<number>_<chat>`, from which the chat can be read back.
const PUSHED_PREFIX: &str = "om_sim";

/// Explicit registrations (p2p chats, removed members) kept at most.
const REGISTRATIONS: usize = 100_000;

/// What to do with a message id that neither the pusher nor the sim has made known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownMessages {
    /// As the platform: 99992354.
    #[default]
    Refuse,
    /// Derive its chat from its id; for load generators that cannot register what they push.
    Derive,
}

/// A message in a chat, by a user or by an app.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) chat: Arc<str>,
    /// The app that sent it; `None`: a person's.
    pub(crate) author: Option<Arc<str>>,
    pub(crate) msg_type: Arc<str>,
    pub(crate) created_us: u64,
    pub(crate) recalled: bool,
    pub(crate) edits: u32,
    /// Its number in the ledger, when an app sent it.
    pub(crate) number: Option<u64>,
}

/// What a card callback's token allows.
#[derive(Clone, Debug)]
pub(crate) struct CardToken {
    pub(crate) app: Arc<str>,
    pub(crate) message_id: Arc<str>,
    pub(crate) issued_us: u64,
    pub(crate) uses: u32,
    /// An update before the callback's own answer fails (`docs/design/feishu-protocol.md` §4).
    pub(crate) answered: bool,
}

#[derive(Debug)]
pub(crate) struct Chats {
    messages: BoundedMap<Known>,
    card_tokens: BoundedMap<CardToken>,
    /// Chat to user, and back.
    p2p: HashMap<Arc<str>, Arc<str>>,
    p2p_chats: HashMap<Arc<str>, Arc<str>>,
    p2p_order: VecDeque<Arc<str>>,
    outsiders: HashSet<(Arc<str>, Arc<str>)>,
    unknown: UnknownMessages,
}

impl Chats {
    pub(crate) fn new(unknown: UnknownMessages, capacity: usize) -> Self {
        Self {
            messages: BoundedMap::new(capacity),
            card_tokens: BoundedMap::new(capacity),
            p2p: HashMap::new(),
            p2p_chats: HashMap::new(),
            p2p_order: VecDeque::new(),
            outsiders: HashSet::new(),
            unknown,
        }
    }

    pub(crate) fn add_message(&mut self, message_id: Arc<str>, known: Known) {
        self.messages.insert(message_id, known);
    }

    /// A person's message of any type but a card.
    pub(crate) fn add_user_message(&mut self, message_id: Arc<str>, chat: Arc<str>, now_us: u64) {
        if self.messages.get(&message_id).is_none() {
            self.messages.insert(
                message_id,
                Known {
                    chat,
                    author: None,
                    msg_type: "text".into(),
                    created_us: now_us,
                    recalled: false,
                    edits: 0,
                    number: None,
                },
            );
        }
    }

    /// The message, made up from its id where [`UnknownMessages::Derive`] allows that.
    pub(crate) fn message(&mut self, message_id: &str, now_us: u64) -> Option<Known> {
        if self.messages.get(message_id).is_none() && self.unknown == UnknownMessages::Derive {
            let chat = chat_of(message_id).map_or_else(|| format!("oc_of_{message_id}").into(), Arc::from);
            self.add_user_message(message_id.into(), chat, now_us);
        }
        self.messages.get(message_id).cloned()
    }

    pub(crate) fn message_mut(&mut self, message_id: &str) -> Option<&mut Known> {
        self.messages.get_mut(message_id)
    }

    pub(crate) fn add_card_token(&mut self, token: Arc<str>, card: CardToken) {
        self.card_tokens.insert(token, card);
    }

    pub(crate) fn card_token_mut(&mut self, token: &str) -> Option<&mut CardToken> {
        self.card_tokens.get_mut(token)
    }

    /// Makes `chat` the p2p chat with `user`.
    pub(crate) fn add_p2p(&mut self, chat: Arc<str>, user: Arc<str>) {
        self.p2p_chats.insert(user.clone(), chat.clone());
        if self.p2p.insert(chat.clone(), user).is_none() {
            self.p2p_order.push_back(chat);
        }
        if self.p2p_order.len() > REGISTRATIONS
            && let Some(oldest) = self.p2p_order.pop_front()
            && let Some(user) = self.p2p.remove(&oldest)
        {
            self.p2p_chats.remove(&user);
        }
    }

    /// The person on the other side of a p2p chat; `None` for a group.
    pub(crate) fn user_of(&self, chat: &str) -> Option<Arc<str>> {
        match self.p2p.get(chat) {
            Some(user) => Some(user.clone()),
            None => chat.strip_prefix(P2P_PREFIX).map(Arc::from),
        }
    }

    /// The p2p chat with a person, registered or named by convention.
    pub(crate) fn chat_with(&self, user: &str) -> Arc<str> {
        let registered = self.p2p_chats.get(user).cloned();
        registered.unwrap_or_else(|| format!("{P2P_PREFIX}{user}").into())
    }

    /// Puts the app into the chat or out of it; apps are members of every chat until put out.
    pub(crate) fn set_member(&mut self, app: &str, chat: &str, member: bool) {
        let key = (app.into(), chat.into());
        if member {
            self.outsiders.remove(&key);
        } else if self.outsiders.len() < REGISTRATIONS {
            self.outsiders.insert(key);
        }
    }

    pub(crate) fn is_member(&self, app: &Arc<str>, chat: &Arc<str>) -> bool {
        self.outsiders.is_empty() || !self.outsiders.contains(&(app.clone(), chat.clone()))
    }
}

/// The id of the `number`-th message the pusher's run `run` makes in `chat`.
pub(crate) fn pushed_message_id(run: u32, number: u64, chat: &str) -> String {
    format!("{PUSHED_PREFIX}{run:08x}_{number:x}_{chat}")
}

/// The chat a pushed message's id names.
fn chat_of(message_id: &str) -> Option<&str> {
    message_id.strip_prefix(PUSHED_PREFIX)?.splitn(3, '_').nth(2)
}
