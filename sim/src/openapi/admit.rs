//! Whether a call may take effect. Everything is decided under one lock, so the ledger's order is the truth.
//!
//! The platform's order of checks: token, gateway limit (whatever follows has used it up), fields, target, membership,
//! uuid (a repeat is answered before the chat's limit: it makes nothing new), limit of the chat, person or card.

use std::sync::Arc;
use std::time::Duration;

use super::effect::{Outcome, Receipt};
use super::limits::Rule;
use super::send::Draft;
use super::target::{Place, Target};
use super::uuid::Use;
use super::{Api, Refusal, refusals};
use crate::clock::micros;
use crate::faults::{Answer, Fault, Subject};
use crate::ledger::{Call, Level, NO_CODE};
use crate::state::State;

/// Cards older than this cannot be patched (`docs/design/feishu-protocol.md` §6.1), before the time scale.
const PATCH_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// A text or post can be edited this often (`docs/design/feishu-protocol.md` §6.1).
const MAX_EDITS: u32 = 20;

/// A call as it arrived.
pub(crate) struct Incoming<'request> {
    pub(super) api: Api,
    pub(super) authorization: Option<&'request str>,
    pub(super) target: Option<Target>,
    pub(super) draft: Result<Draft, Refusal>,
}

impl<'request> Incoming<'request> {
    pub(super) fn new(
        api: Api,
        authorization: Option<&'request str>,
        target: Option<Target>,
        draft: Result<Draft, Refusal>,
    ) -> Self {
        Self {
            api,
            authorization,
            target,
            draft,
        }
    }
}

/// A call that passed every check and has not taken effect yet.
pub(crate) struct Ticket {
    pub(super) at_us: u64,
    pub(super) api: Api,
    pub(super) app: Arc<str>,
    pub(super) place: Place,
    pub(super) card_token: Option<Arc<str>>,
    pub(super) draft: Draft,
    pub(super) fault: Option<Fault>,
}

/// What becomes of a call.
pub(super) enum Admitted {
    Decided(Outcome),
    InFlight(Ticket, Duration),
}

enum Checked {
    Ready {
        place: Place,
        card_token: Option<Arc<str>>,
        draft: Draft,
    },
    Repeat {
        receipt: Receipt,
    },
}

impl State {
    /// Decides on a call that arrived now, and lets it take effect unless it stays in flight.
    pub(super) fn admit(&mut self, incoming: Incoming<'_>, now_us: u64) -> Admitted {
        let Incoming {
            api,
            authorization,
            target,
            draft,
        } = incoming;
        let app = match self.tokens.authenticate(authorization, now_us) {
            Ok(app) => app,
            Err(refusal) => {
                let nowhere = Place::default().call(api, Arc::default(), now_us);
                self.ledger.record_call(Call {
                    code: refusal.code,
                    ..nowhere
                });
                return Admitted::Decided(Outcome {
                    result: Err(refusal),
                    fault: None,
                });
            }
        };
        let located = self.locate(&app, target.as_ref(), now_us);
        let place = located
            .as_ref()
            .map(|(place, _)| place.clone())
            .unwrap_or_else(|_| Place::named(target.as_ref()));
        self.count_arrival(api, &app, &place, now_us);
        let picked = self.faults.pick(&Subject {
            api,
            app: &app,
            chat: place.chat.as_deref(),
            message: place.message.as_deref(),
        });
        let uuid = draft.as_ref().ok().and_then(|draft| draft.uuid.clone());
        let (fault_id, fault) = picked.map_or((None, None), |(id, fault)| (Some(id), Some(fault)));
        if let Some(fault) = fault.as_ref().filter(|fault| !fault.commit) {
            if fault.answer == Answer::RevokeToken {
                self.tokens.revoke(Some(&app));
            }
            let refusal = fault.refusal();
            let code = refusal.as_ref().map_or(NO_CODE, |refusal| refusal.code);
            self.ledger.record_call(Call {
                uuid,
                code,
                fault: Some(fault.name.clone()),
                ..place.call(api, app, now_us)
            });
            // Without a refusal the answer is the fault's own (a status, a reset, nothing); this text is never sent.
            let result = Err(refusal.unwrap_or_else(refusals::in_flight));
            return Admitted::Decided(Outcome {
                result,
                fault: Some(fault.clone()),
            });
        }
        match self.check(api, &app, located, draft, now_us) {
            Ok(Checked::Ready {
                place,
                card_token,
                draft,
            }) => {
                let hold = fault.as_ref().map_or(Duration::ZERO, |fault| fault.hold);
                let ticket = Ticket {
                    at_us: now_us,
                    api,
                    app,
                    place,
                    card_token,
                    draft,
                    fault,
                };
                if hold.is_zero() {
                    return Admitted::Decided(self.commit(ticket, now_us));
                }
                if let Some(uuid) = &ticket.draft.uuid {
                    self.uuids.set(&ticket.app, uuid, Use::InFlight, now_us);
                }
                Admitted::InFlight(ticket, hold)
            }
            Ok(Checked::Repeat { receipt }) => {
                self.ledger.record_call(Call {
                    uuid,
                    message_id: receipt.message_id.clone(),
                    fault: fault.as_ref().map(|fault| fault.name.clone()),
                    collapsed: true,
                    ..place.call(api, app, now_us)
                });
                Admitted::Decided(Outcome {
                    result: Ok(receipt),
                    fault,
                })
            }
            Err(refusal) => {
                if let Some(id) = fault_id {
                    self.faults.give_back(id);
                }
                self.ledger.record_call(Call {
                    uuid,
                    code: refusal.code,
                    ..place.call(api, app, now_us)
                });
                Admitted::Decided(Outcome {
                    result: Err(refusal),
                    fault: None,
                })
            }
        }
    }

