//! Rows as both databases return them, and how they become the contract's types.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::priority::Priority;
use openclaw_common::seal::Part;
use openclaw_common::store::{
    ActionReport, ActionRow, ActionState, Arrival, Begun, Behind, Calls, DeadLetter, Inspection, Row, Spent, Standing,
    State, Stop, Stopped, StoreError, StoredPart,
};

use super::batch::Distinct;

/// An event's row, taken up.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct EventRecord {
    pub(super) app_id: String,
    pub(super) key: String,
    bot: String,
    pub(super) chat: String,
    event_type: String,
    /// `None` in a row of an older program.
    origin: Option<i64>,
    tenant: String,
    happened_ms: i64,
    received_ms: i64,
    traceparent: Option<String>,
    pub(super) state: String,
    fence: i64,
    pub(super) position: i64,
    attempt: i64,
    replay_gen: i64,
    handler_starts: i64,
    age_ms: i64,
    hold: bool,
    pub(super) plan: Option<Vec<u8>>,
    /// `None` for a row that this call created: its body is the caller's own.
    body: Option<Vec<u8>>,
}

/// One action of a taken row.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct ActionRecord {
    /// Which of the asked events it belongs to, from 0.
    pub(super) place: i64,
    idx: i64,
    state: String,
    tried_ms_ago: Option<i64>,
    refused: bool,
    uuid: String,
    message_id: Option<String>,
    sender: Option<String>,
}

/// How an event stands.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct StandingRecord {
    app_id: String,
    key: String,
    state: String,
    attempt: i64,
    replay_gen: i64,
    due_in_ms: Option<i64>,
}

/// A body or plan, and what is authenticated with it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct PartRecord {
    app_id: String,
    key: String,
    bot: String,
    chat: String,
    event_type: String,
    /// `None` in a row of an older program.
    origin: Option<i64>,
    tenant: String,
    is_plan: bool,
    bytes: Vec<u8>,
}

/// One action of an inspected event.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct ReportRecord {
    idx: i64,
    kind: String,
    target: String,
    uuid: String,
    state: String,
    tries: i64,
    code: Option<i64>,
    message_id: Option<String>,
    sender: Option<String>,
    first_tried_ms: Option<i64>,
    sent_ms: Option<i64>,
}

/// A dead letter.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct DeadRecord {
    id: i64,
    app_id: String,
    key: String,
    bot: String,
    chat: String,
    class: String,
    code: Option<i64>,
    error: String,
    attempts: i64,
    replay_gen: i64,
    created_ms: i64,
    died_ms: i64,
    replayed_ms: Option<i64>,
    resolved_ms: Option<i64>,
}

impl EventRecord {
    /// The contract's row; `given` is the caller's envelope of a row it created.
    pub(super) fn into_row(self, given: Option<&Arc<Envelope>>, actions: Vec<ActionRow>) -> Result<Row, StoreError> {
        let envelope = match (self.body, given) {
            (Some(body), _) => Arc::new(Envelope {
                origin: origin(self.origin, &self.event_type)?,
                key: EventKey::new(self.app_id, self.key),
                bot: bot(&self.bot)?,
                event_type: self.event_type.into(),
                chat: self.chat.into(),
                tenant: self.tenant.into(),
                created_ms: self.happened_ms,
                received_ms: self.received_ms,
                traceparent: self.traceparent.map(Into::into),
                body: Bytes::from(body),
            }),
            (None, Some(given)) => Arc::clone(given),
            (None, None) => {
                return Err(StoreError::Internal(format!(
                    "event {}:{} has no body",
                    self.app_id, self.key
                )));
            }
        };
        Ok(Row {
            envelope,
            fence: self.fence,
            position: self.position,
            // Whoever takes a row up again raises its fence above 1.
            new: self.fence == 1,
            attempt: number(self.attempt)?,
            replay_generation: number(self.replay_gen)?,
            handler_starts: number(self.handler_starts)?,
            age_ms: self.age_ms,
            held: self.hold,
            plan: self.plan.map(Bytes::from),
            actions,
        })
    }
}

