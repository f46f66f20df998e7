//! Whether what is in memory leaves it soon.
//!
//! While it does, nothing is gained by moving events from the broker's queue into the Store to get at those behind them: they
//! are reached in a moment anyway, and each move costs the database two more writes.
//!
//! While it does not, that may have two causes: chats that were told to wait, or a machine that has no time. Only the first is
//! a reason to move anything ([`crate::lanes::Lanes::held_up`]): moving is work, and a slow machine that does more of it stays
//! slow.

use std::time::{Duration, Instant};

/// How long endings are counted before they are judged.
const WINDOW: Duration = Duration::from_secs(1);
/// Memory that is renewed within this leaves soon. What the broker hands out is four seconds of the bot's quota, so a bot that
/// uses its quota is renewed as fast, unless its quota is so small that the least prefetch is many seconds of it.
const RENEWED_WITHIN: Duration = Duration::from_secs(5);

/// The endings of one attachment, against the deliveries it may hold.
#[derive(Debug)]
pub(super) struct Throughput {
    prefetch: u32,
    since: Instant,
    ended: u32,
    /// Whether memory was short at any look of this window.
    short: bool,
    high: bool,
}

impl Throughput {
    pub(super) fn new(prefetch: u16, now: Instant) -> Self {
        Self {
            prefetch: u32::from(prefetch),
            since: now,
            ended: 0,
            short: false,
            // Nothing is held yet.
            high: true,
        }
    }

    /// An event has had its turn.
    pub(super) fn ended(&mut self) {
        self.ended = self.ended.saturating_add(1);
    }

    /// What is held leaves memory soon, or there is little of it.
    pub(super) fn is_high(&self) -> bool {
        self.high
    }

    /// When to look again at the latest, while memory is short.
    pub(super) fn due(&self) -> Instant {
        self.since + WINDOW
    }

    /// Looks at the window once it is over. `short`: how memory is now. Whether a window has just ended in which memory was
    /// short and did not leave soon, and it still is short.
    pub(super) fn is_slow_at(&mut self, now: Instant, short: bool) -> bool {
        let window = now.saturating_duration_since(self.since);
        if window < WINDOW {
            self.short |= short;
            return false;
        }
        // Where memory was never short, few endings only mean that there was little to do.
        self.high = !self.short || RENEWED_WITHIN * self.ended >= window * self.prefetch;
        (self.since, self.ended, self.short) = (now, 0, short);
        short && !self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFETCH: u16 = 100;

    fn after(throughput: &mut Throughput, now: &mut Instant, endings: u32, short: bool) -> bool {
        for _ in 0..endings {
            throughput.ended();
        }
        *now += WINDOW;
        throughput.is_slow_at(*now, short)
    }

    #[test]
    fn a_bot_whose_memory_is_renewed_in_five_seconds_has_a_high_throughput() {
        let mut now = Instant::now();
        let mut throughput = Throughput::new(PREFETCH, now);
        assert!(!throughput.is_slow_at(now, true));
        assert!(!after(&mut throughput, &mut now, 20, true));
        assert!(throughput.is_high());
        assert!(after(&mut throughput, &mut now, 19, true), "it has slowed");
        assert!(!throughput.is_high());
        assert!(after(&mut throughput, &mut now, 0, true), "and still is");
        assert!(!after(&mut throughput, &mut now, 0, false), "but holds little");
        assert!(!after(&mut throughput, &mut now, 20, true));
        assert!(throughput.is_high(), "and it may become high again");
    }

    #[test]
    fn a_bot_with_little_to_do_has_a_high_throughput_whenever_a_burst_comes() {
        let mut now = Instant::now();
        let mut throughput = Throughput::new(PREFETCH, now);
        now += Duration::from_secs(60);
        assert!(!throughput.is_slow_at(now, true), "the burst has only come");
        assert!(throughput.is_high());
        assert!(
            after(&mut throughput, &mut now, 0, true),
            "a window later nothing has ended"
        );
    }

    #[test]
    fn a_late_look_counts_the_time_that_has_passed() {
        let mut now = Instant::now();
        let mut throughput = Throughput::new(PREFETCH, now);
        throughput.is_slow_at(now, true);
        now += WINDOW;
        assert!(after(&mut throughput, &mut now, 39, true), "39 in two seconds");
    }
}
