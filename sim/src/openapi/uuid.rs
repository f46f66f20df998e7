//! The platform's idempotency: at most one visible message per app and `uuid` within one hour.
//!
//! A repeat gets the first message's id; while the first request is still being worked on, a repeat gets 230049. The
//! real scope is not published: per app, shared by create and reply, is the reading under which a client that derives
//! its uuids carelessly loses most.

use std::time::Duration;

use crate::bounded::{BoundedMap, Fingerprint, Fingerprints};
use crate::clock::micros;

/// How long a uuid holds (`docs/design/feishu-protocol.md` §6.2), before the time scale.
pub(crate) const UUID_WINDOW: Duration = Duration::from_secs(3600);

/// What is known of a uuid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Unused, or so long ago that it may be used again.
    Free,
    /// The first request has not finished.
    InFlight,
    /// It made the message with this serial.
    Done(u64),
}

#[derive(Debug)]
struct Entry {
    state: Use,
    at_us: u64,
}

/// All uuids of the last hour.
#[derive(Debug)]
pub(crate) struct Uuids {
    entries: BoundedMap<Entry, Fingerprint>,
    fingerprints: Fingerprints,
    window_us: u64,
}

impl Uuids {
    pub(crate) fn new(window: Duration, capacity: usize) -> Self {
        Self {
            entries: BoundedMap::new(capacity),
            fingerprints: Fingerprints::default(),
            window_us: micros(window),
        }
    }

    pub(crate) fn state(&self, app: &str, uuid: &str, now_us: u64) -> Use {
        match self.entries.get(&self.fingerprints.of(app, uuid)) {
            Some(entry) if entry.state == Use::InFlight || now_us.saturating_sub(entry.at_us) < self.window_us => {
                entry.state
            }
            _ => Use::Free,
        }
    }

    pub(crate) fn set(&mut self, app: &str, uuid: &str, state: Use, now_us: u64) {
        let window_us = self.window_us;
        self.entries
            .expire(|entry| entry.state != Use::InFlight && now_us.saturating_sub(entry.at_us) >= window_us);
        let key = self.fingerprints.of(app, uuid);
        self.entries.insert(key, Entry { state, at_us: now_us });
    }

    /// Uuids forgotten before their hour was over.
    pub(crate) fn forgotten(&self) -> u64 {
        self.entries.evicted()
    }
}
