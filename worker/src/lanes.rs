//! The lanes of one bot: a chat's events, in order, one at a time.
//!
//! A pure structure, so that its rules can be tested without a clock or a server. Events of a lane stand by `position`,
//! the order of first delivery. A lane holds at most [`LANE_CAP`] events; what exceeds it waits in the Store, **behind**
//! the lane, and while anything is behind, later events of the chat go there too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use openclaw_common::store::Intent;

/// Events of one chat in memory (`design.md` §3.6). More would only make one chat's backlog everybody's memory.
pub(crate) const LANE_CAP: usize = 8;
/// Events of one chat in memory while the bot's memory is short.
const TIGHT_CAP: usize = 2;
/// A lane at or below this, with rows behind it, wants them.
const LOW_WATER: usize = 2;
/// Rows taken from behind for one lane at once: with the low water they stay inside the cap.
pub(crate) const REFILL: u32 = 4;

/// All lanes of one bot.
pub(crate) struct Lanes<T> {
    lanes: HashMap<Arc<str>, Lane<T>>,
}

struct Lane<T> {
    queue: BTreeMap<i64, T>,
    running: bool,
    /// Announced to the Store, answer outstanding.
    reserved: usize,
    /// Rows in the Store that later events of this chat wait behind.
    behind: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            queue: BTreeMap::new(),
            running: false,
            reserved: 0,
            behind: 0,
        }
    }
}

impl<T> Lane<T> {
    fn len(&self) -> usize {
        self.queue.len() + usize::from(self.running) + self.reserved
    }
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new() }
    }
}

impl<T> Lanes<T> {
    /// Decides a new event's course and keeps a place for it until [`Lanes::enter`] or [`Lanes::cancel`].
    /// `tight`: memory is short, so the chat gets less of it.
    pub(crate) fn reserve(&mut self, chat: &Arc<str>, tight: bool) -> Intent {
        let cap = if tight { TIGHT_CAP } else { LANE_CAP };
        let lane = self.lanes.entry(chat.clone()).or_default();
        let intent = match lane.len() {
            _ if lane.behind > 0 => Intent::Park,
            0 => Intent::Start,
            len if len < cap => Intent::Hold,
            _ => Intent::Park,
        };
        match intent {
            // Counted at once, so that the next event of the same batch goes behind it.
            Intent::Park => lane.behind += 1,
            Intent::Start | Intent::Hold => lane.reserved += 1,
        }
        intent
    }

    /// Keeps a place in memory whatever stands behind the lane: for an event that was in it already.
    pub(crate) fn place(&mut self, chat: &Arc<str>) {
        self.lanes.entry(chat.clone()).or_default().reserved += 1;
    }

    /// Takes a reservation back: the event needs no place.
    pub(crate) fn cancel(&mut self, chat: &Arc<str>, intent: Intent) {
        if let Some(lane) = self.lanes.get_mut(chat) {
            match intent {
                Intent::Park => lane.behind = lane.behind.saturating_sub(1),
                Intent::Start | Intent::Hold => lane.reserved = lane.reserved.saturating_sub(1),
            }
        }
        self.sweep(chat);
    }

    /// Puts an event into its lane, at its position.
    pub(crate) fn enter(&mut self, chat: &Arc<str>, position: i64, event: T) {
        self.lanes
            .entry(chat.clone())
            .or_default()
            .queue
            .insert(position, event);
    }

    /// Starts the chat's next event, unless one runs.
    pub(crate) fn next(&mut self, chat: &str) -> Option<T> {
        let lane = self.lanes.get_mut(chat)?;
        if lane.running {
            return None;
        }
        let (_, event) = lane.queue.pop_first()?;
        lane.running = true;
        Some(event)
    }

    /// Chats whose next event could start.
    pub(crate) fn ready(&self) -> Vec<Arc<str>> {
        self.lanes
            .iter()
            .filter(|(_, lane)| !lane.running && !lane.queue.is_empty())
            .map(|(chat, _)| chat.clone())
            .collect()
    }

    /// The running event of the chat has ended.
    pub(crate) fn ended(&mut self, chat: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(chat) {
            lane.running = false;
        }
        self.sweep(chat);
    }

    /// `rows` more wait in the Store behind the chat's lane.
    pub(crate) fn behind(&mut self, chat: &Arc<str>, rows: u64) {
        self.lanes.entry(chat.clone()).or_default().behind += rows;
    }

