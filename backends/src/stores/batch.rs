//! How a batch of changes is laid out for SQL.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey};
use openclaw_common::outside;
use openclaw_common::priority::Priority;
use openclaw_common::store::{ActionOutcome, ActionState, Arrival, Change, Intent, NewAction, State, Step};

/// No due time is further away than this (a hundred years): both databases can add it to their clock.
const FAR: i64 = 100 * 365 * 24 * 3600 * 1000;

/// No time of acceptance is later than this (the year 9999): what a broken clock says must not fail a whole batch.
const LATEST_MS: i64 = 253_402_300_799_999;

/// The type of events whose key is a `message_id`: one of them may be a message that we sent.
macro_rules! message_type {
    () => {
        "im.message.receive_v1"
    };
}
pub(super) use message_type;

/// A name as both databases can store it: PostgreSQL has no NUL in text, and one odd event must not fail a whole batch.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// An error's sentence as both databases store it: whatever it was made of, it is short and on one line.
pub(super) fn sentence(error: &str) -> Cow<'_, str> {
    let is_fit = error.len() <= outside::SENTENCE && !error.contains(outside::breaks_out);
    if is_fit {
        Cow::Borrowed(error)
    } else {
        Cow::Owned(outside::sentence(error))
    }
}

/// A key as stored.
pub(super) type Name<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The stored form of a key.
pub(super) fn name(key: &EventKey) -> Name<'_> {
    (clean(&key.app_id), clean(&key.key))
}

/// Whole milliseconds, at most a hundred years.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).map_or(FAR, |ms| ms.min(FAR))
}

/// When ingest accepted it, as a time that databases can store.
pub(super) fn received_ms(envelope: &Envelope) -> i64 {
    envelope.received_ms.clamp(0, LATEST_MS)
}

/// The distinct events of a batch.
pub(super) struct Distinct<'a, T> {
    /// First copies, in the input's order.
    pub(super) firsts: Vec<(Name<'a>, &'a T)>,
    /// For every input, whether it is a first copy.
    pub(super) is_first: Vec<bool>,
}

/// Finds the distinct events of a batch: no statement may meet a row twice.
pub(super) fn distinct<'a, T>(items: &'a [T], envelope: impl Fn(&'a T) -> &'a Envelope) -> Distinct<'a, T> {
    let mut seen: HashSet<Name<'a>> = HashSet::with_capacity(items.len());
    let mut result = Distinct {
        firsts: Vec::with_capacity(items.len()),
        is_first: Vec::with_capacity(items.len()),
    };
    for item in items {
        let name = name(&envelope(item).key);
        let is_first = seen.insert(name.clone());
        result.is_first.push(is_first);
        if is_first {
            result.firsts.push((name, item));
        }
    }
    result
}

