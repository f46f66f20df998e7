//! What goes wrong: deaths, cut links, time, and people who send things again.

use std::time::Duration;

use openclaw_common::envelope::EventKey;
use openclaw_common::store::{DeadFilter, Replay, State, UnknownChoice};

use super::moves::Fate;
use super::{DUE, Play, RETENTION, WAITS, WORKERS};
use crate::model::Flaw;
use crate::model::gate::At;

impl Play<'_> {
    pub(super) async fn kill(&mut self, worker: usize, fate: Fate, acked: bool) {
        let dead: Vec<u64> = (self.runs.iter())
            .filter(|(_, owner)| owner.worker == worker)
            .map(|(run, _)| *run)
            .collect();
        self.tell(format!(
            "worker {worker} is killed{}{}",
            if fate == Fate::Lost {
                String::new()
            } else {
                format!(", its request: {fate:?}")
            },
            if acked { ", acknowledged before" } else { "" }
        ));
        for run in dead {
            let Some(owner) = self.runs.remove(&run) else { continue };
            if acked {
                self.acknowledge(&owner);
            }
            if let At::Send { request, .. } = &owner.live.at {
                match fate {
                    Fate::Lost => {}
                    Fate::Shown => self.show(run, request),
                    Fate::Late => self.wire.push(request.clone()),
                }
            }
            owner.live.death.cancel();
            owner.live.task.abort();
            drop(owner.live.task.await);
        }
        self.detach(worker);
    }

    /// The link goes, the runs do not.
    pub(super) fn cut(&mut self, worker: usize, noticed: bool) {
        self.tell(format!(
            "worker {worker} is cut off{}",
            if noticed { ", and knows it" } else { "" }
        ));
        for owner in self.runs.values_mut().filter(|owner| owner.worker == worker) {
            owner.attached = false;
            owner.acks.lock().unwrap().clear();
            if noticed {
                owner.live.stop.cancel();
            }
        }
        self.detach(worker);
    }

    pub(super) fn detach(&mut self, worker: usize) {
        self.held[worker].clear();
        for copy in self.copies.values_mut().filter(|copy| copy.with == Some(worker)) {
            copy.with = None;
        }
    }

    pub(super) fn land(&mut self) {
        for request in std::mem::take(&mut self.wire) {
            self.tell("a dead worker's request arrives".to_owned());
            self.screen.show(&request, self.now);
        }
    }

    /// Time goes by for everybody but the processes' own clocks, so none may be alive meanwhile: they are killed first, and
    /// nothing stays on the wire.
    pub(super) async fn pass(&mut self, time: Duration) {
        for worker in 0..WORKERS {
            self.kill(worker, Fate::Lost, false).await;
        }
        self.land();
        self.tell(format!("{} minutes go by", time.as_secs() / 60));
        let tries = self.flaw != Some(Flaw::NoHour);
        self.stage.tables.pass(&self.name, time, tries).await;
        self.now += time;
    }

    pub(super) async fn replay(&mut self, unknown: Option<UnknownChoice>, twice: bool) {
        self.tell(format!(
            "replay{}, unknown: {unknown:?}",
            if twice { " by two people" } else { "" }
        ));
        let filter = DeadFilter {
            bot: Some(self.bot.clone()),
            ..DeadFilter::default()
        };
        let letters = self.stage.store.dead_letters(&filter, DUE).await.unwrap();
        let order = Replay {
            ids: letters.iter().map(|letter| letter.id).collect(),
            first_in: Duration::ZERO,
            spacing: Duration::ZERO,
            unknown,
            force: false,
            who: "model".to_owned(),
        };
        let before = self.unknown_actions().await;
        if twice {
            let (one, two) = tokio::join!(self.stage.store.replay(&order), self.stage.store.replay(&order));
            drop((one.unwrap(), two.unwrap()));
        } else {
            drop(self.stage.store.replay(&order).await.unwrap());
        }
        for event in &mut self.events {
            event.replays += 1;
        }
        self.note_decisions(before, unknown).await;
    }

    /// Old ends are deleted; their events are out of the platform's reach by then, and out of the queue's.
    pub(super) async fn purge(&mut self) {
        self.pass(RETENTION + WAITS[0]).await;
        self.stage.store.purge(RETENTION, u32::MAX).await.unwrap();
        let keys: Vec<EventKey> = self.events.iter().map(|event| event.envelope.key.clone()).collect();
        let left = self.stage.store.standing(&keys).await.unwrap();
        for event in &mut self.events {
            let ended = self.standing.get(&event.envelope.key).map(|standing| standing.state);
            let ended = matches!(ended, Some(State::Done | State::Dead));
            event.forgotten |= ended && !left.contains_key(&event.envelope.key);
        }
        self.tell("what ended long ago is deleted".to_owned());
    }
}
