//! Deliveries, and the runs of the real code that come of them.

use std::sync::{Arc, Mutex};

use openclaw_common::queue::Receipt;
use openclaw_common::store::{ActionOutcome, Arrival, Begun, Intent, Row, Step};

use super::moves::Fate;
use super::{Copy, Owner, Play};
use crate::action::{Action, Plan};
use crate::handler::HandlerError;
use crate::model::Flaw;
use crate::model::gate::{At, Go};
use crate::model::platform::{Answer, Request};
use crate::process::{End, Work};

impl Play<'_> {
    pub(super) fn publish(&mut self, event: usize) {
        self.events[event].published += 1;
        self.published += 1;
        self.copies.insert(self.published, Copy { event, with: None });
        self.tell(format!("event {event} is published as copy {}", self.published));
    }

    pub(super) async fn begin(&mut self, event: usize, intent: Intent) -> Begun {
        let arrival = Arrival {
            envelope: self.events[event].envelope.clone(),
            intent,
        };
        self.stage.store.begin(&[arrival]).await.unwrap().remove(0)
    }

    /// As `attachment::Attachment::arrive` and `begin` do it.
    pub(super) async fn deliver(&mut self, worker: usize, copy: usize, intent: Intent) {
        let event = self.copies[&copy].event;
        self.hand_out(worker, copy);
        if let Some(further) = self.held[worker].get_mut(&event) {
            further.push(copy);
            self.tell(format!("worker {worker} holds event {event} already"));
            return;
        }
        self.held[worker].insert(event, Vec::new());
        let begun = self.begin(event, intent).await;
        self.begun(worker, event, copy, begun, intent == Intent::Start).await;
    }

    pub(super) async fn begun(&mut self, worker: usize, event: usize, copy: usize, begun: Begun, start: bool) {
        match begun {
            Begun::Taken(row) => {
                let started = row.new && start;
                self.take(worker, event, row, Some(copy), started).await;
            }
            Begun::Ours | Begun::Settled { .. } => {
                self.tell(format!("event {event} is settled: copy {copy} is acknowledged"));
                self.copies.remove(&copy);
                self.release(worker, event);
            }
        }
    }

    pub(super) fn hand_out(&mut self, worker: usize, copy: usize) {
        self.tell(format!("copy {copy} is delivered to worker {worker}"));
        if self.flaw == Some(Flaw::AckFirst) {
            self.copies.remove(&copy);
        } else if let Some(copy) = self.copies.get_mut(&copy) {
            copy.with = Some(worker);
        }
    }

    pub(super) async fn deliver_and_kill(&mut self, worker: usize, copy: usize, committed: bool) {
        let event = self.copies[&copy].event;
        self.hand_out(worker, copy);
        if committed && !self.held[worker].contains_key(&event) {
            self.begin(event, Intent::Start).await;
            self.tell(format!("event {event} has a row"));
        }
        self.kill(worker, Fate::Lost, false).await;
    }

    pub(super) async fn take_all(&mut self, worker: usize, rows: Vec<Row>) {
        for row in rows {
            let key = &row.envelope.key;
            let event = (self.events.iter()).position(|event| event.envelope.key == *key);
            let event = event.unwrap();
            self.held[worker].entry(event).or_default();
            self.take(worker, event, row, None, false).await;
        }
    }

    /// Lets the real code run an event that was taken up.
    pub(super) async fn take(&mut self, worker: usize, event: usize, row: Row, copy: Option<usize>, started: bool) {
        self.tell(format!(
            "worker {worker} takes up event {event} under fence {}, generation {}, {} starts",
            row.fence, row.replay_generation, row.handler_starts
        ));
        let answer = match row.plan {
            Some(_) => Ok(Plan::default()),
            None => self.handler_answer(event),
        };
        let acks: Arc<Mutex<Vec<usize>>> = Arc::default();
        let receipt = copy.map(|copy| {
            let acks = acks.clone();
            Receipt::new(move || acks.lock().unwrap().push(copy))
        });
        let work = Work { row, receipt, started };
        let (run, live) = self.stage.run(work, &self.message, answer, self.flaw).await;
        let owner = Owner {
            worker,
            event,
            copy,
            attached: true,
            acks,
            live,
        };
        self.runs.insert(run, owner);
        self.tell_gate(run);
    }

    /// A handler is free to answer otherwise when it is asked again.
    pub(super) fn handler_answer(&mut self, event: usize) -> Result<Plan, HandlerError> {
        let way = self.choose(4);
        let event = &mut self.events[event];
        event.handled += 1;
        let key = event.envelope.key.key.clone();
        match way {
            0 => {}
            1 => return Err(HandlerError::Retry("not now".to_owned())),
            2 => return Err(HandlerError::Refused("never".to_owned())),
            _ => {
                event.needs_nothing = true;
                return Ok(Plan::default());
            }
        }
        let asked = event.handled;
        let action = |index: u32| {
            let (msg_type, content) = ("text".to_owned(), format!(r#"{{"text":"{key}#{index}"}}"#));
            match (asked + index) % 2 {
                0 => Action::Create {
                    to: "oc_1".to_owned(),
                    msg_type,
                    content,
                },
                _ => Action::Reply {
                    message_id: "om_1".to_owned(),
                    chat: "oc_1".to_owned(),
                    msg_type,
                    content,
                    in_thread: false,
                },
            }
        };
        Ok(Plan {
            actions: (0..self.bounds.actions).map(action).collect(),
        })
    }

    pub(super) fn tell_gate(&mut self, run: u64) {
        let owner = &self.runs[&run];
        let line = match &owner.live.at {
            At::Commit { step, .. } => format!("{:?}", Brief(step)),
            At::Send { request, .. } => format!("sends {}", request.effect.replace(&self.name, "")),
            At::Ended { end } => format!("ends: {end:?}"),
            At::Begin => "takes up".to_owned(),
        };
        let who = if owner.attached { "" } else { " (cut off)" };
        self.tell(format!("  worker {}{who}, event {}: {line}", owner.worker, owner.event));
    }

    pub(super) async fn on(&mut self, run: u64, go: Go) -> Result<(), String> {
        let Some(mut owner) = self.runs.remove(&run) else {
            return Ok(());
        };
        self.acknowledge(&owner);
        match owner.live.at {
            At::Commit { step, go: let_on } => {
                if go == Go::Unanswered {
                    self.tell(format!("the answer of worker {}'s commit is lost", owner.worker));
                }
                let_on.send(go).unwrap();
                owner.live.at = match go {
                    Go::On => self.stage.next_gate(run).await,
                    Go::Unanswered => self.stage.next_gate_hurried(run).await,
                };
                let event = owner.event;
                self.runs.insert(run, owner);
                self.note_renewal(event, &step).await?;
                self.tell_gate(run);
            }
            At::Ended { end } => {
                self.ended(owner.worker, owner.event, owner.copy, owner.attached, end)
                    .await
            }
            At::Send { .. } | At::Begin => panic!("this gate is not opened like that"),
        }
        Ok(())
    }

    /// As `attachment::Attachment::ended` does it.
    pub(super) async fn ended(&mut self, worker: usize, event: usize, copy: Option<usize>, attached: bool, end: End) {
        if !attached {
            return;
        }
        match end {
            End::Settled | End::Waiting { .. } => self.release(worker, event),
            End::Stopped => self.cut(worker, true),
            End::Lost => {
                let further = self.held[worker].get_mut(&event).and_then(Vec::pop);
                match copy.filter(|copy| self.copies.contains_key(copy)).or(further) {
                    Some(copy) => {
                        let begun = self.begin(event, Intent::Hold).await;
                        self.begun(worker, event, copy, begun, false).await;
                    }
                    None => drop(self.held[worker].remove(&event)),
                }
            }
        }
    }

    /// The event has left the worker's memory: further copies are acknowledged.
    pub(super) fn release(&mut self, worker: usize, event: usize) {
        for copy in self.held[worker].remove(&event).unwrap_or_default() {
            self.copies.remove(&copy);
        }
    }

    /// What a run has acknowledged so far reaches the broker.
    pub(super) fn acknowledge(&mut self, owner: &Owner) {
        for copy in owner.acks.lock().unwrap().drain(..) {
            if owner.attached {
                self.copies.remove(&copy);
            }
        }
    }

    pub(super) async fn answer(&mut self, run: u64, answer: Answer, shown: bool) {
        let Some(mut owner) = self.runs.remove(&run) else {
            return;
        };
        self.acknowledge(&owner);
        let At::Send { request, answer: told } = owner.live.at else {
            panic!("no request to answer");
        };
        self.tell(format!("  answered {answer:?}{}", if shown { ", shown" } else { "" }));
        if shown {
            self.show(run, &request);
        }
        told.send(answer).unwrap();
        owner.live.at = self.stage.next_gate(run).await;
        self.runs.insert(run, owner);
        self.tell_gate(run);
    }

    pub(super) fn show(&mut self, run: u64, request: &Request) {
        let mut request = request.clone();
        if self.flaw == Some(Flaw::UuidPerRun) {
            request.uuid = format!("{}|{run}", request.uuid);
        }
        self.screen.show(&request, self.now);
    }
}

/// A step in a few words.
struct Brief<'a>(&'a Step);

