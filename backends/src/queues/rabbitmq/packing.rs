//! How many events a bot's messages carry, to tell them from the broker's count of messages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use openclaw_common::bot::BotId;

/// Messages whose events are counted together.
const CHUNK: u64 = 64;
/// Chunks of a bot that are remembered: more messages than the default `message.queue_size`, in 32 KiB.
const MEMORY: usize = 2048;

/// What this process has written last to each bot, across connections.
#[derive(Debug, Default)]
pub(super) struct Packing(Mutex<HashMap<BotId, VecDeque<Chunk>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Chunk {
    messages: u64,
    events: u64,
}

impl Packing {
    /// One message of so many events went out.
    pub(super) fn wrote(&self, bot: &BotId, events: usize) {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chunks = match by_bot.get_mut(bot) {
            Some(chunks) => chunks,
            None => by_bot.entry(bot.clone()).or_default(),
        };
        if chunks.back().is_none_or(|last| last.messages == CHUNK) {
            if chunks.len() == MEMORY {
                chunks.pop_front();
            }
            chunks.push_back(Chunk::default());
        }
        if let Some(last) = chunks.back_mut() {
            last.messages += 1;
            last.events += events as u64;
        }
    }

    /// How many events the `messages` of the bot's queue hold. They are the last ones written, as the queue gives out the
    /// oldest first: exact to within a chunk while no other process writes to it. Those that were written before anything
    /// that is remembered count as one event each: an estimate by the rest could refuse events of a bot that has room.
    pub(super) fn events(&self, bot: &BotId, messages: u64) -> u64 {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if messages == 0 {
            by_bot.remove(bot);
            return 0;
        }
        let (mut left, mut events) = (messages, 0);
        for chunk in by_bot.get(bot).into_iter().flatten().rev() {
            let here = left.min(chunk.messages);
            events += (chunk.events * here).div_ceil(chunk.messages);
            left -= here;
        }
        events + left
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_in_the_queue_is_what_was_written_last() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        assert_eq!(packing.events(&bot, 7), 7, "nothing is known");
        (0..CHUNK).for_each(|_| packing.wrote(&bot, 1));
        [1, 4, 3].into_iter().for_each(|events| packing.wrote(&bot, events));
        assert_eq!(packing.events(&bot, 3), 8);
        assert_eq!(packing.events(&bot, 1), 3, "a third of the chunk");
        assert_eq!(packing.events(&bot, 3 + CHUNK), 8 + CHUNK);
        assert_eq!(packing.events(&bot, 0), 0);
        packing.wrote(&bot, 2);
        assert_eq!(packing.events(&bot, 1), 2);
    }

    #[test]
    fn what_was_written_before_this_process_began_is_not_taken_to_be_like_the_rest() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        packing.wrote(&bot, 6);
        assert_eq!(packing.events(&bot, 20_001), 20_006);
    }

    #[test]
    fn memory_is_bounded() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        let most = MEMORY as u64 * CHUNK;
        (0..2 * most).for_each(|_| packing.wrote(&bot, 4));
        assert_eq!(packing.0.lock().unwrap()[&bot].len(), MEMORY);
        assert_eq!(packing.events(&bot, 2 * most), 5 * most);
    }
}