/// The answers to a batch of arrivals, from the rows that were created or whose fence was raised.
///
/// What was not touched is settled. So is a second copy in one batch: its row is committed and the first copy's holder
/// owns it, so the copy may be acknowledged; taking it up again would take the row from the first one.
pub(super) fn answers(
    arrivals: &[Arrival],
    batch: &Distinct<'_, Arrival>,
    events: Vec<EventRecord>,
    actions: Vec<ActionRecord>,
) -> Result<Vec<Begun>, StoreError> {
    let actions = group(actions, events.len())?;
    let mut taken: HashMap<(String, String), (EventRecord, Vec<ActionRow>)> = HashMap::with_capacity(events.len());
    for (event, actions) in events.into_iter().zip(actions) {
        taken.insert((event.app_id.clone(), event.key.clone()), (event, actions));
    }
    let mut firsts = batch.firsts.iter();
    let mut answers = Vec::with_capacity(arrivals.len());
    for (arrival, is_first) in arrivals.iter().zip(&batch.is_first) {
        let first = if *is_first { firsts.next() } else { None };
        let found = first.and_then(|((app_id, key), _)| taken.remove(&(app_id.to_string(), key.to_string())));
        answers.push(match found {
            None => Begun::Settled { parked: false },
            Some((event, _)) if event.state == State::Waiting.as_str() => Begun::Settled { parked: true },
            Some((event, _)) if event.state == State::Done.as_str() => Begun::Ours,
            Some((event, actions)) => Begun::Taken(event.into_row(Some(&arrival.envelope), actions)?),
        });
    }
    Ok(answers)
}

/// Joins events, in their order, with their actions.
pub(super) fn rows(events: Vec<EventRecord>, actions: Vec<ActionRecord>) -> Result<Vec<Row>, StoreError> {
    let actions = group(actions, events.len())?;
    events
        .into_iter()
        .zip(actions)
        .map(|(event, actions)| event.into_row(None, actions))
        .collect()
}

/// Actions by the place of their event, `events` lists in all.
fn group(actions: Vec<ActionRecord>, events: usize) -> Result<Vec<Vec<ActionRow>>, StoreError> {
    let mut by_event = vec![Vec::new(); events];
    for record in actions {
        let place = usize::try_from(record.place)
            .ok()
            .and_then(|place| by_event.get_mut(place));
        place
            .ok_or_else(|| StoreError::Internal("an action of no event".to_owned()))?
            .push(ActionRow {
                index: number(record.idx)?,
                state: action_state(&record.state)?,
                first_tried_ms_ago: record.tried_ms_ago,
                refused_before: record.refused,
                uuid: record.uuid,
                message_id: record.message_id,
                sender: record.sender,
            });
    }
    Ok(by_event)
}

impl PartRecord {
    /// The contract's part.
    pub(super) fn into_part(self) -> Result<StoredPart, StoreError> {
        Ok(StoredPart {
            event: Envelope {
                origin: origin(self.origin, &self.event_type)?,
                key: EventKey::new(self.app_id, self.key),
                bot: bot(&self.bot)?,
                event_type: self.event_type.into(),
                chat: self.chat.into(),
                tenant: self.tenant.into(),
                created_ms: 0,
                received_ms: 0,
                traceparent: None,
                body: Bytes::new(),
            },
            part: if self.is_plan { Part::Plan } else { Part::Body },
            bytes: self.bytes.into(),
        })
    }
}

impl DeadRecord {
    /// The contract's dead letter.
    pub(super) fn into_letter(self) -> Result<DeadLetter, StoreError> {
        Ok(DeadLetter {
            id: self.id,
            key: EventKey::new(self.app_id, self.key),
            bot: bot(&self.bot)?,
            chat: self.chat,
            class: self.class,
            code: self.code,
            error: self.error,
            attempts: number(self.attempts)?,
            replay_generation: number(self.replay_gen)?,
            created_ms: self.created_ms,
            died_ms: self.died_ms,
            replayed_ms: self.replayed_ms,
            resolved_ms: self.resolved_ms,
        })
    }
}

