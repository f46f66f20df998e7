//! Where a call aims: a chat, a person, a message, a card; and why it cannot.

use std::sync::Arc;
use std::time::Duration;

use super::chats::Known;
use super::{Api, Refusal, refusals};
use crate::clock::micros;
use crate::ledger::Call;
use crate::state::State;

/// A card callback's token can be used this long (`docs/design/feishu-protocol.md` §4), before the time scale.
const CARD_TOKEN_AGE: Duration = Duration::from_secs(30 * 60);

/// And this often.
const CARD_TOKEN_USES: u32 = 2;

/// What a call acts on.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Receiver {
        id: Arc<str>,
        id_type: &'static str,
    },
    /// A message anybody sent.
    Reply(Arc<str>),
    /// A message of the caller's own.
    Message(Arc<str>),
    CardToken(Arc<str>),
}

/// Where the target is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) chat: Option<Arc<str>>,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) message: Option<Arc<str>>,
}

impl Place {
    /// What a call that could not be located still says about where it aims.
    pub(crate) fn named(target: Option<&Target>) -> Self {
        match target {
            Some(Target::Reply(message) | Target::Message(message)) => Self {
                message: Some(message.clone()),
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// The ledger's line for a successful call here; the caller fills in what differs.
    pub(crate) fn call(&self, api: Api, app: Arc<str>, at_us: u64) -> Call {
        Call {
            at_us,
            api,
            app,
            chat: self.chat.clone(),
            user: self.user.clone(),
            uuid: None,
            reply_to: self.message.clone(),
            message_id: None,
            code: 0,
            fault: None,
            collapsed: false,
        }
    }
}

impl State {
    /// The place, and the card token if it was named by one.
    pub(crate) fn locate(
        &mut self,
        app: &Arc<str>,
        target: Option<&Target>,
        now_us: u64,
    ) -> Result<(Place, Option<Arc<str>>), Refusal> {
        match target {
            None => Ok((Place::default(), None)),
            Some(Target::Receiver { id, id_type }) => self.receiver(id, id_type).map(|place| (place, None)),
            Some(Target::Reply(message_id)) => {
                let known = self
                    .chats
                    .message(message_id, now_us)
                    .ok_or_else(refusals::message_unknown)?;
                if known.recalled {
                    return Err(refusals::recalled());
                }
                Ok((self.place_of(&known, message_id), None))
            }
            Some(Target::Message(message_id)) => {
                let known = self
                    .chats
                    .message(message_id, now_us)
                    .ok_or_else(refusals::message_unknown)?;
                if known.recalled {
                    return Err(refusals::recalled());
                }
                if known.author.as_ref() != Some(app) {
                    return Err(refusals::not_owner());
                }
                Ok((self.place_of(&known, message_id), None))
            }
            Some(Target::CardToken(token)) => {
                let age_us = micros(self.scaled(CARD_TOKEN_AGE));
                let card = self
                    .chats
                    .card_token_mut(token)
                    .ok_or_else(refusals::card_token_invalid)?;
                if !card.answered {
                    return Err(refusals::card_token_invalid());
                }
                if card.app != *app {
                    return Err(refusals::other_apps_card());
                }
                if now_us.saturating_sub(card.issued_us) >= age_us {
                    return Err(refusals::card_token_expired());
                }
                if card.uses >= CARD_TOKEN_USES {
                    return Err(refusals::card_token_used_up());
                }
                let message = card.message_id.clone();
                let place = match self.chats.message(&message, now_us) {
                    Some(known) => self.place_of(&known, &message),
                    None => Place {
                        message: Some(message),
                        ..Place::default()
                    },
                };
                Ok((place, Some(token.clone())))
            }
        }
    }

    fn receiver(&self, id: &Arc<str>, id_type: &str) -> Result<Place, Refusal> {
        let well_formed = match id_type {
            "chat_id" => id.starts_with("oc_"),
            "open_id" => id.starts_with("ou_"),
            "union_id" => id.starts_with("on_"),
            "email" => id.contains('@'),
            _ => true,
        };
        if !well_formed {
            return Err(refusals::parameter("invalid receive_id"));
        }
        let (chat, user) = if id_type == "chat_id" {
            (id.clone(), self.chats.user_of(id))
        } else {
            (self.chats.chat_with(id), Some(id.clone()))
        };
        Ok(Place {
            chat: Some(chat),
            user,
            message: None,
        })
    }

    fn place_of(&self, known: &Known, message_id: &Arc<str>) -> Place {
        Place {
            user: self.chats.user_of(&known.chat),
            chat: Some(known.chat.clone()),
            message: Some(message_id.clone()),
        }
    }
}
