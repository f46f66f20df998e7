//! What a call does once it has passed every check: a message appears, changes or goes.

use std::sync::Arc;

use openclaw_common::time::now_ms;

use super::admit::Ticket;
use super::chats::Known;
use super::send::Draft;
use super::target::Place;
use super::uuid::Use;
use super::{Api, Refusal};
use crate::faults::Fault;
use crate::ledger::{Call, Message};
use crate::state::State;

/// What a successful call is told.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    pub(crate) api: Api,
    pub(crate) app: Arc<str>,
    pub(crate) message_id: Option<Arc<str>>,
    pub(crate) chat: Option<Arc<str>>,
    pub(crate) parent: Option<Arc<str>>,
    pub(crate) msg_type: Arc<str>,
    pub(crate) content: Arc<str>,
    pub(crate) created_ms: i64,
}

impl Receipt {
    pub(crate) fn new(api: Api, app: &Arc<str>, place: &Place, draft: &Draft, message_id: Option<Arc<str>>) -> Self {
        Self {
            api,
            app: app.clone(),
            message_id: message_id.or_else(|| place.message.clone()),
            chat: place.chat.clone(),
            parent: place.message.clone().filter(|_| api == Api::Reply),
            msg_type: draft.msg_type.clone(),
            content: draft.content.clone(),
            created_ms: now_ms(),
        }
    }
}

/// The decision on a call and the fault that may garble it.
pub(crate) struct Outcome {
    pub(crate) result: Result<Receipt, Refusal>,
    pub(crate) fault: Option<Fault>,
}

/// What happens to a message that is there already.
enum Change {
    Content(Arc<str>),
    Recall,
}

impl State {
    /// Lets a checked call take effect.
    pub(crate) fn commit(&mut self, ticket: Ticket, now_us: u64) -> Outcome {
        let Ticket {
            at_us,
            api,
            app,
            place,
            card_token,
            draft,
            fault,
        } = ticket;
        let message_id = match api {
            Api::Create | Api::Reply => Some(self.show(api, &app, &place, &draft, at_us, now_us)),
            Api::Edit | Api::Patch | Api::CardUpdate => {
                if let Some(card) = card_token.and_then(|token| self.chats.card_token_mut(&token)) {
                    card.uses += 1;
                }
                self.change(&place, &Change::Content(draft.content.clone()));
                None
            }
            Api::Recall => {
                self.change(&place, &Change::Recall);
                None
            }
            Api::React | Api::Token => None,
        };
        self.ledger.record_call(Call {
            uuid: draft.uuid.clone(),
            message_id: message_id.clone(),
            fault: fault.as_ref().map(|fault| fault.name.clone()),
            ..place.call(api, app.clone(), at_us)
        });
        Outcome {
            result: Ok(Receipt::new(api, &app, &place, &draft, message_id)),
            fault,
        }
    }

    fn show(&mut self, api: Api, app: &Arc<str>, place: &Place, draft: &Draft, at_us: u64, now_us: u64) -> Arc<str> {
        let serial = self.next_serial();
        let message_id = self.message_id(serial);
        let chat = place.chat.clone().unwrap_or_default();
        let number = self.ledger.record_message(Message {
            number: 0,
            message_id: message_id.clone(),
            app: app.clone(),
            chat: chat.clone(),
            user: place.user.clone(),
            uuid: draft.uuid.clone(),
            reply_to: place.message.clone().filter(|_| api == Api::Reply),
            msg_type: draft.msg_type.clone(),
            content: draft.content.clone(),
            at_us,
            visible_us: now_us,
            edits: 0,
            recalled: false,
        });
        let known = Known {
            chat,
            author: Some(app.clone()),
            msg_type: draft.msg_type.clone(),
            created_us: now_us,
            recalled: false,
            edits: 0,
            number: Some(number),
        };
        self.chats.add_message(message_id.clone(), known);
        if let Some(uuid) = &draft.uuid {
            self.uuids.set(app, uuid, Use::Done(serial), now_us);
        }
        message_id
    }

    /// In the chats always, in the ledger if it still remembers the message.
    fn change(&mut self, place: &Place, change: &Change) {
        let known = place
            .message
            .as_ref()
            .and_then(|message_id| self.chats.message_mut(message_id));
        let Some(known) = known else { return };
        let seen = known.number.and_then(|number| self.ledger.message_mut(number));
        match change {
            Change::Content(content) => {
                known.edits += 1;
                if let Some(seen) = seen {
                    seen.edits += 1;
                    seen.content = content.clone();
                }
            }
            Change::Recall => {
                known.recalled = true;
                if let Some(seen) = seen {
                    seen.recalled = true;
                }
            }
        }
    }
}
