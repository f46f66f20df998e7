//! Counts every call of the Open API, by tenant and kind, until the Store has the count.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use openclaw_common::store::{Calls, Spent, Tally};
use openclaw_common::telemetry;

/// The calls of this process. Purchases of tokens are not counted: the platform's quota is for what a token buys.
#[derive(Debug)]
pub(crate) struct Meter {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As the Store said last, whoever made them.
    base: HashMap<String, u64>,
    /// Not stored yet, nor in `sent`.
    counted: HashMap<(String, &'static str), u64>,
    /// Given to the Store, which has not said that it has it.
    sent: Option<Tally>,
    writer: String,
    number: i64,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                base: HashMap::new(),
                counted: HashMap::new(),
                sent: None,
                writer: format!("{:032x}", rand::random::<u128>()),
                number: 0,
            }),
        }
    }
}

impl Meter {
    /// One more call is on its way.
    pub(crate) fn count(&self, tenant: &str, kind: &'static str) {
        telemetry::API_CALLS.add(kind);
        *self.lock().counted.entry((tenant.to_owned(), kind)).or_default() += 1;
    }

    /// This month's calls of a tenant, as far as this process knows.
    pub(crate) fn used(&self, tenant: &str) -> u64 {
        let state = self.lock();
        let counted = state.counted.iter().filter(|((whose, _), _)| whose == tenant);
        let sent = state.sent.iter().flat_map(|tally| &tally.calls);
        let sent: u64 = sent
            .filter(|calls| calls.tenant == tenant)
            .map(|calls| calls.count)
            .sum();
        state.base.get(tenant).copied().unwrap_or(0) + counted.map(|(_, count)| count).sum::<u64>() + sent
    }

    /// What the Store is to be given now: first what it may or may not have got, under the same number.
    pub(crate) fn tally(&self) -> Option<Tally> {
        let mut state = self.lock();
        if state.sent.is_none() && !state.counted.is_empty() {
            state.number += 1;
            let calls = std::mem::take(&mut state.counted).into_iter();
            let tally = Tally {
                writer: state.writer.clone(),
                number: state.number,
                calls: calls
                    .map(|((tenant, kind), count)| Calls {
                        tenant,
                        kind: kind.to_owned(),
                        count,
                    })
                    .collect(),
            };
            state.sent = Some(tally);
        }
        state.sent.clone()
    }

    /// The Store has the last tally. Its calls count until [`Meter::learn`] as if they were the Store's already.
    pub(crate) fn stored(&self) {
        let mut state = self.lock();
        for calls in state.sent.take().into_iter().flat_map(|tally| tally.calls) {
            *state.base.entry(calls.tenant).or_default() += calls.count;
        }
    }

    /// What the Store knows, read after [`Meter::stored`].
    pub(crate) fn learn(&self, spent: &Spent) {
        let mut base = HashMap::new();
        for calls in &spent.calls {
            *base.entry(calls.tenant.clone()).or_default() += calls.count;
        }
        self.lock().base = base;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_tally_keeps_its_number_until_it_is_stored() {
        let meter = Meter::default();
        assert_eq!(meter.tally(), None, "nothing was counted");
        meter.count("a", "reply");
        meter.count("a", "reply");
        let first = meter.tally().unwrap();
        meter.count("a", "create");
        meter.count("b", "reply");
        assert_eq!(
            meter.tally().unwrap(),
            first,
            "its answer was lost: it is repeated as it was"
        );
        assert_eq!((meter.used("a"), meter.used("b")), (3, 1));
        meter.stored();
        assert_eq!((meter.used("a"), meter.used("b")), (3, 1));
        let second = meter.tally().unwrap();
        assert_eq!((second.number, second.calls.len()), (first.number + 1, 2));
        meter.stored();
        assert_eq!(meter.tally(), None);
        let others = Calls {
            tenant: "a".to_owned(),
            kind: "reply".to_owned(),
            count: 40,
        };
        let calls = vec![others];
        meter.learn(&Spent { now_ms: 0, calls });
        meter.count("a", "reply");
        assert_eq!((meter.used("a"), meter.used("b")), (41, 0), "the Store knows better");
    }
}
