//! The lanes of one bot: a chat's events, in order, one at a time.
//!
//! A pure structure, so that its rules can be tested without a clock or a server. Events of a lane stand by `position`,
//! the order of first delivery, whatever their priority; only replays, which have lost their place long ago, stand after
//! all else. A lane holds at most [`LANE_CAP`] events; what exceeds it waits in the Store, **behind** the lane, and while
//! anything is behind, later events of the chat go there too.
//!
//! Priority decides between chats. A lane's running event is as urgent as the most urgent one that waits for it, in memory or
//! behind. What no person waits for gets few places in memory: the rest waits in the Store, so that a flood of notifications
//! never stands between the queue and an answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use openclaw_common::priority::Priority;
use openclaw_common::quota::Urgency;
use openclaw_common::store::{Behind, Intent};

/// Events of one chat in memory (ARCHITECTURE.md, "Order"). More would only make one chat's backlog everybody's memory.
pub(crate) const LANE_CAP: usize = 8;
/// Events of a held up chat in memory while the bot's memory is short and slow to be renewed.
pub(crate) const TIGHT_CAP: usize = 2;
/// A lane at or below this, with rows behind it, wants them.
const LOW_WATER: usize = 2;
/// Rows taken from behind for one lane at once: with the low water they stay inside the cap.
pub(crate) const REFILL: u32 = 4;
/// A lane longer than this has no room for them.
pub(crate) const REFILLABLE: usize = LANE_CAP - REFILL as usize;

/// Of nothing.
const LEAST: Priority = Priority::Replay;

/// All lanes of one bot.
pub(crate) struct Lanes<T> {
    lanes: HashMap<Arc<str>, Lane<T>>,
    /// Events in memory that no person waits for.
    unasked: usize,
}

struct Lane<T> {
    queue: BTreeMap<Seat, (Priority, T)>,
    running: Option<(Priority, Urgency)>,
    /// Announced to the Store, answer outstanding.
    reserved: usize,
    /// Rows in the Store that later events of this chat wait behind.
    behind: u64,
    /// The most urgent of them, or more urgent.
    behind_priority: Priority,
}

/// Where an event stands in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat {
    replayed: bool,
    position: i64,
}

/// An event that may start.
pub(crate) struct Started<T> {
    pub(crate) event: T,
    pub(crate) urgency: Urgency,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            queue: BTreeMap::new(),
            running: None,
            reserved: 0,
            behind: 0,
            behind_priority: LEAST,
        }
    }
}

impl<T> Lane<T> {
    fn len(&self) -> usize {
        self.queue.len() + usize::from(self.running.is_some()) + self.reserved
    }

    fn add_behind(&mut self, rows: u64, priority: Priority) {
        self.behind += rows;
        self.behind_priority = self.behind_priority.min(priority);
        self.hurry(priority);
    }

    fn take_behind(&mut self) {
        self.behind = self.behind.saturating_sub(1);
        if self.behind == 0 {
            self.behind_priority = LEAST;
        }
    }

    fn hurry(&self, priority: Priority) {
        if let Some((_, urgency)) = &self.running {
            urgency.raise(priority);
        }
    }

    /// Whether its running event was told to wait: it is the chat's turn that is far, and not the machine that is slow.
    fn is_held_up(&self) -> bool {
        let running = self.running.as_ref();
        running.is_some_and(|(_, urgency)| urgency.was_told_to_wait())
    }

    /// As urgent as the most urgent event here or behind.
    fn priority(&self) -> Priority {
        let waiting = self.queue.values().map(|(priority, _)| *priority);
        waiting.fold(self.behind_priority, Priority::min)
    }
}

/// Whether a person waits for it.
fn is_asked(priority: Priority) -> bool {
    priority == Priority::Answer
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            unasked: 0,
        }
    }
}