/// For each event of a batch that is to be parked: which other parked one of its chat speaks for it, the first of the most
/// urgent. The batch's rows do not see each other while they are written.
pub(super) fn speakers(firsts: &[(Name<'_>, &Arrival)]) -> Vec<Option<usize>> {
    let mut speakers: HashMap<(&BotId, &str), (Priority, usize)> = HashMap::new();
    let parked = |arrival: &Arrival| {
        let envelope = &arrival.envelope;
        (arrival.intent == Intent::Park).then(|| Priority::of(envelope, 0))
    };
    for (place, (_, arrival)) in firsts.iter().enumerate() {
        if let Some(priority) = parked(arrival) {
            let chat = (&arrival.envelope.bot, &*arrival.envelope.chat);
            let speaker = speakers.entry(chat).or_insert((priority, place));
            *speaker = (*speaker).min((priority, place));
        }
    }
    let speaker = |(place, (_, arrival)): (usize, &(Name<'_>, &Arrival))| {
        parked(arrival)?;
        let (_, speaker) = speakers.get(&(&arrival.envelope.bot, &*arrival.envelope.chat))?;
        (*speaker != place).then_some(*speaker)
    };
    firsts.iter().enumerate().map(speaker).collect()
}

/// One change, as columns of one update that serves every kind of step.
pub(super) struct Patch<'a> {
    /// Where the change stands in the input.
    pub(super) place: usize,
    /// Which event.
    pub(super) name: Name<'a>,
    /// The fence it was taken up with.
    pub(super) fence: i64,
    /// Whether it applies to a `received` row.
    pub(super) from_received: bool,
    /// Whether it applies to a `planned` row.
    pub(super) from_planned: bool,
    /// The state it leads to; `None` leaves it. A row that has this state (and plan) under our own fence has it from this
    /// very change, whose answer was lost: it counts as applied.
    pub(super) target: Option<State>,
    /// Counts a handler start.
    pub(super) starts: bool,
    /// The plan to store.
    pub(super) plan: Option<&'a [u8]>,
    /// Finished tries.
    pub(super) attempt: Option<i32>,
    /// Due so many milliseconds from now.
    pub(super) due_ms: Option<i64>,
    /// Whether later events wait behind it.
    pub(super) hold: Option<bool>,
    /// Class, code and sentence of a failure.
    pub(super) class: Option<&'static str>,
    /// Feishu's code.
    pub(super) code: Option<i64>,
    /// One sentence.
    pub(super) error: Option<Cow<'a, str>>,
    /// Actions of a new plan.
    pub(super) new_actions: &'a [NewAction],
    /// What became of actions.
    pub(super) outcomes: Vec<Outcome<'a>>,
}

/// What became of an action, or that it is about to be tried.
pub(super) struct Outcome<'a> {
    /// Its place in the plan.
    pub(super) index: i32,
    /// Its new state; `None`: a try begins.
    pub(super) state: Option<ActionState>,
    /// Feishu's id of the message.
    pub(super) message_id: Option<Cow<'a, str>>,
    /// Feishu's code.
    pub(super) code: Option<i64>,
    /// Whether no copy can exist. A try that begins clears it: its own outcome is open.
    pub(super) refused: bool,
    /// Tries to add.
    pub(super) tries: i32,
    /// A new uuid, whose first try is now.
    pub(super) uuid: Option<&'a str>,
    /// The member of a pool that was chosen.
    pub(super) sender: Option<&'a str>,
}

/// A count as the databases keep it.
pub(super) fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

impl<'a> Outcome<'a> {
    fn of(outcome: &'a ActionOutcome) -> Self {
        Self {
            index: count(outcome.index),
            state: Some(outcome.state),
            message_id: outcome.message_id.as_deref().map(clean),
            code: outcome.code,
            refused: outcome.refused,
            tries: count(outcome.tries),
            uuid: None,
            sender: None,
        }
    }

    /// A try begins.
    fn tried(index: u32, uuid: Option<&'a str>) -> Self {
        Self {
            index: count(index),
            state: None,
            message_id: None,
            code: None,
            refused: false,
            tries: 1,
            uuid,
            sender: None,
        }
    }
}

/// Splits a batch into waves in which every event occurs once: the n-th change of an event goes into the n-th wave, so
/// changes of one event are applied in their order. Nearly always there is one wave.
pub(super) fn waves(changes: &[Change]) -> Vec<Vec<Patch<'_>>> {
    let mut waves: Vec<Vec<Patch<'_>>> = Vec::new();
    let mut seen: HashMap<&EventKey, usize> = HashMap::with_capacity(changes.len());
    for (place, change) in changes.iter().enumerate() {
        let turn = seen.entry(&change.key).and_modify(|turn| *turn += 1).or_insert(0);
        if waves.len() == *turn {
            waves.push(Vec::with_capacity(if *turn == 0 { changes.len() } else { 1 }));
        }
        waves[*turn].push(patch(place, change));
    }
    waves
}

