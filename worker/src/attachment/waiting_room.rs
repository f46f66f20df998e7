//! What goes between memory and the waiting room: events that memory has no room for, and rows that are due.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::fail_point::fail_point;
use openclaw_common::quota::Urgency;
use openclaw_common::store::Room;
use tokio::sync::OwnedSemaphorePermit;

use super::Attachment;
use crate::lanes::{REFILL, REFILLABLE, TIGHT_CAP};
use crate::process::{End, Work};

/// Rows taken from the waiting room at once.
const MAX_DUE: u32 = 64;
/// Events in memory beyond which nothing more is taken from the waiting room.
const MAX_HELD: usize = 512;
/// Chats that starve with rows behind them are counted anew at most so often: strict order lets them starve rightly.
const RECOUNT: Duration = Duration::from_secs(5);

impl Attachment {
    /// How many more events that no person waits for may be in memory: two seconds' worth of the bot's quota in all.
    pub(super) fn unasked_room(&self) -> usize {
        (self.prefetch / 2).saturating_sub(self.lanes.unasked())
    }

    /// Whether it is worth while to look for them: half of their places are free.
    fn has_unasked_room(&self) -> bool {
        self.unasked_room() * 4 >= self.prefetch
    }

    /// Whether half of what may be out is held.
    pub(super) fn is_short(&self) -> bool {
        self.held.len() * 2 > self.prefetch
    }

    /// Of chats that are held up only what runs stays; the deliveries behind it wait in the Store, and make place at the broker
    /// for others. What came from there takes no such place: no event makes this way twice.
    pub(super) fn make_room(&mut self) {
        // Without the database nothing ends, and nothing could go there.
        if self.engine.commits.is_reachable() {
            for chat in self.lanes.held_up(TIGHT_CAP) {
                let copies = |work: &Work| {
                    self.held
                        .get(&work.row.envelope.key)
                        .is_some_and(|copies| !copies.is_empty())
                };
                let evicted = self.lanes.evict(&chat, |work| work.receipt.is_some() || copies(work));
                self.park(&chat, evicted);
            }
        }
    }

    pub(super) fn wants_refill(&self, chat: &str) -> bool {
        let room = self.has_unasked_room();
        (room && self.crowded) || self.lanes.wants_refill(chat, room)
    }

    /// What stands in memory behind the chat's running or waiting event goes behind it in the Store.
    pub(super) fn evict(&mut self, chat: &Arc<str>) {
        let evicted = self.lanes.evict(chat, |_| true);
        self.park(chat, evicted);
    }

    fn park(&mut self, chat: &Arc<str>, evicted: Vec<Work>) {
        if evicted.is_empty() {
            return;
        }
        *self.evicting.entry(chat.clone()).or_default() += evicted.len();
        for work in evicted {
            let urgency = Urgency::new(work.row.priority());
            self.spawn(chat.clone(), work, urgency, true);
        }
    }

    pub(super) fn evicted(&mut self, chat: &Arc<str>, end: End) {
        if let Some(count) = self.evicting.get_mut(chat) {
            *count -= 1;
            if *count == 0 {
                self.evicting.remove(chat);
            }
        }
        if !matches!(end, End::Waiting { .. }) {
            self.lanes.came_back(chat);
        }
    }

    /// Takes what is due, when its turn among the bots' looks has come.
    pub(super) async fn refill(&mut self, _turn: OwnedSemaphorePermit) {
        self.refill = false;
        if self.stop.is_cancelled() || self.held.len() >= MAX_HELD {
            return;
        }
        let mut full = self.lanes.longer_than(REFILLABLE);
        full.extend(self.evicting.keys().cloned());
        let answers = MAX_DUE.min(u32::try_from(MAX_HELD - self.held.len()).unwrap_or(0));
        let room = Room {
            full: &full,
            per_chat: REFILL,
            answers,
            others: answers.min(u32::try_from(self.unasked_room()).unwrap_or(0)),
        };
        let (bot, engine) = (self.bot.clone(), self.engine.clone());
        match self.meanwhile(engine.store.take_due(&bot, room)).await {
            Ok(rows) => {
                if !rows.is_empty() {
                    fail_point("R3", "");
                }
                self.refill |= rows.len() >= MAX_DUE as usize;
                // As many as there was room for: there may be more.
                self.crowded = rows.len() >= room.others as usize;
                let all = full.is_empty() && !self.crowded;
                for row in rows {
                    if row.held {
                        self.lanes.came_back(&row.envelope.chat);
                    }
                    self.enter(Work {
                        row,
                        receipt: None,
                        started: false,
                    });
                }
                self.unsure |= all && self.lanes.is_starved() && self.looked.elapsed() > RECOUNT;
            }
            Err(error) => {
                tracing::warn!(bot = %self.bot, %error, "cannot look into the waiting room");
                // The rows may be taken up all the same.
                self.unsure = true;
            }
        }
    }
}