impl<T> Lanes<T> {
    /// Decides a new event's course and keeps a place for it until [`Lanes::enter`] or [`Lanes::cancel`].
    /// `tight`: memory is short, so a chat that is held up gets less of it. `room`: whether the bot's memory takes one more.
    pub(crate) fn reserve(&mut self, chat: &Arc<str>, priority: Priority, tight: bool, room: bool) -> Intent {
        let lane = self.lanes.entry(chat.clone()).or_default();
        let cap = if tight && lane.is_held_up() {
            TIGHT_CAP
        } else {
            LANE_CAP
        };
        let intent = match lane.len() {
            _ if lane.behind > 0 || !room => Intent::Park,
            0 => Intent::Start,
            len if len < cap => Intent::Hold,
            _ => Intent::Park,
        };
        match intent {
            // Counted at once, so that the next event of the same batch goes behind it.
            Intent::Park => lane.add_behind(1, priority),
            Intent::Start | Intent::Hold => {
                lane.reserved += 1;
                // Before it is entered: the running event does not wait for a commit to hurry.
                lane.hurry(priority);
                self.unasked += usize::from(!is_asked(priority));
            }
        }
        intent
    }

    /// Keeps a place in memory whatever stands behind the lane: for an event that was in it already.
    pub(crate) fn place(&mut self, chat: &Arc<str>, priority: Priority) {
        self.lanes.entry(chat.clone()).or_default().reserved += 1;
        self.unasked += usize::from(!is_asked(priority));
    }

    /// Takes a reservation back: the event needs no place.
    pub(crate) fn cancel(&mut self, chat: &Arc<str>, priority: Priority, intent: Intent) {
        if let Some(lane) = self.lanes.get_mut(chat) {
            match intent {
                Intent::Park => lane.take_behind(),
                Intent::Start | Intent::Hold => {
                    lane.reserved = lane.reserved.saturating_sub(1);
                    self.leaves(priority);
                }
            }
        }
        self.sweep(chat);
    }

    /// Puts an event into its lane, at its position.
    pub(crate) fn enter(&mut self, chat: &Arc<str>, position: i64, priority: Priority, event: T) {
        let lane = self.lanes.entry(chat.clone()).or_default();
        let seat = Seat {
            replayed: priority == Priority::Replay,
            position,
        };
        lane.hurry(priority);
        lane.queue.insert(seat, (priority, event));
        self.unasked += usize::from(!is_asked(priority));
    }

    /// Starts the chat's next event, unless one runs.
    pub(crate) fn next(&mut self, chat: &str) -> Option<Started<T>> {
        let lane = self.lanes.get_mut(chat)?;
        if lane.running.is_some() {
            return None;
        }
        let (_, (priority, event)) = lane.queue.pop_first()?;
        let urgency = Urgency::new(priority.min(lane.priority()));
        lane.running = Some((priority, urgency.clone()));
        Some(Started { event, urgency })
    }

    /// Events in memory, or on their way there, that no person waits for.
    pub(crate) fn unasked(&self) -> usize {
        self.unasked
    }

    fn leaves(&mut self, priority: Priority) {
        self.unasked -= usize::from(!is_asked(priority) && self.unasked > 0);
    }

    /// Events that have not started.
    pub(crate) fn queued(&self) -> impl Iterator<Item = &T> {
        let queues = self.lanes.values().map(|lane| &lane.queue);
        queues.flat_map(BTreeMap::values).map(|(_, event)| event)
    }

