//! One call from arrival to effect. Everything between is decided under one lock, so the ledger's order is the truth.
//!
//! The platform's order of checks: token, gateway limit (whatever follows has used it up), fields, target, membership,
//! uuid (a repeat is answered before the chat's limit: it makes nothing new), limit of the chat, person or card, effect.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use openclaw_common::time::now_ms;
use serde::Deserialize;

use super::chats::Known;
use super::limits::Rule;
use super::uuid::Use;
use super::{Api, Refusal, body, refusals, respond};
use crate::clock::{micros, monotonic_us};
use crate::faults::{Answer, Fault, FaultId, Subject};
use crate::ledger::{Call, Level, Message};
use crate::server::Gate;
use crate::state::State;

/// Cards older than this cannot be patched (§6.1), before the time scale.
pub(crate) const PATCH_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// A card callback's token can be used this long (§4), before the time scale.
pub(crate) const CARD_TOKEN_AGE: Duration = Duration::from_secs(30 * 60);

/// And this often.
const CARD_TOKEN_USES: u32 = 2;

/// A text or post can be edited this often (§6.1).
const MAX_EDITS: u32 = 20;

/// The ledger's code for a call that a fault swallowed: nothing was done, no code was decided.
const NO_CODE: i64 = -1;

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

/// What it wants there.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) msg_type: Arc<str>,
    pub(crate) content: Arc<str>,
    pub(crate) uuid: Option<Arc<str>>,
}

/// A call as it arrived.
pub(crate) struct Incoming<'request> {
    api: Api,
    authorization: Option<&'request str>,
    target: Option<Target>,
    draft: Result<Draft, Refusal>,
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

/// Where the target is.
#[derive(Clone, Debug, Default)]
struct Place {
    chat: Option<Arc<str>>,
    user: Option<Arc<str>>,
    message: Option<Arc<str>>,
}

/// A call that passed every check and has not taken effect yet.
pub(crate) struct Ticket {
    at_us: u64,
    api: Api,
    app: Arc<str>,
    place: Place,
    card_token: Option<Arc<str>>,
    draft: Draft,
    fault: Option<Fault>,
}

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

/// The decision on a call and the fault that may garble it.
pub(crate) struct Outcome {
    pub(crate) result: Result<Receipt, Refusal>,
    pub(crate) fault: Option<Fault>,
}

enum Admitted {
    Decided(Outcome),
    InFlight(Ticket, Duration),
}

/// One message call, from arrival to answer.
pub(super) async fn perform(gate: &Gate, incoming: Incoming<'_>) -> Response {
    let admitted = gate.sim.state().admit(incoming, monotonic_us());
    let outcome = match admitted {
        Admitted::Decided(outcome) => outcome,
        Admitted::InFlight(ticket, hold) => {
            let (sim, stop) = (gate.sim.clone(), gate.stop.clone());
            // A task of its own: the platform finishes what it began when the caller hangs up.
            let finished = gate.tasks.spawn(async move {
                tokio::select! {
                    () = tokio::time::sleep(hold) => {}
                    () = stop.cancelled() => {}
                }
                let mut state = sim.state();
                state.commit(ticket, monotonic_us())
            });
            match finished.await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(%error, "a held call of the simulator did not finish");
                    return respond::server_error(500);
                }
            }
        }
    };
    respond::outcome(outcome).await
}

#[derive(Deserialize)]
struct TokenBody {
    app_id: Option<Arc<str>>,
    app_secret: Option<Arc<str>>,
}

/// The token endpoint, from arrival to answer.
pub(super) async fn issue_token(gate: &Gate, body: &[u8]) -> Response {
    let now_us = monotonic_us();
    let parsed: Result<TokenBody, Refusal> = body::parse(body);
    let (app, secret) = match &parsed {
        Ok(body) => (
            body.app_id.clone().unwrap_or_default(),
            body.app_secret.as_deref().unwrap_or_default(),
        ),
        Err(_) => (Arc::default(), ""),
    };
    let (fault, result) = {
        let mut state = gate.sim.state();
        let picked = state.faults.pick(&Subject {
            api: Api::Token,
            app: &app,
            chat: None,
            message: None,
        });
        let fault = picked.map(|(_, fault)| fault);
        let result = match &fault {
            Some(fault) if !fault.commit => Err(fault.refusal().unwrap_or_else(refusals::unknown_app)),
            _ => match parsed {
                Ok(_) => state.tokens.issue(&app, secret, now_us),
                Err(refusal) => Err(refusal),
            },
        };
        let code = result.as_ref().map_or_else(|refusal| refusal.code, |_| 0);
        state.record(
            Api::Token,
            app,
            now_us,
            &Place::default(),
            None,
            None,
            code,
            fault.as_ref(),
            false,
        );
        (fault, result)
    };
    respond::token(result, fault).await
}

