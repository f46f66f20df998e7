//! The judgement: what the pusher was promised against what the chats show.
//!
//! *Lost*: answered 200, wanted a reply, and no reply is visible. *Doubled*: more visible replies than one event is
//! owed, or more than one visible message under one uuid. *Garbled*: an echo that says something else. *Disordered*: event B's first attempt began after event A of
//! the same chat had its 200, yet B was answered first; where two events overlapped, either order is right. *Over quota*:
//! a rolling window with more calls than allowed, measured at arrival, refused calls included.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::ledger::{Ledger, Level, Message};
use crate::push::{PushLog, Pushed, content_hash};
use crate::rolling::Peak;

/// Findings of one kind that a printed report shows.
const SHOWN: usize = 5;

/// What a run must keep to.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// Visible replies each event that wants one is owed by each app.
    pub replies: u32,
    /// Message keys that may stay without a reply: what the run was meant to kill, by dead letter.
    pub excused: HashSet<Arc<str>>,
    /// Whether a reply must have exactly the content of the message it answers.
    pub echo: bool,
    /// Whether replies of a chat must come in order.
    pub order: bool,
    /// At most this many calls in a rolling window (a second, or a minute for [`Level::AppMinute`]) of each key.
    pub quotas: Vec<(Level, u32)>,
}

impl Default for Expectations {
    /// One reply each, in order, and five a second at every level that has such a rule.
    fn default() -> Self {
        let five = [Level::Bot, Level::Chat, Level::User, Level::Card].map(|level| (level, 5));
        Self {
            replies: 1,
            excused: HashSet::new(),
            echo: false,
            order: true,
            quotas: five
                .into_iter()
                .chain([(Level::App, 50), (Level::AppMinute, 1000)])
                .collect(),
        }
    }
}

/// An event that was accepted and never answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The app it was for.
    pub app: Arc<str>,
    /// Where the answer is missing.
    pub chat: Arc<str>,
    /// The event.
    pub key: Arc<str>,
    /// How many replies are visible, fewer than owed.
    pub visible: u32,
}

/// Something visible more often than it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubled {
    /// The app that sent it.
    pub app: Arc<str>,
    /// The message replied to, or the uuid.
    pub key: Arc<str>,
    /// How often it is visible.
    pub visible: u32,
    /// Counted by uuid; else by the message replied to.
    pub by_uuid: bool,
}

/// An echo that is not what was said: a reply to one message with the content of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbled {
    /// The chat.
    pub chat: Arc<str>,
    /// The message that was answered.
    pub key: Arc<str>,
    /// The visible reply.
    pub reply: Arc<str>,
}

/// An event answered after one that was pushed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disordered {
    /// The chat.
    pub chat: Arc<str>,
    /// The event that was overtaken.
    pub key: Arc<str>,
    /// The one that overtook it.
    pub overtaken_by: Arc<str>,
}

/// A rolling window with too many calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverQuota {
    /// Which rule.
    pub level: Level,
    /// What it allows.
    pub limit: u32,
    /// Whose window, how full and when.
    pub peak: Peak,
}

/// The verdict on a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Events accepted with a 200.
    pub accepted: u64,
    /// Events that were given up: the receiver never said 200. No promise was made for these.
    pub given_up: u64,
    /// Accepted events that were owed a reply.
    pub owed: u64,
    /// Messages visible in all chats.
    pub visible: u64,
    /// Accepted events without their reply that were excused.
    pub excused: u64,
    /// Accepted events without their reply.
    pub lost: Vec<Lost>,
    /// Visible more than once.
    pub doubled: Vec<Doubled>,
    /// Answered with something else than what was said; judged only where an echo is expected.
    pub garbled: Vec<Garbled>,
    /// Answered in the wrong order.
    pub disordered: Vec<Disordered>,
    /// Too much in one window.
    pub over_quota: Vec<OverQuota>,
    /// The fullest window of each level that has a rule.
    pub fullest: Vec<(Level, u32, Option<Peak>)>,
    /// Why the evidence does not cover the whole run; then losses and doubles are judged from totals.
    pub incomplete: Option<Incomplete>,
}

/// The run outgrew what the ledger or the push log keep singly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// Pushed events forgotten.
    pub events: u64,
    /// Visible messages forgotten.
    pub messages: u64,
    /// Uuids forgotten inside their hour: a repeat of one of these would have shown twice, as an extra reply.
    pub uuids: u64,
    /// Owed replies minus replied messages over the whole run: above 0 is a loss.
    pub missing: i64,
    /// Extra replies and repeated uuids over the whole run.
    pub extra: u64,
}