    /// Sets how many rows wait behind each chat's lane; none behind the others.
    pub(crate) fn recount(&mut self, behind: &HashMap<Arc<str>, u64>) {
        for (chat, lane) in &mut self.lanes {
            lane.behind = behind.get(chat).copied().unwrap_or(0);
        }
        for (chat, rows) in behind {
            self.lanes.entry(chat.clone()).or_default().behind = *rows;
        }
        self.lanes.retain(|_, lane| lane.len() > 0 || lane.behind > 0);
    }

    /// Whether a lane is empty although rows are behind it: they are not due, or the count is wrong.
    pub(crate) fn is_starved(&self) -> bool {
        self.lanes.values().any(|lane| lane.behind > 0 && lane.len() == 0)
    }

    /// One row has come back from behind.
    pub(crate) fn came_back(&mut self, chat: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(chat) {
            lane.behind = lane.behind.saturating_sub(1);
        }
        self.sweep(chat);
    }

    /// Empties the chat's queue: its events go behind, in strict order after one that waits.
    pub(crate) fn evict(&mut self, chat: &str) -> Vec<T> {
        self.lanes
            .get_mut(chat)
            .map(|lane| std::mem::take(&mut lane.queue).into_values().collect())
            .unwrap_or_default()
    }

    /// Whether the chat's lane has rows behind it and room for them.
    pub(crate) fn wants_refill(&self, chat: &str) -> bool {
        self.lanes
            .get(chat)
            .is_some_and(|lane| lane.behind > 0 && lane.len() <= LOW_WATER)
    }

    /// Chats whose lane has no room for [`REFILL`] more.
    pub(crate) fn full(&self) -> Vec<Arc<str>> {
        let room = LANE_CAP - REFILL as usize;
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.len() > room)
            .map(|(chat, _)| chat.clone())
            .collect()
    }

    /// Whether no event is in memory. Rows behind do not count: they are in the Store.
    pub(crate) fn is_idle(&self) -> bool {
        self.lanes.values().all(|lane| lane.len() == 0)
    }

    /// Lanes that exist.
    pub(crate) fn len(&self) -> usize {
        self.lanes.len()
    }

    fn sweep(&mut self, chat: &str) {
        if self
            .lanes
            .get(chat)
            .is_some_and(|lane| lane.len() == 0 && lane.behind == 0)
        {
            self.lanes.remove(chat);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn one_event_of_a_chat_runs_at_a_time_in_order_of_position() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.enter(&a, 7, "second");
        lanes.enter(&a, 3, "first");
        assert_eq!(lanes.next(&a), Some("first"));
        assert_eq!(lanes.next(&a), None);
        lanes.ended(&a);
        assert_eq!(lanes.next(&a), Some("second"));
        lanes.ended(&a);
        assert_eq!(lanes.len(), 0, "an empty lane is removed");
    }

    #[test]
    fn the_ninth_event_of_a_chat_waits_in_the_store_and_so_do_its_followers() {
        let (mut lanes, a) = (Lanes::<()>::default(), chat("a"));
        assert_eq!(lanes.reserve(&a, false), Intent::Start);
        for _ in 1..LANE_CAP {
            assert_eq!(lanes.reserve(&a, false), Intent::Hold);
        }
        assert_eq!(lanes.reserve(&a, false), Intent::Park);
        lanes.cancel(&a, Intent::Hold);
        assert_eq!(
            lanes.reserve(&a, false),
            Intent::Park,
            "there is room again, but one is behind"
        );
        assert_eq!(
            lanes.reserve(&chat("b"), false),
            Intent::Start,
            "other chats are not concerned"
        );
    }

    #[test]
    fn when_memory_is_short_a_chat_gets_two_places() {
        let (mut lanes, a) = (Lanes::<()>::default(), chat("a"));
        assert_eq!(lanes.reserve(&a, true), Intent::Start);
        assert_eq!(lanes.reserve(&a, true), Intent::Hold);
        assert_eq!(lanes.reserve(&a, true), Intent::Park);
    }

    #[test]
    fn a_lane_asks_for_its_rows_when_it_runs_low_and_takes_events_again_when_none_is_behind() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.behind(&a, 1);
        assert!(lanes.wants_refill(&a));
        lanes.came_back(&a);
        lanes.enter(&a, 1, ());
        assert!(!lanes.wants_refill(&a));
        assert_eq!(lanes.reserve(&a, false), Intent::Hold);
    }

    #[test]
    fn a_refill_never_exceeds_the_cap() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        for position in 0..=(LANE_CAP as i64 - i64::from(REFILL)) {
            lanes.enter(&a, position, ());
        }
        assert_eq!(lanes.full(), vec![a]);
    }
}
