//! How many events a bot's messages carry, to tell them from the broker's count of messages.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::bot::BotId;

/// Messages of a bot that are remembered.
const MEMORY: usize = 4096;

/// What this process has written last to each bot, across connections.
#[derive(Debug, Default)]
pub(super) struct Packing(Mutex<HashMap<BotId, VecDeque<u8>>>);

impl Packing {
    /// One message of so many events went out.
    pub(super) fn wrote(&self, bot: &BotId, events: usize) {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sizes = match by_bot.get_mut(bot) {
            Some(sizes) => sizes,
            None => by_bot.entry(bot.clone()).or_default(),
        };
        if sizes.len() == MEMORY {
            sizes.pop_front();
        }
        sizes.push_back(u8::try_from(events).unwrap_or(u8::MAX));
    }

    /// How many events the `messages` of the bot's queue hold. They are the last ones written, as the queue gives out the
    /// oldest first: exact while no other process writes to it. Those beyond the memory are taken to be like the rest.
    pub(super) fn events(&self, bot: &BotId, messages: u64) -> u64 {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if messages == 0 {
            by_bot.remove(bot);
            return 0;
        }
        let Some(sizes) = by_bot.get(bot) else {
            return messages;
        };
        let last = sizes.iter().rev().take(usize::try_from(messages).unwrap_or(usize::MAX));
        let (known, events) = last.fold((0, 0), |(known, events), size| (known + 1, events + u64::from(*size)));
        messages * events / known
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
        [1, 4, 3].into_iter().for_each(|events| packing.wrote(&bot, events));
        assert_eq!(packing.events(&bot, 3), 8);
        assert_eq!(packing.events(&bot, 2), 7);
        assert_eq!(packing.events(&bot, 1), 3);
        assert_eq!(packing.events(&bot, 6), 16, "an estimate");
        assert_eq!(packing.events(&bot, 0), 0);
        packing.wrote(&bot, 2);
        assert_eq!(packing.events(&bot, 1), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        (0..3 * MEMORY).for_each(|_| packing.wrote(&bot, 4));
        assert_eq!(packing.0.lock().unwrap()[&bot].len(), MEMORY);
        assert_eq!(packing.events(&bot, 100_000), 400_000);
    }
}