impl std::fmt::Debug for Brief<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Step::Start => write!(formatter, "commits start"),
            Step::Fail { attempt, .. } => write!(formatter, "commits failure {attempt} of its handler"),
            Step::Plan { actions, .. } => write!(formatter, "commits a plan of {}", actions.len()),
            Step::Try { index } => write!(formatter, "commits a try of {index}"),
            Step::Renew { index, .. } => write!(formatter, "commits a new uuid of {index}"),
            Step::Choose { index, sender } => write!(formatter, "commits {sender} as the sender of {index}"),
            Step::Progress(outcomes) => write!(formatter, "commits progress {:?}", states(outcomes)),
            Step::Finish(outcomes) => write!(formatter, "commits its end {:?}", states(outcomes)),
            Step::Wait(wait) => write!(
                formatter,
                "commits a wait {:?}, {} tries",
                states(&wait.actions),
                wait.attempt
            ),
            Step::Die { actions, class, .. } => write!(formatter, "commits its death {class} {:?}", states(actions)),
        }
    }
}

fn states(outcomes: &[ActionOutcome]) -> Vec<(u32, &'static str, bool)> {
    let brief = |outcome: &ActionOutcome| (outcome.index, outcome.state.as_str(), outcome.refused);
    outcomes.iter().map(brief).collect()
}
