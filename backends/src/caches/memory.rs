//! The cache of one process, for the embedded backend.

mod expiring;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::expiring::Expiring;
use openclaw_common::cache::{Cache, CacheError, Claim, Level, Member, Slot, Take};
use openclaw_common::envelope::EventKey;
use openclaw_common::quota::{LATE_GUARD, Offer, SlidingWindowLog};

/// Events the dedup filter remembers. The filter may forget (the Store decides), so a flood costs early forgetting and not memory.
const MARKS: usize = 262_144;
/// Values kept.
const VALUES: usize = 65_536;
/// Workers known. One process has one; the bound is for form.
const MEMBERS: usize = 1_024;

/// Everything behind short locks; nothing waits while holding one.
#[derive(Debug)]
pub struct Memory {
    origin: Instant,
    marks: Mutex<Expiring<EventKey, Mark>>,
    log: Mutex<SlidingWindowLog>,
    values: Mutex<Expiring<String, Vec<u8>>>,
    members: Mutex<Expiring<String, String>>,
}

#[derive(Debug)]
enum Mark {
    Claimed(String),
    Done,
}

impl Memory {
    /// An empty cache. It knows nothing of what a process before it sent, so its limits grant nothing at first.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            marks: Mutex::new(Expiring::new(MARKS)),
            log: Mutex::new(SlidingWindowLog::new(0)),
            values: Mutex::new(Expiring::new(VALUES)),
            members: Mutex::new(Expiring::new(MEMBERS)),
        }
    }

    /// How much is held, by kind: to watch that it stays bounded.
    #[must_use]
    pub fn sizes(&self) -> HashMap<&'static str, usize> {
        HashMap::from([
            ("marks", lock(&self.marks).len()),
            ("levels", lock(&self.log).len()),
            ("values", lock(&self.values).len()),
            ("members", lock(&self.members).len()),
        ])
    }

    fn now(&self) -> u64 {
        micros(self.origin.elapsed())
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Cache for Memory {
    async fn claim(&self, key: &EventKey, token: &str, ttl: Duration) -> Result<Claim, CacheError> {
        let mut marks = lock(&self.marks);
        match marks.get(key) {
            Some(Mark::Done) => Ok(Claim::Done),
            Some(Mark::Claimed(holder)) if holder != token => Ok(Claim::Busy),
            _ => {
                marks.insert(key.clone(), Mark::Claimed(token.to_owned()), ttl);
                Ok(Claim::Claimed)
            }
        }
    }

    async fn finish(&self, events: &[(EventKey, Duration)]) -> Result<(), CacheError> {
        let mut marks = lock(&self.marks);
        for (key, ttl) in events {
            marks.insert(key.clone(), Mark::Done, *ttl);
        }
        Ok(())
    }

    async fn release(&self, key: &EventKey, token: &str) -> Result<(), CacheError> {
        let mut marks = lock(&self.marks);
        if matches!(marks.get(key), Some(Mark::Claimed(holder)) if holder == token) {
            marks.remove(key);
        }
        Ok(())
    }

    async fn take(&self, levels: &[Level], horizon: Duration) -> Result<Take, CacheError> {
        let mut log = lock(&self.log);
        let now = self.now();
        Ok(match log.take(now, levels, horizon) {
            Offer::Slot { at, id } => Take::Granted {
                wait: Duration::from_micros(at - now),
                slack: LATE_GUARD,
                slot: Slot(format!("{at}:{id}")),
            },
            Offer::Later { again, level } => Take::Later {
                wait: Duration::from_micros(again - now),
                level,
            },
        })
    }

    async fn give_back(&self, levels: &[Level], slot: &Slot) -> Result<(), CacheError> {
        let (at, id) = slot_of(slot)?;
        lock(&self.log).give_back(levels, at, id);
        Ok(())
    }

    async fn hold(&self, levels: &[Level], slot: &Slot) -> Result<Slot, CacheError> {
        let (at, id) = slot_of(slot)?;
        let held = lock(&self.log).hold(self.now(), levels, at, id);
        Ok(Slot(format!("{held}:{id}")))
    }

    async fn pause(&self, key: &str, pause: Duration) -> Result<(), CacheError> {
        lock(&self.log).pause(key, self.now().saturating_add(micros(pause)));
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(lock(&self.values).get(key).cloned())
    }

    async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), CacheError> {
        lock(&self.values).insert(key.to_owned(), value.to_owned(), ttl);
        Ok(())
    }

    async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, CacheError> {
        let mut values = lock(&self.values);
        if values.get(key).is_some() {
            return Ok(false);
        }
        values.insert(key.to_owned(), value.to_owned(), ttl);
        Ok(true)
    }

    async fn remove_if(&self, key: &str, value: &[u8]) -> Result<(), CacheError> {
        let mut values = lock(&self.values);
        if values.get(key).is_some_and(|held| held == value) {
            values.remove(key);
        }
        Ok(())
    }

    async fn beat(&self, member: &Member, ttl: Duration) -> Result<Vec<Member>, CacheError> {
        let mut members = lock(&self.members);
        members.insert(member.id.clone(), member.note.clone(), ttl);
        let live = members.iter().map(|(id, note)| Member {
            id: id.clone(),
            note: note.clone(),
        });
        Ok(live.collect())
    }

    async fn leave(&self, id: &str) -> Result<(), CacheError> {
        lock(&self.members).remove(id);
        Ok(())
    }

    async fn ping(&self) -> Result<(), CacheError> {
        Ok(())
    }
}

fn slot_of(slot: &Slot) -> Result<(u64, u64), CacheError> {
    slot.0
        .split_once(':')
        .and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)))
        .ok_or_else(|| CacheError(format!("`{}` is no slot of this cache", slot.0)))
}

/// Nothing panics while a lock is held, and the cache may be lost anyway: a poisoned one is used as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
