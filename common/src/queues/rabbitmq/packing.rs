//! How many events a message of a bot carries, to tell events from the broker's count of messages.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::bot::BotId;

/// Messages after which older ones count half.
const MEMORY: u64 = 4096;

/// What this process has written to each bot since its queue was last seen empty, across connections.
#[derive(Debug, Default)]
pub(super) struct Packing(Mutex<HashMap<BotId, Written>>);

#[derive(Clone, Copy, Debug, Default)]
struct Written {
    messages: u64,
    events: u64,
}

impl Packing {
    /// One message of so many events went out.
    pub(super) fn wrote(&self, bot: &BotId, events: usize) {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match by_bot.get_mut(bot) {
            Some(written) => written,
            None => by_bot.entry(bot.clone()).or_default(),
        };
        if written.messages >= MEMORY {
            written.messages /= 2;
            written.events /= 2;
        }
        written.messages += 1;
        written.events += events as u64;
    }

    /// How many events `messages` of the bot's queue hold: exact while all of them are this process's, an estimate else.
    pub(super) fn events(&self, bot: &BotId, messages: u64) -> u64 {
        let mut by_bot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if messages == 0 {
            by_bot.remove(bot);
            return 0;
        }
        match by_bot.get(bot) {
            Some(written) => messages.saturating_mul(written.events) / written.messages.max(1),
            None => messages,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_this_process_wrote_is_counted_exactly_until_the_queue_is_empty() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        assert_eq!(packing.events(&bot, 7), 7, "nothing is known");
        [1, 8, 3].into_iter().for_each(|events| packing.wrote(&bot, events));
        assert_eq!(packing.events(&bot, 3), 12);
        assert_eq!(packing.events(&bot, 1), 4, "an estimate");
        assert_eq!(packing.events(&bot, 0), 0);
        packing.wrote(&bot, 2);
        assert_eq!(packing.events(&bot, 1), 2);
    }

    #[test]
    fn a_burst_of_long_ago_counts_little() {
        let (packing, bot) = (Packing::default(), BotId::new("bot1").unwrap());
        for events in [8, 1] {
            (0..5 * MEMORY).for_each(|_| packing.wrote(&bot, events));
            let estimate = packing.events(&bot, 1000);
            assert!(estimate.abs_diff(1000 * events as u64) < 200, "{estimate}");
        }
    }
}