impl Report {
    /// Whether nothing was lost, doubled, disordered or over quota.
    #[must_use]
    pub fn passed(&self) -> bool {
        let totals_agree = self
            .incomplete
            .is_none_or(|part| part.extra == 0 && part.missing <= i64::try_from(self.excused).unwrap_or(i64::MAX));
        totals_agree
            && self.lost.is_empty()
            && self.doubled.is_empty()
            && self.garbled.is_empty()
            && self.disordered.is_empty()
            && self.over_quota.is_empty()
    }
}

/// Judges a run once it has come to rest. Reads the whole ledger; call it when the load is over.
#[must_use]
pub fn check(pushed: &PushLog, ledger: &Ledger, forgotten_uuids: u64, expected: &Expectations) -> Report {
    let totals = pushed.totals();
    let mut report = Report {
        accepted: totals.accepted,
        given_up: totals.given_up,
        owed: totals.owed,
        visible: ledger.totals().visible,
        ..Report::default()
    };
    let per_reply = ledger.visible_per_reply();
    let complete = pushed.forgotten() == 0 && ledger.forgotten_messages() == 0 && forgotten_uuids == 0;
    count_replies(pushed, &per_reply, complete, expected, &mut report);
    report.doubled.extend(doubled(per_reply, expected.replies, false));
    report.doubled.extend(doubled(ledger.visible_per_uuid(), 1, true));
    report.doubled.sort_by(|left, right| left.key.cmp(&right.key));
    if expected.echo {
        report.garbled = garbled(pushed, ledger);
    }
    if expected.order {
        report.disordered = disordered(pushed, ledger);
    }
    for (level, limit) in &expected.quotas {
        let peaks = ledger.peaks(*level);
        report.fullest.push((*level, *limit, peaks.first().cloned()));
        let over = peaks.into_iter().filter(|peak| peak.count > *limit as usize);
        report.over_quota.extend(over.map(|peak| OverQuota {
            level: *level,
            limit: *limit,
            peak,
        }));
    }
    if !complete {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let seen = ledger.totals();
        report.incomplete = Some(Incomplete {
            events: pushed.forgotten(),
            messages: ledger.forgotten_messages(),
            uuids: forgotten_uuids,
            missing: signed(totals.owed).saturating_sub(signed(seen.replied)),
            extra: seen.repeated_uuids + if expected.replies == 1 { seen.extra_replies } else { 0 },
        });
    }
    report
}

type Counts = HashMap<(Arc<str>, Arc<str>), u32>;

fn count_replies(pushed: &PushLog, visible: &Counts, complete: bool, expected: &Expectations, report: &mut Report) {
    let mut judged = HashSet::new();
    for event in pushed
        .events()
        .filter(|event| event.wants_reply && event.accepted_us.is_some())
    {
        let key = (event.app.clone(), event.key.clone());
        let count = visible.get(&key).copied().unwrap_or(0);
        // A message pushed twice over is owed one reply; report it once.
        if count >= expected.replies || !judged.insert(key) {
            continue;
        }
        if expected.excused.contains(&event.key) {
            report.excused += 1;
        } else if complete {
            report.lost.push(Lost {
                app: event.app.clone(),
                chat: event.chat.clone(),
                key: event.key.clone(),
                visible: count,
            });
        }
    }
}

fn doubled(counts: Counts, allowed: u32, by_uuid: bool) -> impl Iterator<Item = Doubled> {
    counts
        .into_iter()
        .filter(move |(_, visible)| *visible > allowed)
        .map(move |((app, key), visible)| Doubled {
            app,
            key,
            visible,
            by_uuid,
        })
}

fn garbled(pushed: &PushLog, ledger: &Ledger) -> Vec<Garbled> {
    let said: HashMap<(&str, &str), u64> = pushed
        .events()
        .filter_map(|event| Some(((&*event.app, &*event.key), event.content?)))
        .collect();
    let differs = |message: &&Message| {
        let key = message.reply_to.as_deref().unwrap_or_default();
        // An edited message shows what it was edited to.
        let heard = (message.edits == 0).then(|| content_hash(&message.content));
        match (said.get(&(&*message.app, key)), heard) {
            (Some(said), Some(heard)) => *said != heard,
            _ => false,
        }
    };
    let found = ledger.messages().filter(differs).map(|message| Garbled {
        chat: message.chat.clone(),
        key: message.reply_to.clone().unwrap_or_default(),
        reply: message.message_id.clone(),
    });
    found.collect()
}

