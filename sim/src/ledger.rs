//! What really happened: every call with its result, every message a person would see.
//!
//! The ledger keeps the newest [`crate::Options::keep`] entries of each list; totals and rolling maxima cover the whole
//! run however long it is. What it had to forget is counted, so a judgement on part of the evidence says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::bounded::{BoundedMap, Fingerprint, Fingerprints, Ring};
use crate::openapi::Api;
use crate::rolling::{MINUTE_US, Peak, RollingSet, SECOND_US};

/// Keys of one level counted exactly at one time; idle ones beyond this are folded into their maximum.
const LEVEL_KEYS: usize = 100_000;

/// The code of a call that a fault swallowed: nothing was done, no code was decided.
pub const NO_CODE: i64 = -1;

/// A message a person in the chat can see.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// Order of appearance over all chats, from 0.
    pub number: u64,
    /// `om_…`.
    pub message_id: Arc<str>,
    /// The app that sent it.
    pub app: Arc<str>,
    /// Where it appeared.
    pub chat: Arc<str>,
    /// The only reader, when the chat is a p2p chat.
    pub user: Option<Arc<str>>,
    /// The idempotency key it was sent with.
    pub uuid: Option<Arc<str>>,
    /// The message it answers.
    pub reply_to: Option<Arc<str>>,
    /// `text`, `post`, `interactive` and so on.
    pub msg_type: Arc<str>,
    /// The JSON string as sent, or as last edited.
    pub content: Arc<str>,
    /// When the request that made it arrived, monotonic microseconds.
    pub at_us: u64,
    /// When it became visible, monotonic microseconds.
    pub visible_us: u64,
    /// How often it was edited or patched since.
    pub edits: u32,
    /// Whether the app took it back.
    pub recalled: bool,
}

/// One call of the Open API by an authenticated app (or at the token endpoint), with its result.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    /// When it arrived, monotonic microseconds.
    pub at_us: u64,
    /// Which API.
    pub api: Api,
    /// The caller; empty when its token was not accepted.
    pub app: Arc<str>,
    /// The chat it acts on, when known.
    pub chat: Option<Arc<str>>,
    /// The user, when the chat is a p2p chat.
    pub user: Option<Arc<str>>,
    /// The idempotency key.
    pub uuid: Option<Arc<str>>,
    /// The message replied to, edited or reacted to.
    pub reply_to: Option<Arc<str>>,
    /// The visible message it made, or found made under its uuid.
    pub message_id: Option<Arc<str>>,
    /// What the platform decided: 0 is success, [`NO_CODE`] nothing. A fault may have answered something else, or nothing.
    pub code: i64,
    /// The fault that was in force.
    pub fault: Option<Arc<str>>,
    /// The uuid had already been used: no second message.
    pub collapsed: bool,
}

/// Counters over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Calls, the token endpoint's included.
    pub calls: u64,
    /// Messages that became visible.
    pub visible: u64,
    /// Repeats of a uuid that were answered with the first message.
    pub collapsed: u64,
    /// Distinct (app, message) pairs that got at least one visible reply.
    pub replied: u64,
    /// Visible replies beyond the first to the same message by the same app.
    pub extra_replies: u64,
    /// Visible messages beyond the first with the same uuid of the same app.
    pub repeated_uuids: u64,
    /// Calls by result code.
    pub codes: BTreeMap<i64, u64>,
    /// Calls by API.
    pub apis: BTreeMap<&'static str, u64>,
    /// Faults by name.
    pub faults: BTreeMap<Arc<str>, u64>,
}

/// A level at which calls are counted, whether or not the platform limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// All message calls of one app per second: the product's own rule.
    Bot,
    /// One API of one app per second (key `app/api`).
    App,
    /// One API of one app per minute (key `app/api`).
    AppMinute,
    /// Creates and replies into one chat per second, whoever sends them.
    Chat,
    /// Creates and replies to one person per second.
    User,
    /// Patches of one card per second.
    Card,
}

/// The record of a run.
#[derive(Debug)]
pub struct Ledger {
    calls: Ring<Call>,
    messages: Ring<Message>,
    totals: Totals,
    fingerprints: Fingerprints,
    replies: BoundedMap<u32, Fingerprint>,
    uuids: BoundedMap<u32, Fingerprint>,
    levels: [(Level, RollingSet); 6],
}

impl Ledger {
    pub(crate) fn new(keep: usize, keep_ids: usize) -> Self {
        let level = |level, window_us| (level, RollingSet::new(window_us, LEVEL_KEYS));
        Self {
            calls: Ring::new(keep),
            messages: Ring::new(keep),
            totals: Totals::default(),
            fingerprints: Fingerprints::default(),
            replies: BoundedMap::new(keep_ids),
            uuids: BoundedMap::new(keep_ids),
            levels: [
                level(Level::Bot, SECOND_US),
                level(Level::App, SECOND_US),
                level(Level::AppMinute, MINUTE_US),
                level(Level::Chat, SECOND_US),
                level(Level::User, SECOND_US),
                level(Level::Card, SECOND_US),
            ],
        }
    }