    /// Counts what the client let through, before anything can refuse it.
    fn count_arrival(&mut self, api: Api, app: &Arc<str>, place: &Place, now_us: u64) {
        self.ledger.count_arrival(Level::Bot, app, now_us);
        let per_api: Arc<str> = format!("{app}/{}", api.name()).into();
        self.ledger.count_arrival(Level::App, &per_api, now_us);
        self.ledger.count_arrival(Level::AppMinute, &per_api, now_us);
        match api {
            Api::Create | Api::Reply => {
                if let Some(chat) = &place.chat {
                    self.ledger.count_arrival(Level::Chat, chat, now_us);
                }
                if let Some(user) = &place.user {
                    self.ledger.count_arrival(Level::User, user, now_us);
                }
            }
            Api::Patch => {
                if let Some(message) = &place.message {
                    self.ledger.count_arrival(Level::Card, message, now_us);
                }
            }
            Api::Token | Api::Edit | Api::CardUpdate | Api::React | Api::Recall => {}
        }
    }

    fn check(
        &mut self,
        api: Api,
        app: &Arc<str>,
        located: Result<(Place, Option<Arc<str>>), Refusal>,
        draft: Result<Draft, Refusal>,
        now_us: u64,
    ) -> Result<Checked, Refusal> {
        let rules = self.limits.app_rules();
        let gateway: Arc<str> = format!("{app}/{}", api.name()).into();
        self.windows
            .check(&gateway, now_us, &rules)
            .map_err(refusals::gateway)?;
        self.windows.take(&gateway, now_us, &rules);

        let draft = draft?;
        let (place, card_token) = located?;
        if let Some(chat) = &place.chat
            && !self.chats.is_member(app, chat)
        {
            return Err(refusals::not_in_chat());
        }
        self.check_state(api, &place, now_us)?;
        if let Some(uuid) = &draft.uuid {
            match self.uuids.state(app, uuid, now_us) {
                Use::Free => {}
                Use::InFlight => return Err(refusals::in_flight()),
                Use::Done(serial) => {
                    let message_id = self.message_id(serial);
                    let receipt = Receipt::new(api, app, &place, &draft, Some(message_id));
                    return Ok(Checked::Repeat { receipt });
                }
            }
        }
        self.take_target(api, &place, now_us)?;
        Ok(Checked::Ready {
            place,
            card_token,
            draft,
        })
    }

    /// Rules about the message that is edited or patched.
    fn check_state(&mut self, api: Api, place: &Place, now_us: u64) -> Result<(), Refusal> {
        let patch_age_us = micros(self.scaled(PATCH_AGE));
        let known = place
            .message
            .as_ref()
            .and_then(|message_id| self.chats.message_mut(message_id));
        let Some(known) = known else { return Ok(()) };
        match api {
            Api::Edit if known.edits >= MAX_EDITS => Err(refusals::edited_too_often()),
            Api::Edit if !matches!(&*known.msg_type, "text" | "post") => Err(refusals::type_not_supported()),
            Api::Patch if &*known.msg_type != "interactive" => Err(refusals::parameter("This message is NOT a card.")),
            Api::Patch if now_us.saturating_sub(known.created_us) >= patch_age_us => Err(refusals::too_old()),
            _ => Ok(()),
        }
    }

    /// The limit of the chat, the person or the card.
    fn take_target(&mut self, api: Api, place: &Place, now_us: u64) -> Result<(), Refusal> {
        let (what, key, limit) = match (api, place) {
            (Api::Create | Api::Reply, Place { user: Some(user), .. }) => ("user", user, self.limits.user_per_second),
            (Api::Create | Api::Reply, Place { chat: Some(chat), .. }) => ("chat", chat, self.limits.chat_per_second),
            (
                Api::Patch,
                Place {
                    message: Some(card), ..
                },
            ) => ("message", card, self.limits.card_per_second),
            _ => return Ok(()),
        };
        let rules = [Rule::per_second(limit)];
        self.windows
            .check(key, now_us, &rules)
            .map_err(|_| refusals::frequency(what))?;
        self.windows.take(key, now_us, &rules);
        Ok(())
    }
}
