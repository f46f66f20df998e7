//! The promises: L, nothing accepted is lost; D, no effect twice (`ARCHITECTURE.md`).

use std::time::Duration;

use openclaw_common::config::{OnStale, OnUnknown};
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{ActionState, DeadFilter, State, Step, UnknownChoice};

use super::play::Play;

/// An action whose outcome nobody knows: its event, its index, its uuid.
pub(super) type Unknown = (usize, u32, String);

impl Play<'_> {
    /// What holds after every move.
    pub(super) async fn check(&mut self) -> Result<(), String> {
        let keys: Vec<EventKey> = self.events.iter().map(|event| event.envelope.key.clone()).collect();
        self.standing = self.stage.store.standing(&keys).await.unwrap();
        for standing in self.standing.values_mut() {
            // What is due in less than a second is due: a play takes no time.
            standing.due_in = (standing.due_in).map(|due| if due.as_secs() == 0 { Duration::ZERO } else { due });
        }
        if let Some(event) = self.acknowledged_early() {
            return Err(format!(
                "L: event {event} is acknowledged, and its outcome is not committed"
            ));
        }
        for (number, event) in self.events.iter().enumerate() {
            let known = self.standing.contains_key(&event.envelope.key);
            if event.published > 0 && !event.forgotten && !known && self.copies_of(number) == 0 {
                return Err(format!("L: event {number} is neither in the queue nor in the Store"));
            }
            for index in 0..2 {
                let visible = self.screen.count(&effect(&event.envelope.key, index));
                let resent = event.resent.get(&index).map_or(0, |uuids| uuids.len());
                if usize::try_from(visible).unwrap() > 1 + resent {
                    return Err(format!(
                        "D: action {index} of event {number} is visible {visible} times, {resent} of them wanted"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What holds once everything has come to its end.
    pub(super) async fn check_ends(&mut self) -> Result<(), String> {
        for number in 0..self.events.len() {
            if self.events[number].forgotten {
                continue;
            }
            let key = self.events[number].envelope.key.clone();
            let inspection = self.stage.store.inspect(&key).await.unwrap();
            let Some(inspection) = inspection else {
                return Err(format!("L: event {number} has no row"));
            };
            let letters = self.open_letters(&key).await;
            let dead = inspection.state == State::Dead;
            if letters != usize::from(dead) {
                return Err(format!(
                    "L: event {number} is {:?} with {letters} open letters",
                    inspection.state
                ));
            }
            let event = &self.events[number];
            if !dead && inspection.plan.is_none() && !event.needs_nothing {
                return Err(format!("L: event {number} is done and was never answered"));
            }
            for action in &inspection.actions {
                let visible = self.screen.count(&effect(&key, action.index));
                let taken_as_sent = event.dropped.contains(&action.index)
                    || self.message.on_unknown == OnUnknown::Drop
                    || self.message.on_stale == OnStale::Drop;
                let alone = !event.resent.contains_key(&action.index);
                match action.state {
                    ActionState::Sent if visible == 0 && !taken_as_sent => {
                        return Err(format!(
                            "L: action {} of event {number} is sent, and nobody sees it",
                            action.index
                        ));
                    }
                    ActionState::Refused if visible > 0 && alone => {
                        return Err(format!(
                            "D: action {} of event {number} is refused, which allows to send it again, and is visible",
                            action.index
                        ));
                    }
                    ActionState::Sent => {}
                    _ if !dead && self.message.on_stale != OnStale::Drop => {
                        return Err(format!("L: event {number} is done, its action {} is not", action.index));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    async fn open_letters(&self, key: &EventKey) -> usize {
        let filter = DeadFilter {
            bot: Some(self.bot.clone()),
            ..DeadFilter::default()
        };
        let letters = self.stage.store.dead_letters(&filter, u32::MAX).await.unwrap();
        letters.iter().filter(|letter| letter.key == *key).count()
    }

    /// A uuid that the policy made is another message, and wanted.
    pub(super) async fn note_renewal(&mut self, number: usize, step: &Step) -> Result<(), String> {
        let Step::Renew { index, uuid } = step else {
            return Ok(());
        };
        if self.message.on_unknown != OnUnknown::Resend {
            return Err("D: nobody wanted it sent once more".to_owned());
        }
        let event = &mut self.events[number];
        let inspection = self.stage.store.inspect(&event.envelope.key).await.unwrap();
        let committed = inspection.is_some_and(|row| row.actions.iter().any(|action| action.uuid == *uuid));
        if committed {
            event.resent.entry(*index).or_default().insert(uuid.clone());
        }
        Ok(())
    }

    /// The unknown actions of dead events, before a person decides about them.
    pub(super) async fn unknown_actions(&self) -> Vec<Unknown> {
        let mut unknown = Vec::new();
        for (number, event) in self.events.iter().enumerate() {
            let inspection = self.stage.store.inspect(&event.envelope.key).await.unwrap();
            let actions = inspection.filter(|row| row.state == State::Dead).map(|row| row.actions);
            for action in actions.unwrap_or_default() {
                if action.state == ActionState::Unknown {
                    unknown.push((number, action.index, action.uuid));
                }
            }
        }
        unknown
    }

    /// What a person decided about `before`: one more message for each at most, however many have decided it at once.
    pub(super) async fn note_decisions(&mut self, before: Vec<Unknown>, choice: Option<UnknownChoice>) {
        for (number, index, old) in before {
            let event = &mut self.events[number];
            let inspection = self.stage.store.inspect(&event.envelope.key).await.unwrap().unwrap();
            let action = inspection.actions.iter().find(|action| action.index == index).unwrap();
            match choice {
                Some(UnknownChoice::Resend) if action.uuid != old => {
                    event.resent.entry(index).or_default().insert(action.uuid.clone());
                }
                Some(UnknownChoice::Drop) if action.state == ActionState::Sent => {
                    event.dropped.insert(index);
                }
                _ => {}
            }
        }
    }
}

fn effect(key: &EventKey, index: u32) -> String {
    format!("{}#{index}", key.key)
}