    pub(crate) fn count_arrival(&mut self, level: Level, key: &Arc<str>, at_us: u64) {
        if let Some((_, rolling)) = self.levels.iter_mut().find(|(kind, _)| *kind == level) {
            rolling.record(key, at_us);
        }
    }

    pub(crate) fn record_call(&mut self, call: Call) {
        self.totals.calls += 1;
        self.totals.collapsed += u64::from(call.collapsed);
        *self.totals.codes.entry(call.code).or_default() += 1;
        *self.totals.apis.entry(call.api.name()).or_default() += 1;
        if let Some(fault) = &call.fault {
            match self.totals.faults.get_mut(fault) {
                Some(count) => *count += 1,
                None => {
                    self.totals.faults.insert(fault.clone(), 1);
                }
            }
        }
        self.calls.push(call);
    }

    /// Makes a message visible and returns its number.
    pub(crate) fn record_message(&mut self, mut message: Message) -> u64 {
        message.number = self.messages.next_number();
        self.totals.visible += 1;
        if let Some(reply_to) = &message.reply_to {
            match count_one(&mut self.replies, self.fingerprints.of(&message.app, reply_to)) {
                1 => self.totals.replied += 1,
                _ => self.totals.extra_replies += 1,
            }
        }
        if let Some(uuid) = &message.uuid {
            self.totals.repeated_uuids +=
                u64::from(count_one(&mut self.uuids, self.fingerprints.of(&message.app, uuid)) > 1);
        }
        let number = message.number;
        self.messages.push(message);
        number
    }

    pub(crate) fn message_mut(&mut self, number: u64) -> Option<&mut Message> {
        self.messages.get_mut(number)
    }

    /// Counters over the whole run.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The remembered messages in the order they became visible.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Message> + ExactSizeIterator {
        self.messages.iter()
    }

    /// The remembered messages of one chat, in order.
    pub fn messages_in<'ledger>(&'ledger self, chat: &str) -> impl Iterator<Item = &'ledger Message> {
        self.messages.iter().filter(move |message| &*message.chat == chat)
    }

    /// The remembered calls, in the order they were decided.
    pub fn calls(&self) -> impl DoubleEndedIterator<Item = &Call> + ExactSizeIterator {
        self.calls.iter()
    }

    /// Messages the ledger had to forget: judgements by message cover only the rest.
    #[must_use]
    pub fn forgotten_messages(&self) -> u64 {
        self.messages.forgotten()
    }

    /// Calls the ledger had to forget.
    #[must_use]
    pub fn forgotten_calls(&self) -> u64 {
        self.calls.forgotten()
    }

    /// The fullest rolling window of every key of a level over the whole run, the fullest first. Every call that got
    /// past authentication counts, refused ones too: what matters is what the client let through.
    #[must_use]
    pub fn peaks(&self, level: Level) -> Vec<Peak> {
        self.levels
            .iter()
            .find(|(kind, _)| *kind == level)
            .map(|(_, rolling)| rolling.peaks())
            .unwrap_or_default()
    }

    /// The fullest window of one key; 0 when it was never called.
    #[must_use]
    pub fn peak_of(&self, level: Level, key: &str) -> usize {
        let peaks = self.peaks(level);
        peaks.iter().find(|peak| &*peak.key == key).map_or(0, |peak| peak.count)
    }

    /// How many remembered visible messages each (app, uuid) has; messages without a uuid are not in it.
    #[must_use]
    pub fn visible_per_uuid(&self) -> HashMap<(Arc<str>, Arc<str>), u32> {
        tally(self.messages(), |message| message.uuid.clone())
    }

    /// How many remembered visible replies each (app, message replied to) has.
    #[must_use]
    pub fn visible_per_reply(&self) -> HashMap<(Arc<str>, Arc<str>), u32> {
        tally(self.messages(), |message| message.reply_to.clone())
    }
}

fn count_one(counts: &mut BoundedMap<u32, Fingerprint>, key: Fingerprint) -> u32 {
    if let Some(count) = counts.get_mut(&key) {
        *count += 1;
        return *count;
    }
    counts.insert(key, 1);
    1
}

fn tally<'ledger>(
    messages: impl Iterator<Item = &'ledger Message>,
    key: impl Fn(&Message) -> Option<Arc<str>>,
) -> HashMap<(Arc<str>, Arc<str>), u32> {
    let mut counts = HashMap::new();
    for message in messages {
        if let Some(key) = key(message) {
            *counts.entry((message.app.clone(), key)).or_default() += 1;
        }
    }
    counts
}