    /// Chats whose next event could start.
    pub(crate) fn ready(&self) -> Vec<Arc<str>> {
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.running.is_none() && !lane.queue.is_empty())
            .map(|(chat, _)| chat.clone())
            .collect()
    }

    /// The running event of the chat has ended.
    pub(crate) fn ended(&mut self, chat: &Arc<str>) {
        if let Some((priority, _)) = self.lanes.get_mut(chat).and_then(|lane| lane.running.take()) {
            self.leaves(priority);
        }
        self.sweep(chat);
    }

    /// `rows` more wait in the Store behind the chat's lane.
    pub(crate) fn behind(&mut self, chat: &Arc<str>, rows: u64, priority: Priority) {
        self.lanes.entry(chat.clone()).or_default().add_behind(rows, priority);
    }

    /// Sets what waits behind each chat's lane; nothing behind the others. `moving`: chats with events on their way there,
    /// which were counted when they left and are not in the Store's count yet.
    pub(crate) fn recount(&mut self, behind: &HashMap<Arc<str>, Behind>, moving: impl Fn(&str) -> bool) {
        for (chat, lane) in &mut self.lanes {
            if !moving(chat) {
                (lane.behind, lane.behind_priority) = (0, LEAST);
            }
        }
        for (chat, behind) in behind {
            let lane = self.lanes.entry(chat.clone()).or_default();
            let more = behind.rows.saturating_sub(lane.behind);
            lane.add_behind(more, behind.priority);
        }
        self.lanes.retain(|_, lane| lane.len() > 0 || lane.behind > 0);
    }

    /// Whether any of the chat's events that have not started stands after `position`.
    pub(crate) fn has_after(&self, chat: &str, position: i64) -> bool {
        let lane = self.lanes.get(chat);
        lane.is_some_and(|lane| lane.queue.keys().any(|seat| !seat.replayed && seat.position > position))
    }

    /// Whether a lane is empty although rows are behind it: they are not due, or the count is wrong.
    pub(crate) fn is_starved(&self) -> bool {
        self.lanes.values().any(|lane| lane.behind > 0 && lane.len() == 0)
    }

    /// One row has come back from behind.
    pub(crate) fn came_back(&mut self, chat: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(chat) {
            lane.take_behind();
        }
        self.sweep(chat);
    }

    /// Empties the chat's queue from the first event on that is `meant`: it and what stands after it goes behind. Counted at
    /// once, so that nothing passes while the commits are on their way.
    pub(crate) fn evict(&mut self, chat: &str, meant: impl Fn(&T) -> bool) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(chat) else {
            return Vec::new();
        };
        let priority = lane.priority();
        let mut queue = lane.queue.iter();
        let Some(first) = queue.find_map(|(seat, (_, event))| meant(event).then_some(*seat)) else {
            return Vec::new();
        };
        let evicted = lane.queue.split_off(&first);
        lane.add_behind(evicted.len() as u64, priority);
        for (priority, _) in evicted.values() {
            self.leaves(*priority);
        }
        evicted.into_values().map(|(_, event)| event).collect()
    }

    /// Whether the chat's lane has rows behind it and room for them. `room`: whether memory has any for what no person waits
    /// for.
    pub(crate) fn wants_refill(&self, chat: &str, room: bool) -> bool {
        self.lanes
            .get(chat)
            .is_some_and(|lane| lane.behind > 0 && lane.len() <= LOW_WATER && (room || is_asked(lane.behind_priority)))
    }

    /// Chats with more than that many events in memory.
    pub(crate) fn longer_than(&self, events: usize) -> Vec<Arc<str>> {
        let longer = self.lanes.iter().filter(|(_, lane)| lane.len() > events);
        longer.map(|(chat, _)| chat.clone()).collect()
    }

    /// Chats that are held up with more than that many events in memory.
    pub(crate) fn held_up(&self, events: usize) -> Vec<Arc<str>> {
        let held_up = |lane: &&Lane<T>| lane.len() > events && lane.is_held_up();
        let lanes = self.lanes.iter().filter(|(_, lane)| held_up(lane));
        lanes.map(|(chat, _)| chat.clone()).collect()
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
    use std::slice;

    use super::*;

    const ANSWER: Priority = Priority::Answer;
    const NOTIFICATION: Priority = Priority::Notification;
    const REPLAY: Priority = Priority::Replay;

    fn chat(name: &str) -> Arc<str> {
        name.into()
    }

    fn next<T>(lanes: &mut Lanes<T>, chat: &str) -> Option<T> {
        lanes.next(chat).map(|started| started.event)
    }

    #[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    fn urgency<T>(lanes: &mut Lanes<T>, chat: &str) -> Urgency {
        lanes.next(chat).unwrap().urgency
    }

    #[test]
    fn one_event_of_a_chat_runs_at_a_time_in_order_of_position() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.enter(&a, 7, ANSWER, "second");
        lanes.enter(&a, 3, ANSWER, "first");
        assert_eq!(next(&mut lanes, &a), Some("first"));
        assert_eq!(next(&mut lanes, &a), None);
        lanes.ended(&a);
        assert_eq!(next(&mut lanes, &a), Some("second"));
        lanes.ended(&a);
        assert_eq!(lanes.len(), 0, "an empty lane is removed");
    }

    #[test]
    fn the_ninth_event_of_a_chat_waits_in_the_store_and_so_do_its_followers() {
        let (mut lanes, a) = (Lanes::<()>::default(), chat("a"));
        assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Start);
        for _ in 1..LANE_CAP {
            assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Hold);
        }
        assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Park);
        lanes.cancel(&a, ANSWER, Intent::Hold);
        assert_eq!(
            lanes.reserve(&a, ANSWER, false, true),
            Intent::Park,
            "there is room again, but one is behind"
        );
        assert_eq!(
            lanes.reserve(&chat("b"), ANSWER, false, true),
            Intent::Start,
            "other chats are not concerned"
        );
    }

    #[test]
    fn when_memory_is_short_a_chat_that_was_told_to_wait_gets_two_places() {
        let (mut lanes, a, b) = (Lanes::default(), chat("a"), chat("b"));
        for chat in [&a, &b] {
            lanes.enter(chat, 1, ANSWER, ());
        }
        let waits = urgency(&mut lanes, &a).told_to_wait();
        assert!(lanes.next(&b).is_some());
        for chat in [&a, &b] {
            assert_eq!(lanes.reserve(chat, ANSWER, true, true), Intent::Hold);
        }
        assert_eq!(lanes.held_up(1), slice::from_ref(&a));
        assert!(lanes.held_up(2).is_empty());
        assert_eq!(lanes.reserve(&a, ANSWER, true, true), Intent::Park);
        for _ in 2..LANE_CAP {
            let intent = lanes.reserve(&b, ANSWER, true, true);
            assert_eq!(intent, Intent::Hold, "nobody has told it to: it is only slow");
        }
        assert_eq!(lanes.reserve(&b, ANSWER, true, true), Intent::Park);
        drop(waits);
        assert!(lanes.held_up(0).is_empty(), "its wait is over");
    }

    #[test]
    fn what_goes_behind_takes_along_what_stands_after_it() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        for position in 1..=5 {
            lanes.enter(&a, position, ANSWER, position);
        }
        assert!(lanes.next(&a).is_some());
        assert!(lanes.evict(&a, |position| *position > 5).is_empty());
        assert_eq!(lanes.evict(&a, |position| *position == 3), [3, 4, 5]);
        assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Park);
        lanes.ended(&a);
        assert_eq!(next(&mut lanes, &a), Some(2), "what stands before it stays");
    }

    #[test]
    fn a_lane_asks_for_its_rows_when_it_runs_low_and_takes_events_again_when_none_is_behind() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.behind(&a, 1, ANSWER);
        assert!(lanes.wants_refill(&a, false));
        lanes.came_back(&a);
        lanes.enter(&a, 1, ANSWER, ());
        assert!(!lanes.wants_refill(&a, true));
        assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Hold);
    }

    #[test]
    fn a_recount_forgets_nothing_that_is_on_its_way_behind() {
        let (mut lanes, a, b) = (Lanes::default(), chat("a"), chat("b"));
        for chat in [&a, &b] {
            for position in 1..=3 {
                lanes.enter(chat, position, ANSWER, ());
            }
            assert!(lanes.next(chat).is_some());
        }
        assert_eq!(lanes.evict(&a, |()| true).len(), 2);
        lanes.behind(&b, 5, ANSWER);
        // The Store knows of the first of them, and of nothing of the other chat.
        let first = Behind {
            rows: 1,
            priority: ANSWER,
            first: Some(2),
        };
        lanes.recount(&HashMap::from([(a.clone(), first)]), |chat| chat == "a");
        lanes.came_back(&a);
        assert_eq!(
            lanes.reserve(&a, ANSWER, false, true),
            Intent::Park,
            "one is still behind"
        );
        assert_eq!(lanes.reserve(&b, ANSWER, false, true), Intent::Hold, "nothing was");
    }

    #[test]
    fn what_stands_after_a_position_is_found() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.enter(&a, 1, REPLAY, ());
        lanes.enter(&a, 5, ANSWER, ());
        assert!(lanes.has_after(&a, 4));
        assert!(!lanes.has_after(&a, 5), "not the event itself");
        assert!(!lanes.has_after(&a, 6));
        assert!(!lanes.has_after(&chat("b"), 0));
    }

    #[test]
    fn a_refill_never_exceeds_the_cap() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        for position in 0..=(LANE_CAP as i64 - i64::from(REFILL)) {
            lanes.enter(&a, position, ANSWER, ());
        }
        assert_eq!(lanes.longer_than(REFILLABLE), vec![a]);
    }

    #[test]
    fn a_chat_keeps_its_order_whatever_the_priorities_and_replays_come_last() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.enter(&a, 1, REPLAY, "replay");
        lanes.enter(&a, 2, NOTIFICATION, "notification");
        lanes.enter(&a, 3, ANSWER, "answer");
        for event in ["notification", "answer", "replay"] {
            assert_eq!(next(&mut lanes, &a), Some(event));
            lanes.ended(&a);
        }
    }

    #[test]
    fn a_running_event_is_as_urgent_as_what_waits_for_it() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        lanes.enter(&a, 1, NOTIFICATION, ());
        let running = urgency(&mut lanes, &a);
        assert_eq!(running.now(), NOTIFICATION);
        assert_eq!(lanes.reserve(&a, ANSWER, false, true), Intent::Hold);
        assert_eq!(running.now(), ANSWER, "as soon as the answer is known of");
        lanes.ended(&a);
        lanes.behind(&a, 1, ANSWER);
        lanes.enter(&a, 2, NOTIFICATION, ());
        let running = urgency(&mut lanes, &a);
        assert_eq!(running.now(), ANSWER, "what waits in the Store counts too");
        lanes.came_back(&a);
        lanes.ended(&a);
        lanes.enter(&a, 3, NOTIFICATION, ());
        assert_eq!(urgency(&mut lanes, &a).now(), NOTIFICATION);
    }

    #[test]
    fn what_no_person_waits_for_is_counted_until_it_leaves_memory() {
        let (mut lanes, a) = (Lanes::default(), chat("a"));
        let b = chat("b");
        assert_eq!(lanes.reserve(&a, NOTIFICATION, false, true), Intent::Start);
        assert_eq!(lanes.reserve(&b, ANSWER, false, true), Intent::Start);
        assert_eq!(lanes.unasked(), 1);
        assert_eq!(lanes.reserve(&chat("c"), NOTIFICATION, false, false), Intent::Park);
        lanes.cancel(&a, NOTIFICATION, Intent::Start);
        lanes.enter(&a, 1, NOTIFICATION, ());
        lanes.enter(&a, 2, REPLAY, ());
        assert_eq!(lanes.unasked(), 2);
        assert!(lanes.next(&a).is_some());
        assert_eq!(lanes.evict(&a, |()| true).len(), 1);
        lanes.ended(&a);
        assert_eq!(lanes.unasked(), 0);
    }
}
