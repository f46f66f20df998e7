//! Which deliveries of one consumer are out, and the fewest acknowledgements that settle the rest.

use std::collections::{BTreeMap, BTreeSet};

/// One `basic.ack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    /// The delivery tag.
    pub(super) tag: u64,
    /// Whether it settles every earlier delivery too.
    pub(super) multiple: bool,
}

/// Bounded by the consumer's prefetch: the broker has no more than that out.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By delivery, how many of its events the worker is not done with.
    out: BTreeMap<u64, usize>,
    settled: BTreeSet<u64>,
}

impl Ledger {
    /// The broker handed out `tag`, a message of `events` events.
    pub(super) fn delivered(&mut self, tag: u64, events: usize) {
        self.out.insert(tag, events);
    }

    /// The worker is done with one event of `tag`.
    pub(super) fn settle(&mut self, tag: u64) {
        let Some(left) = self.out.get_mut(&tag) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.out.remove(&tag);
            self.settled.insert(tag);
        }
    }

    /// How many deliveries the worker is not done with.
    pub(super) fn out(&self) -> usize {
        self.out.len()
    }

    /// Whether what waits to be sent is half of the places that move, of `prefetch`: the broker refills them while the worker
    /// has the other half.
    pub(super) fn is_short(&self, prefetch: usize) -> bool {
        self.waiting() * 2 >= prefetch.saturating_sub(self.out())
    }

    /// How many acknowledgements wait to be sent.
    pub(super) fn waiting(&self) -> usize {
        self.settled.len()
    }

    /// The prefix without a gap, in one.
    ///
    /// A `multiple` ack must name a tag that is still unsettled at the broker, or the channel is closed (406): it names
    /// the greatest of its own batch.
    pub(super) fn flush_prefix(&mut self) -> Option<Ack> {
        let behind_a_gap = match self.out.first_key_value() {
            Some((first_out, _)) => self.settled.split_off(first_out),
            None => BTreeSet::new(),
        };
        let prefix = std::mem::replace(&mut self.settled, behind_a_gap);
        prefix.last().map(|tag| Ack {
            tag: *tag,
            multiple: prefix.len() > 1,
        })
    }

    /// Everything: the prefix in one, the rest one by one, in this order.
    pub(super) fn flush(&mut self) -> Vec<Ack> {
        let prefix = self.flush_prefix();
        let rest = std::mem::take(&mut self.settled).into_iter();
        prefix
            .into_iter()
            .chain(rest.map(|tag| Ack { tag, multiple: false }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn single(tag: u64) -> Ack {
        Ack { tag, multiple: false }
    }

    #[test]
    fn a_prefix_without_a_gap_goes_out_as_one() {
        let mut ledger = Ledger::default();
        (1..=6).for_each(|tag| ledger.delivered(tag, 1));
        for tag in [3, 1, 2, 5] {
            ledger.settle(tag);
        }
        assert_eq!(ledger.flush(), [Ack { tag: 3, multiple: true }, single(5)]);
        assert_eq!(ledger.flush(), []);
        ledger.settle(4);
        assert_eq!(ledger.flush(), [single(4)]);
    }

    #[test]
    fn what_stands_behind_a_gap_may_wait_for_it_to_close() {
        let mut ledger = Ledger::default();
        (1..=5).for_each(|tag| ledger.delivered(tag, 1));
        [1, 3, 4].into_iter().for_each(|tag| ledger.settle(tag));
        assert_eq!(ledger.flush_prefix(), Some(single(1)));
        assert_eq!(ledger.flush_prefix(), None);
        assert_eq!(ledger.waiting(), 2);
        ledger.settle(2);
        assert_eq!(ledger.flush_prefix(), Some(Ack { tag: 4, multiple: true }));
        assert_eq!(ledger.waiting(), 0);
    }

    #[test]
    fn a_message_is_settled_with_the_last_of_its_events() {
        let mut ledger = Ledger::default();
        ledger.delivered(1, 3);
        ledger.delivered(2, 1);
        [1, 2, 1].into_iter().for_each(|tag| ledger.settle(tag));
        assert_eq!(ledger.flush(), [single(2)]);
        ledger.settle(1);
        assert_eq!(ledger.flush(), [single(1)]);
    }

    #[test]
    fn half_of_the_places_that_move_is_short_whatever_slow_ones_hold() {
        let mut ledger = Ledger::default();
        (1..=10).for_each(|tag| ledger.delivered(tag, 1));
        (6..=7).for_each(|tag| ledger.settle(tag));
        // Eight are out, so of ten places two move, of twelve four, of sixteen eight.
        assert!(ledger.is_short(10));
        assert!(ledger.is_short(12));
        assert!(!ledger.is_short(13));
        assert!(!ledger.is_short(16));
        (8..=9).for_each(|tag| ledger.settle(tag));
        assert!(ledger.is_short(14));
    }

    #[test]
    fn a_tag_is_settled_once() {
        let mut ledger = Ledger::default();
        ledger.delivered(1, 1);
        ledger.settle(1);
        ledger.settle(1);
        ledger.settle(9);
        assert_eq!(ledger.flush(), [single(1)]);
    }

    proptest! {
        /// A broker that follows the letter of AMQP never closes the channel and ends with exactly what is still out.
        #[test]
        fn the_broker_agrees_about_what_is_out(steps in prop::collection::vec((any::<u16>(), 0..4u8), 1..200)) {
            let mut ledger = Ledger::default();
            let mut broker = BTreeSet::new();
            let mut worker = Vec::new();
            let heed = |acks: Vec<Ack>, broker: &mut BTreeSet<u64>| {
                for ack in acks {
                    prop_assert!(broker.contains(&ack.tag), "406 for {ack:?}, out at the broker: {broker:?}");
                    if ack.multiple {
                        broker.retain(|tag| *tag > ack.tag);
                    } else {
                        broker.remove(&ack.tag);
                    }
                }
                Ok(())
            };
            for (tag, (pick, flushes)) in (1..).zip(steps) {
                let events = usize::from(pick % 4) + 1;
                ledger.delivered(tag, events);
                broker.insert(tag);
                worker.extend(std::iter::repeat_n(tag, events));
                if pick % 3 > 0 {
                    ledger.settle(worker.swap_remove(usize::from(pick) % worker.len()));
                }
                match flushes {
                    0 => heed(ledger.flush(), &mut broker)?,
                    1 => heed(ledger.flush_prefix().into_iter().collect(), &mut broker)?,
                    _ => {}
                }
            }
            heed(ledger.flush(), &mut broker)?;
            prop_assert_eq!(broker, worker.into_iter().collect::<BTreeSet<_>>());
        }
    }
}