impl StandingRecord {
    /// The contract's standing, with its key.
    pub(super) fn into_standing(self) -> Result<(EventKey, Standing), StoreError> {
        let standing = Standing {
            state: state(&self.state)?,
            attempt: number(self.attempt)?,
            replay_generation: number(self.replay_gen)?,
            due_in: self
                .due_in_ms
                .map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))),
        };
        Ok((EventKey::new(self.app_id, self.key), standing))
    }
}

/// The contract's inspection of an event.
pub(super) fn inspection(event: EventRecord, actions: Vec<ReportRecord>) -> Result<Inspection, StoreError> {
    let state = state(&event.state)?;
    let row = event.into_row(None, Vec::new())?;
    let report = |record: ReportRecord| {
        Ok(ActionReport {
            index: number(record.idx)?,
            kind: record.kind,
            target: record.target,
            uuid: record.uuid,
            state: action_state(&record.state)?,
            tries: number(record.tries)?,
            code: record.code,
            message_id: record.message_id,
            sender: record.sender,
            first_tried_ms: record.first_tried_ms,
            sent_ms: record.sent_ms,
        })
    };
    Ok(Inspection {
        envelope: row.envelope,
        state,
        plan: row.plan,
        actions: actions.into_iter().map(report).collect::<Result<_, StoreError>>()?,
    })
}

fn state(name: &str) -> Result<State, StoreError> {
    State::parse(name).ok_or_else(|| StoreError::Internal(format!("`{name}` is no event state")))
}

fn action_state(name: &str) -> Result<ActionState, StoreError> {
    ActionState::parse(name).ok_or_else(|| StoreError::Internal(format!("`{name}` is no action state")))
}

/// A chat, its holding rows, their most urgent priority, the position of the first that is no replay, and whether all are
/// covered.
pub(super) type HeldRecord = (String, i64, i64, Option<i64>, bool);

/// What waits behind each chat.
pub(super) fn behind(rows: impl Iterator<Item = HeldRecord>) -> HashMap<Arc<str>, Behind> {
    rows.map(|(chat, rows, priority, first, _)| {
        let behind = Behind {
            rows: rows.unsigned_abs(),
            priority: Priority::from_number(priority),
            first,
        };
        (Arc::from(chat), behind)
    })
    .collect()
}

/// A stored bot id.
pub(super) fn bot(name: &str) -> Result<BotId, StoreError> {
    BotId::new(name).map_err(|error| StoreError::Internal(error.to_string()))
}

/// A stored origin.
fn origin(number: Option<i64>, event_type: &str) -> Result<Origin, StoreError> {
    match number {
        None => Ok(Origin::of_older(event_type)),
        Some(number) => Origin::from_number(number)
            .ok_or_else(|| StoreError::Internal(format!("{number} is no origin of an event that this program knows"))),
    }
}

/// A stored count.
pub(super) fn number(value: i64) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Internal(format!("{value} is no count")))
}

/// A stopped tenant: itself, its bot, the code, the sentence, since when.
pub(super) type StopRecord = (String, String, i64, String, i64);
/// A month's calls: whose, of what kind, how many.
pub(super) type CallsRecord = (String, String, i64);

/// A stopped tenant.
pub(super) fn stopped((tenant, bot, code, error, since_ms): StopRecord) -> Stopped {
    let stop = Stop {
        tenant,
        bot,
        code,
        error,
    };
    Stopped { stop, since_ms }
}

/// A month's calls.
pub(super) fn spent(now_ms: i64, rows: Vec<CallsRecord>) -> Spent {
    let calls = rows.into_iter().map(|(tenant, kind, count)| Calls {
        tenant,
        kind,
        count: count.unsigned_abs(),
    });
    Spent {
        now_ms,
        calls: calls.collect(),
    }
}
