//! What a replay does to each dead letter, decided once for both databases.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::batch::millis;
use openclaw_common::action_uuid::action_uuid;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{Replay, Replayed, UnknownChoice};

/// Dead letters of one transaction: small enough that nobody waits long for a lock.
pub(super) const CHUNK: usize = 100;

/// Replays an event goes through before `force` is needed.
const MOST_REPLAYS: i64 = 3;

/// An open dead letter whose event is dead, locked.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) class: String,
    pub(super) app_id: String,
    pub(super) key: String,
    pub(super) replay_gen: i64,
    pub(super) bot: String,
}

/// An action of a candidate whose outcome is unknown.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct UnknownAction {
    /// Which candidate, from 0.
    pub(super) place: i64,
    pub(super) idx: i64,
    pub(super) kind: String,
}

/// An event that will be tried again.
pub(super) struct Revival {
    /// Its dead letter.
    pub(super) id: i64,
    pub(super) app_id: String,
    pub(super) key: String,
    /// From now.
    pub(super) due_ms: i64,
}

/// An unknown action that a person has decided on.
pub(super) struct Decision {
    pub(super) app_id: String,
    pub(super) key: String,
    pub(super) idx: i64,
    /// To be sent again under this uuid; `None`: taken as sent.
    pub(super) uuid: Option<String>,
}

/// The work of one transaction.
#[derive(Default)]
pub(super) struct Revivals {
    pub(super) events: Vec<Revival>,
    pub(super) decisions: Vec<Decision>,
    /// For the answer.
    pub(super) classes: HashMap<String, u64>,
}

/// Decides on one chunk. `before` events of this order were revived in earlier chunks; `last_due_ms` is when the last event
/// that a replay has left waiting for these bots is due, from now.
pub(super) fn decide(
    order: &Replay,
    ids: &[i64],
    before: u64,
    last_due_ms: Option<i64>,
    mut candidates: Vec<Candidate>,
    unknown: Vec<UnknownAction>,
) -> Revivals {
    let mut open: HashMap<usize, Vec<UnknownAction>> = HashMap::new();
    for action in unknown {
        if let Ok(place) = usize::try_from(action.place) {
            open.entry(place).or_default().push(action);
        }
    }
    let turn: HashMap<i64, usize> = ids.iter().enumerate().map(|(turn, id)| (*id, turn)).collect();
    let mut in_turn: Vec<(usize, Candidate)> = candidates.drain(..).enumerate().collect();
    in_turn.sort_by_key(|(_, candidate)| turn.get(&candidate.id).copied());

    let spacing_ms = millis(order.spacing);
    let mut due_ms = millis(order.first_in.saturating_add(spread(order.spacing, before)));
    if spacing_ms > 0
        && let Some(last_due_ms) = last_due_ms
    {
        due_ms = due_ms.max(last_due_ms.saturating_add(spacing_ms));
    }
    let mut revivals = Revivals::default();
    for (place, candidate) in in_turn {
        let unknown = open.remove(&place).unwrap_or_default();
        if candidate.replay_gen >= MOST_REPLAYS && !order.force {
            continue;
        }
        if !unknown.is_empty() {
            let Some(choice) = order.unknown else { continue };
            let key = EventKey::new(candidate.app_id.as_str(), candidate.key.as_str());
            let generation = u32::try_from(candidate.replay_gen)
                .unwrap_or(u32::MAX)
                .saturating_add(1);
            revivals.decisions.extend(unknown.into_iter().map(|action| Decision {
                app_id: candidate.app_id.clone(),
                key: candidate.key.clone(),
                idx: action.idx,
                uuid: (choice == UnknownChoice::Resend).then(|| {
                    let index = u32::try_from(action.idx).unwrap_or(u32::MAX);
                    action_uuid(&key, index, &action.kind, generation)
                }),
            }));
        }
        revivals.events.push(Revival {
            id: candidate.id,
            app_id: candidate.app_id,
            key: candidate.key,
            due_ms,
        });
        *revivals.classes.entry(candidate.class).or_default() += 1;
        due_ms = due_ms.saturating_add(spacing_ms);
    }
    revivals
}

/// The bots of candidates, each once.
pub(super) fn bots(candidates: &[Candidate]) -> Vec<String> {
    let bots: HashSet<&str> = candidates.iter().map(|candidate| candidate.bot.as_str()).collect();
    bots.into_iter().map(str::to_owned).collect()
}

fn spread(spacing: Duration, turn: u64) -> Duration {
    spacing.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX))
}

/// Each id once, in the order given.
pub(super) fn distinct_ids(ids: &[i64]) -> Vec<i64> {
    let mut seen = HashSet::with_capacity(ids.len());
    ids.iter().copied().filter(|id| seen.insert(*id)).collect()
}

/// What the audit says about an order.
pub(super) fn describe(ids: &[i64], order: &Replay) -> String {
    let unknown = match order.unknown {
        None => "skip",
        Some(UnknownChoice::Resend) => "resend",
        Some(UnknownChoice::Drop) => "drop",
    };
    format!("{} unknown={unknown} force={}", describe_ids(ids), order.force)
}

/// Ids for the audit.
pub(super) fn describe_ids(ids: &[i64]) -> String {
    let text: Vec<String> = ids.iter().map(i64::to_string).collect();
    format!("ids={}", text.join(","))
}

/// Adds one chunk's result.
pub(super) fn add(total: &mut Replayed, classes: HashMap<String, u64>) {
    for (class, count) in classes {
        *total.done.entry(class).or_default() += count;
    }
}