/// Walks each chat's replies as they appeared. Of those already seen, the one whose first attempt began last is the one
/// that can have overtaken the next: if that attempt began after the next one's 200, it did.
fn disordered(pushed: &PushLog, ledger: &Ledger) -> Vec<Disordered> {
    let mut events: HashMap<(&str, &str), (u64, Option<u64>)> = HashMap::new();
    for event in pushed.events() {
        // The same message pushed by several calls: its earliest attempt and earliest 200 count.
        let story = events
            .entry((&event.app, &event.key))
            .or_insert((event.begun_us, event.accepted_us));
        story.0 = story.0.min(event.begun_us);
        story.1 = earliest(story.1, event);
    }
    let mut latest: HashMap<(&str, &str), (u64, &Arc<str>)> = HashMap::new();
    let mut answered: HashSet<(&str, &str)> = HashSet::new();
    let mut found = Vec::new();
    for message in ledger.messages() {
        let Message {
            app,
            chat,
            reply_to: Some(key),
            ..
        } = message
        else {
            continue;
        };
        let Some((begun_us, accepted_us)) = events.get(&(&**app, &**key)).copied() else {
            continue;
        };
        // Only an event's first answer has a place in the order.
        if !answered.insert((app, key)) {
            continue;
        }
        let seen = latest.entry((app, chat)).or_insert((begun_us, key));
        if accepted_us.is_some_and(|accepted_us| seen.0 >= accepted_us) && seen.1 != key {
            found.push(Disordered {
                chat: chat.clone(),
                key: key.clone(),
                overtaken_by: seen.1.clone(),
            });
        }
        if begun_us > seen.0 {
            *seen = (begun_us, key);
        }
    }
    found
}

fn earliest(known: Option<u64>, event: &Pushed) -> Option<u64> {
    match (known, event.accepted_us) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            given_up,
            owed,
            visible,
            excused,
            ..
        } = self;
        writeln!(
            formatter,
            "events accepted   {accepted} ({given_up} given up), {owed} owed a reply"
        )?;
        writeln!(formatter, "messages visible  {visible}")?;
        findings(formatter, "lost", &self.lost, |lost| {
            format!("{} in {} ({})", lost.key, lost.chat, lost.app)
        })?;
        if *excused > 0 {
            writeln!(formatter, "excused           {excused}")?;
        }
        findings(formatter, "doubled", &self.doubled, |doubled| {
            let what = if doubled.by_uuid { "uuid" } else { "reply to" };
            format!("{what} {}: {} times ({})", doubled.key, doubled.visible, doubled.app)
        })?;
        findings(formatter, "garbled", &self.garbled, |garbled| {
            format!("{} in {}, by {}", garbled.key, garbled.chat, garbled.reply)
        })?;
        findings(formatter, "out of order", &self.disordered, |disorder| {
            format!("{} after {} in {}", disorder.key, disorder.overtaken_by, disorder.chat)
        })?;
        findings(formatter, "over quota", &self.over_quota, |over| {
            format!(
                "{:?} {}: {} calls, {} allowed",
                over.level, over.peak.key, over.peak.count, over.limit
            )
        })?;
        for (level, limit, peak) in &self.fullest {
            if let Some(peak) = peak {
                let unit = if *level == Level::AppMinute { "minute" } else { "second" };
                let name = format!("{level:?}").to_lowercase();
                let Peak { key, count, .. } = peak;
                writeln!(formatter, "fullest {unit}    {name}: {count} of {limit} ({key})")?;
            }
        }
        if let Some(part) = &self.incomplete {
            let Incomplete {
                events,
                messages,
                uuids,
                missing,
                extra,
            } = part;
            writeln!(
                formatter,
                "judged by totals  {events} events, {messages} messages, {uuids} uuids forgotten; \
                 {missing} replies missing, {extra} too many"
            )?;
        }
        write!(
            formatter,
            "verdict           {}",
            if self.passed() { "passed" } else { "FAILED" }
        )
    }
}

fn findings<T>(
    formatter: &mut fmt::Formatter<'_>,
    name: &str,
    found: &[T],
    show: impl Fn(&T) -> String,
) -> fmt::Result {
    writeln!(formatter, "{name:<17} {}", found.len())?;
    for finding in found.iter().take(SHOWN) {
        writeln!(formatter, "    {}", show(finding))?;
    }
    if found.len() > SHOWN {
        writeln!(formatter, "    and {} more", found.len() - SHOWN)?;
    }
    Ok(())
}