/// The one table of which step applies where and what it does.
fn patch(place: usize, change: &Change) -> Patch<'_> {
    let mut patch = Patch {
        place,
        name: name(&change.key),
        fence: change.fence,
        from_received: true,
        from_planned: true,
        target: None,
        starts: false,
        plan: None,
        attempt: None,
        due_ms: None,
        hold: None,
        class: None,
        code: None,
        error: None,
        new_actions: &[],
        outcomes: Vec::new(),
    };
    match &change.step {
        Step::Start => {
            patch.from_planned = false;
            patch.starts = true;
        }
        Step::Fail { attempt, error } => {
            patch.from_planned = false;
            patch.attempt = Some(count(*attempt));
            patch.class = Some("handler");
            patch.error = Some(sentence(error));
        }
        Step::Plan { plan, actions } => {
            patch.from_planned = false;
            patch.target = Some(State::Planned);
            patch.plan = Some(plan);
            patch.new_actions = actions;
        }
        Step::Try { index } => {
            patch.from_received = false;
            patch.outcomes.push(Outcome::tried(*index, None));
        }
        Step::Renew { index, uuid } => {
            patch.from_received = false;
            patch.outcomes.push(Outcome::tried(*index, Some(uuid)));
        }
        Step::Choose { index, sender } => {
            patch.from_received = false;
            patch.outcomes.push(Outcome {
                sender: Some(sender),
                ..Outcome::tried(*index, None)
            });
        }
        Step::Progress(outcomes) => {
            patch.from_received = false;
            patch.outcomes.extend(outcomes.iter().map(Outcome::of));
        }
        Step::Finish(outcomes) => {
            patch.target = Some(State::Done);
            patch.outcomes.extend(outcomes.iter().map(Outcome::of));
        }
        Step::Wait(wait) => {
            patch.target = Some(State::Waiting);
            patch.attempt = Some(count(wait.attempt));
            patch.due_ms = Some(millis(wait.due_in));
            patch.hold = Some(wait.hold);
            if let Some((class, code, error)) = &wait.failure {
                patch.class = Some(class);
                patch.code = *code;
                patch.error = Some(sentence(error));
            }
            patch.outcomes.extend(wait.actions.iter().map(Outcome::of));
        }
        Step::Die {
            actions,
            class,
            code,
            error,
        } => {
            patch.target = Some(State::Dead);
            patch.class = Some(class);
            patch.code = *code;
            patch.error = Some(sentence(error));
            patch.outcomes.extend(actions.iter().map(Outcome::of));
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, step: Step) -> Change {
        Change {
            key: EventKey::new("app", key),
            fence: 1,
            step,
        }
    }

    #[test]
    fn changes_of_one_event_keep_their_order_across_waves() {
        let changes = [
            change("a", Step::Start),
            change("b", Step::Start),
            change("a", Step::Try { index: 0 }),
            change("a", Step::Finish(Vec::new())),
        ];
        let places: Vec<Vec<usize>> = waves(&changes)
            .iter()
            .map(|wave| wave.iter().map(|patch| patch.place).collect())
            .collect();
        assert_eq!(places, [vec![0, 1], vec![2], vec![3]]);
    }

    #[test]
    fn an_error_is_stored_short_and_on_one_line() {
        assert_eq!(sentence("as it is"), "as it is");
        let long = format!("no\n{}", "帮".repeat(1_000_000));
        let patches = waves(&[
            change(
                "a",
                Step::Fail {
                    attempt: 1,
                    error: long.clone(),
                },
            ),
            change(
                "b",
                Step::Die {
                    actions: Vec::new(),
                    class: "handler",
                    code: None,
                    error: long,
                },
            ),
        ])
        .into_iter()
        .flatten()
        .filter_map(|patch| patch.error.map(Cow::into_owned))
        .collect::<Vec<_>>();
        assert_eq!(patches.len(), 2);
        for error in patches {
            assert!(
                error.starts_with("no 帮") && error.chars().count() <= outside::SENTENCE + 1,
                "{error}"
            );
        }
    }

    #[test]
    fn a_name_never_carries_nul_and_is_else_untouched() {
        assert_eq!(clean("om_1"), "om_1");
        assert_eq!(clean("a\0b"), "a\u{fffd}b");
    }
}