impl State {
    fn admit(&mut self, incoming: Incoming<'_>, now_us: u64) -> Admitted {
        let Incoming {
            api,
            authorization,
            target,
            draft,
        } = incoming;
        let app = match self.tokens.authenticate(authorization, now_us) {
            Ok(app) => app,
            Err(refusal) => {
                self.record(
                    api,
                    Arc::default(),
                    now_us,
                    &Place::default(),
                    None,
                    None,
                    refusal.code,
                    None,
                    false,
                );
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
            .unwrap_or_else(|_| named(target.as_ref()));
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
            self.record(api, app, now_us, &place, uuid, None, code, Some(fault), false);
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
                let message_id = receipt.message_id.clone();
                self.record(api, app, now_us, &place, uuid, message_id, 0, fault.as_ref(), true);
                Admitted::Decided(Outcome {
                    result: Ok(receipt),
                    fault,
                })
            }
            Err(refusal) => {
                if let Some(id) = fault_id {
                    self.give_back(id);
                }
                self.record(api, app, now_us, &place, uuid, None, refusal.code, None, false);
                Admitted::Decided(Outcome {
                    result: Err(refusal),
                    fault: None,
                })
            }
        }
    }

    fn give_back(&mut self, id: FaultId) {
        self.faults.give_back(id);
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

    fn locate(
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
                    let receipt = receipt(api, app, &place, &draft, Some(message_id));
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
                self.change(&place, |message| {
                    message.edits += 1;
                    message.content = draft.content.clone();
                });
                None
            }
            Api::Recall => {
                self.change(&place, |message| message.recalled = true);
                None
            }
            Api::React | Api::Token => None,
        };
        self.record(
            api,
            app.clone(),
            at_us,
            &place,
            draft.uuid.clone(),
            message_id.clone(),
            0,
            fault.as_ref(),
            false,
        );
        Outcome {
            result: Ok(receipt(api, &app, &place, &draft, message_id)),
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

    /// Changes a visible message, in the chats and in the ledger.
    fn change(&mut self, place: &Place, change: impl FnOnce(&mut Message)) {
        let Some(known) = place
            .message
            .as_ref()
            .and_then(|message_id| self.chats.message_mut(message_id))
        else {
            return;
        };
        let Some(message) = known.number.and_then(|number| self.ledger.message_mut(number)) else {
            return;
        };
        change(message);
        known.edits = message.edits;
        known.recalled = message.recalled;
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of one ledger line, each from another place"
    )]
    fn record(
        &mut self,
        api: Api,
        app: Arc<str>,
        at_us: u64,
        place: &Place,
        uuid: Option<Arc<str>>,
        message_id: Option<Arc<str>>,
        code: i64,
        fault: Option<&Fault>,
        collapsed: bool,
    ) {
        self.ledger.record_call(Call {
            at_us,
            api,
            app,
            chat: place.chat.clone(),
            user: place.user.clone(),
            uuid,
            reply_to: place.message.clone(),
            message_id,
            code,
            fault: fault.map(|fault| fault.name.clone()),
            collapsed,
        });
    }
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

/// What a call that could not be located still says about where it aims.
fn named(target: Option<&Target>) -> Place {
    match target {
        Some(Target::Reply(message) | Target::Message(message)) => Place {
            message: Some(message.clone()),
            ..Place::default()
        },
        _ => Place::default(),
    }
}

fn receipt(api: Api, app: &Arc<str>, place: &Place, draft: &Draft, message_id: Option<Arc<str>>) -> Receipt {
    Receipt {
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
