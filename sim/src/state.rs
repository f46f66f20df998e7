//! The simulated platform's whole state, behind one lock, and the handle to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openclaw_common::bot::Credentials;

use crate::clock::monotonic_us;
use crate::faults::{Fault, FaultId, Faults, Rule, Scope, TooManyRules};
use crate::ledger::Ledger;
use crate::openapi::chats::{CardToken, Chats, UnknownMessages};
use crate::openapi::limits::{Limits, Windows};
use crate::openapi::token::Tokens;
use crate::openapi::uuid::{UUID_WINDOW, Uuids};

/// How the simulated platform behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The apps that may buy tokens; empty: any app with any secret.
    pub apps: Vec<Credentials>,
    /// What is enforced. The ledger counts every level regardless.
    pub limits: Limits,
    /// How much faster the platform's long times pass: the uuid's hour, a card's 14 days, a card token's 30 minutes.
    /// Limits, deadlines and token lifetimes stay in real time, because the program under test keeps those itself.
    pub time_scale: f64,
    /// How long a tenant access token lives. The same one is handed out until a quarter of that is left.
    pub token_lifetime: Duration,
    /// What a reply to a message nobody made known gets.
    pub unknown_messages: UnknownMessages,
    /// Calls, messages and known messages remembered, each. Totals and maxima cover the whole run anyway.
    pub keep: usize,
    /// Uuids and message ids counted, each (about 100 bytes apiece): what collapses repeats and finds doubles.
    pub keep_ids: usize,
    /// Makes faults with a probability repeatable.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            apps: Vec::new(),
            limits: Limits::default(),
            time_scale: 1.0,
            token_lifetime: Duration::from_secs(7200),
            unknown_messages: UnknownMessages::default(),
            keep: 500_000,
            keep_ids: 4_000_000,
            seed: 1,
        }
    }
}

/// A long time at the given scale.
pub(crate) fn scaled(duration: Duration, time_scale: f64) -> Duration {
    if time_scale > 0.0 {
        duration.div_f64(time_scale)
    } else {
        duration
    }
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) tokens: Tokens,
    pub(crate) limits: Limits,
    pub(crate) windows: Windows,
    pub(crate) uuids: Uuids,
    pub(crate) chats: Chats,
    pub(crate) faults: Faults,
    pub(crate) ledger: Ledger,
    time_scale: f64,
    instance: u32,
    made: u64,
}

impl State {
    fn new(options: &Options) -> Self {
        Self {
            tokens: Tokens::new(&options.apps, options.token_lifetime),
            limits: options.limits.clone(),
            windows: Windows::default(),
            uuids: Uuids::new(scaled(UUID_WINDOW, options.time_scale), options.keep_ids),
            chats: Chats::new(options.unknown_messages, options.keep),
            faults: Faults::new(options.seed),
            ledger: Ledger::new(options.keep, options.keep_ids),
            time_scale: options.time_scale,
            instance: rand::random(),
            made: 0,
        }
    }

    pub(crate) fn scaled(&self, duration: Duration) -> Duration {
        scaled(duration, self.time_scale)
    }

    /// The serial of the next message an app makes.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    pub(crate) fn message_id(&self, serial: u64) -> Arc<str> {
        format!("om_x{:08x}{serial:016x}", self.instance).into()
    }
}

/// A handle to the simulated platform, to steer and to question it. Cheap to clone; works whether or not it is served.
#[derive(Clone, Debug)]
pub struct Sim {
    state: Arc<Mutex<State>>,
}

impl Sim {
    /// A platform nobody has called yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(options))),
        }
    }

    /// Each change under the lock is complete in itself, so a panic elsewhere leaves nothing half done.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the ledger; the platform stands still meanwhile.
    pub fn ledger<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        read(&self.state().ledger)
    }

    /// Puts a fault in force. Rules are asked in the order they were added; the first that hits wins.
    ///
    /// # Errors
    /// When there are already 1,000 rules.
    pub fn fault(&self, scope: Scope, fault: Fault) -> Result<FaultId, TooManyRules> {
        self.state().faults.add(scope, fault)
    }

    /// Takes back one rule, or all; returns how many there were.
    pub fn clear_faults(&self, id: Option<FaultId>) -> usize {
        self.state().faults.remove(id)
    }

    /// The rules in force and how often each fired.
    #[must_use]
    pub fn faults(&self) -> Vec<Rule> {
        self.state().faults.rules().to_vec()
    }

    /// Changes what is enforced from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.state().limits = limits;
    }

    /// What is enforced.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state().limits.clone()
    }

    /// Invalidates the tokens of an app, or of all apps.
    pub fn revoke_tokens(&self, app: Option<&str>) {
        self.state().tokens.revoke(app);
    }

    /// Makes a person's message known, so that it can be replied to.
    pub fn add_message(&self, message_id: &str, chat: &str) {
        self.state()
            .chats
            .add_user_message(message_id.into(), chat.into(), monotonic_us());
    }

    /// Makes `chat` the p2p chat with `user`. Chats named `oc_p2p_<user>` need no registration.
    pub fn add_p2p(&self, chat: &str, user: &str) {
        self.state().chats.add_p2p(chat.into(), user.into());
    }

    /// Puts an app into a chat or out of it (230002); apps are members of every chat until put out.
    pub fn set_member(&self, app: &str, chat: &str, member: bool) {
        self.state().chats.set_member(app, chat, member);
    }

    /// Takes back a message, as its author would: replies and patches get 230011.
    pub fn recall(&self, message_id: &str) {
        if let Some(known) = self.state().chats.message_mut(message_id) {
            known.recalled = true;
        }
    }

    /// Makes a card callback's token known. It works only after [`Sim::card_answered`].
    pub fn add_card_token(&self, token: &str, app: &str, message_id: &str) {
        let card = CardToken {
            app: app.into(),
            message_id: message_id.into(),
            issued_us: monotonic_us(),
            uses: 0,
            answered: false,
        };
        self.state().chats.add_card_token(token.into(), card);
    }

    /// The callback with this token has been answered: delayed updates may begin.
    pub fn card_answered(&self, token: &str) {
        if let Some(card) = self.state().chats.card_token_mut(token) {
            card.answered = true;
        }
    }

    /// Uuids forgotten before their hour was over, for want of room: above 0 a repeat may have shown twice.
    #[must_use]
    pub fn forgotten_uuids(&self) -> u64 {
        self.state().uuids.forgotten()
    }
}
