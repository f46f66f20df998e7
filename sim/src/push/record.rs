//! What the pusher writes down: one line per event, counters, and latencies from the moment a push was due.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::bounded::Ring;
use crate::clock::micros;

/// Latencies are kept up to this; longer ones count as this.
const LONGEST_US: u64 = 24 * 3600 * 1_000_000;

/// One event's story.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The app it was for.
    pub app: Arc<str>,
    /// The bot it was for.
    pub bot: Arc<str>,
    /// The event's identity: a message's `message_id`, else its `event_id`.
    pub key: Arc<str>,
    /// Where it happened.
    pub chat: Arc<str>,
    /// Its type.
    pub event_type: &'static str,
    /// Whether an echoing bot owes it a reply.
    pub wants_reply: bool,
    /// Fingerprint of a message's content, to compare with its echo.
    pub content: Option<u64>,
    /// When it should have been pushed first, monotonic microseconds.
    pub due_us: u64,
    /// When its first attempt began.
    pub begun_us: u64,
    /// When the first 200 came back; `None`: given up.
    pub accepted_us: Option<u64>,
    /// Attempts of the timetable that were made.
    pub attempts: u32,
    /// Copies pushed on purpose beside or after them.
    pub duplicates: u32,
    /// The last attempt's status; `None`: no answer.
    pub status: Option<u16>,
    /// The last answer of a callback, which carries content; `None` for events, whose answers carry none.
    pub answer: Option<Bytes>,
}

/// Stands for a message's content, so that a long run need not keep every text.
pub(crate) fn content_hash(content: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Counters over a pusher's whole life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushTotals {
    /// Events whose story is over.
    pub events: u64,
    /// Those that got a 200.
    pub accepted: u64,
    /// Those that used up the timetable, or that the end of the run cut short.
    pub given_up: u64,
    /// Accepted ones that an echoing bot owes a reply.
    pub owed: u64,
    /// Attempts, duplicates included, by status; `None`: no answer.
    pub statuses: BTreeMap<Option<u16>, u64>,
}

/// Everything a pusher wrote down.
#[derive(Debug)]
pub struct PushLog {
    events: Ring<Pushed>,
    totals: PushTotals,
    accept: Latency,
    attempt: Latency,
}

impl PushLog {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            events: Ring::new(keep),
            totals: PushTotals::default(),
            accept: Latency::new(),
            attempt: Latency::new(),
        }
    }

    pub(crate) fn record_attempt(&mut self, status: Option<u16>, took: Duration) {
        *self.totals.statuses.entry(status).or_default() += 1;
        self.attempt.record(micros(took));
    }

    pub(crate) fn record(&mut self, pushed: Pushed) {
        self.totals.events += 1;
        match pushed.accepted_us {
            Some(accepted_us) => {
                self.totals.accepted += 1;
                self.totals.owed += u64::from(pushed.wants_reply);
                self.accept.record(accepted_us.saturating_sub(pushed.due_us));
            }
            None => self.totals.given_up += 1,
        }
        self.events.push(pushed);
    }

    /// The remembered events, in the order their stories ended.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Pushed> + ExactSizeIterator {
        self.events.iter()
    }

    /// Events that had to be forgotten.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.events.forgotten()
    }

    /// Counters over the whole run.
    #[must_use]
    pub fn totals(&self) -> &PushTotals {
        &self.totals
    }

    /// From the moment a push was due to its 200, re-pushes included: no coordinated omission.
    #[must_use]
    pub fn accept_latency(&self) -> &Latency {
        &self.accept
    }

    /// From the beginning of each attempt to its end, whatever that was.
    #[must_use]
    pub fn attempt_latency(&self) -> &Latency {
        &self.attempt
    }
}

/// A distribution of durations, to three significant digits, in fixed memory.
#[derive(Clone, Debug)]
pub struct Latency(Option<Histogram<u64>>);

impl Latency {
    fn new() -> Self {
        // Fails only for bounds that make no sense, and these are constant.
        Self(Histogram::new_with_bounds(1, LONGEST_US, 3).ok())
    }

    fn record(&mut self, value_us: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(value_us.max(1));
        }
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The value that `quantile` (0 to 1) of all do not exceed.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(
            self.0
                .as_ref()
                .map_or(0, |histogram| histogram.value_at_quantile(quantile)),
        )
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.as_ref().map_or(0, Histogram::max))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            formatter,
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms(self.quantile(0.5)),
            ms(self.quantile(0.99)),
            ms(self.max())
        )
    }
}
