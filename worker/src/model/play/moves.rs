//! What may happen next.

use std::time::Duration;

use openclaw_common::store::{Intent, State, UnknownChoice};

use super::{Play, WAITS, WORKERS};
use crate::model::gate::{At, Go};
use crate::model::platform::Answer;

/// Which moves there are beside the undisturbed course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Scope {
    /// All.
    Everything,
    /// All whose effect is the same each time: a run that is told to stop while it could also go on tosses a coin.
    Certain,
    /// Only what makes two owners of one event meet: a link that goes unnoticed, answers, an hour.
    TwoOwners,
}

impl Scope {
    fn has(self, made: &Move) -> bool {
        match self {
            Self::Everything => true,
            Self::Certain => !matches!(made, Move::Cut(_, true)),
            Self::TwoOwners => match made {
                Move::Pass(time) => *time == WAITS[2],
                Move::Tell(_, answer, shown) => {
                    !matches!(answer, Answer::Later | Answer::Never) && (*shown || *answer == Answer::Limited)
                }
                Move::On(_, Go::On) | Move::Cut(_, false) => true,
                _ => false,
            },
        }
    }
}

/// What may happen next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    /// A run goes on: its commit is made, or its end is taken note of.
    On(u64, Go),
    /// A request is answered; whether it has shown its message.
    Tell(u64, Answer, bool),
    /// A process is killed: what becomes of the requests it has on the wire, and whether its last acknowledgement arrives.
    Kill(usize, Fate, bool),
    /// A worker's link to the broker goes; whether it has noticed already.
    Cut(usize, bool),
    /// The event is published once more.
    Copy(usize),
    Deliver(usize, usize, Intent),
    /// A delivery's taker dies before or after its row is committed.
    DeliverAndKill(usize, usize, bool),
    /// A worker takes what is due, or what is nobody's.
    Due(usize),
    Look(usize),
    /// A dead process's request arrives after all.
    Land,
    /// Everybody stands still for so long.
    Pass(Duration),
    Replay(Option<UnknownChoice>, bool),
    Purge,
    Rest,
}

/// What becomes of a request whose sender is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lost,
    Shown,
    /// It may arrive at any later time, but not after minutes.
    Late,
}

impl Play<'_> {
    /// Every move there is now. The first is the undisturbed course: the newest owner goes on, then the queue, then whoever
    /// is left over from before, then what is due.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = self.all_moves();
        let mut first = true;
        moves.retain(|made| std::mem::take(&mut first) || self.bounds.scope.has(made));
        moves
    }

    pub(super) fn all_moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        let newest = self.runs.iter().rev().find(|(_, owner)| owner.attached);
        let mut first = newest.map(|(run, _)| *run);
        let ready: Vec<usize> = (self.copies.iter())
            .filter(|(_, copy)| copy.with.is_none())
            .map(|(id, _)| *id)
            .collect();
        let due = (self.standing.values()).any(|standing| standing.due_in == Some(Duration::ZERO));
        if ready.is_empty() {
            first = first.or(self.runs.keys().next_back().copied());
        }
        match (first, ready.first()) {
            (Some(run), _) => moves.push(self.undisturbed(run)),
            (None, Some(copy)) => moves.push(Move::Deliver(0, *copy, Intent::Start)),
            (None, None) if due => moves.push(Move::Due(0)),
            (None, None) => moves.push(Move::Rest),
        }
        for (run, owner) in &self.runs {
            if Some(*run) != first {
                moves.push(self.undisturbed(*run));
            }
            match owner.live.at {
                At::Commit { .. } => moves.push(Move::On(*run, Go::Unanswered)),
                At::Send { .. } => moves.extend(
                    [
                        (Answer::Later, false),
                        (Answer::Never, false),
                        (Answer::Limited, false),
                        (Answer::Unclear, true),
                        (Answer::Unclear, false),
                    ]
                    .map(|(answer, shown)| Move::Tell(*run, answer, shown)),
                ),
                At::Ended { .. } | At::Begin => {}
            }
        }
        for worker in 0..WORKERS {
            self.moves_of(worker, &ready, due, &mut moves);
        }
        if !self.wire.is_empty() {
            moves.push(Move::Land);
        }
        for (number, event) in self.events.iter().enumerate() {
            if event.published <= self.bounds.extras && !event.forgotten {
                moves.push(Move::Copy(number));
            }
        }
        moves.extend(WAITS.map(Move::Pass));
        let stands = |state| self.standing.values().any(|standing| standing.state == state);
        if stands(State::Dead) && self.events.iter().any(|event| event.replays < self.bounds.extras) {
            for unknown in [None, Some(UnknownChoice::Resend), Some(UnknownChoice::Drop)] {
                moves.extend([false, true].map(|twice| Move::Replay(unknown, twice)));
            }
        }
        if (stands(State::Done) || stands(State::Dead)) && self.copies.is_empty() {
            moves.push(Move::Purge);
        }
        moves
    }

    pub(super) fn moves_of(&self, worker: usize, ready: &[usize], due: bool, moves: &mut Vec<Move>) {
        let mut own = self.runs.values().filter(|owner| owner.worker == worker).peekable();
        let holds = self.copies.values().any(|copy| copy.with == Some(worker));
        if own.peek().is_some() || holds {
            let acks = own
                .clone()
                .any(|owner| owner.attached && !owner.acks.lock().unwrap().is_empty());
            let fates: &[Fate] = match own.any(|owner| matches!(owner.live.at, At::Send { .. })) {
                true => &[Fate::Lost, Fate::Shown, Fate::Late],
                false => &[Fate::Lost],
            };
            for fate in fates {
                moves.push(Move::Kill(worker, *fate, false));
                if acks {
                    moves.push(Move::Kill(worker, *fate, true));
                }
            }
            if self.runs.values().any(|owner| owner.worker == worker && owner.attached) {
                moves.extend([true, false].map(|noticed| Move::Cut(worker, noticed)));
            }
        }
        if let Some(copy) = ready.first() {
            if worker > 0 || self.runs.values().any(|owner| owner.attached) {
                moves.push(Move::Deliver(worker, *copy, Intent::Start));
            }
            moves.push(Move::Deliver(worker, *copy, Intent::Park));
            moves.extend([true, false].map(|committed| Move::DeliverAndKill(worker, *copy, committed)));
        }
        if due && (worker > 0 || !self.runs.is_empty()) {
            moves.push(Move::Due(worker));
        }
        let nobodys = self.events.iter().enumerate().any(|(number, event)| {
            let standing = self.standing.get(&event.envelope.key).map(|standing| standing.state);
            matches!(standing, Some(State::Received | State::Planned)) && !self.held[worker].contains_key(&number)
        });
        if nobodys {
            moves.push(Move::Look(worker));
        }
    }

    pub(super) fn undisturbed(&self, run: u64) -> Move {
        match self.runs[&run].live.at {
            At::Send { .. } => Move::Tell(run, Answer::Shown, true),
            At::Commit { .. } | At::Ended { .. } | At::Begin => Move::On(run, Go::On),
        }
    }
}
