//! Memory that cannot grow for ever: the oldest entry makes room for the newest, and the loss is counted.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;

/// A map that forgets its oldest key when it is full. Entries are never removed singly, so each key is in `order` once.
#[derive(Debug)]
pub(crate) struct BoundedMap<V, K = Arc<str>> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
    capacity: usize,
    evicted: u64,
}

impl<V, K: Clone + Eq + Hash> BoundedMap<V, K> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
            evicted: 0,
        }
    }

    /// Inserts or replaces; a replaced key keeps its age.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        if let Some(old) = self.entries.get_mut(&key) {
            *old = value;
            return;
        }
        if self.entries.len() >= self.capacity {
            self.pop_oldest();
            self.evicted += 1;
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, value);
    }

    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub(crate) fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.entries.get_mut(key)
    }

    /// Drops the oldest entries for as long as `done` says they no longer matter.
    pub(crate) fn expire(&mut self, mut done: impl FnMut(&V) -> bool) {
        while let Some(value) = self.order.front().and_then(|key| self.entries.get(key)) {
            if !done(value) {
                break;
            }
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(key) = self.order.pop_front() {
            self.entries.remove(&key);
        }
    }

    /// Entries forgotten for want of room, never those that expired.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }
}

/// The newest entries of a numbered sequence.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    entries: VecDeque<T>,
    capacity: usize,
    first: u64,
}

impl<T> Ring<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity: capacity.max(1),
            first: 0,
        }
    }

    /// The number the next entry will get.
    pub(crate) fn next_number(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub(crate) fn push(&mut self, entry: T) {
        if self.entries.len() >= self.capacity {
            self.entries.pop_front();
            self.first += 1;
        }
        self.entries.push_back(entry);
    }

    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + ExactSizeIterator {
        self.entries.iter()
    }

    /// How many entries were forgotten.
    pub(crate) fn forgotten(&self) -> u64 {
        self.first
    }
}

/// Stands for a pair of strings in 16 bytes; among a thousand million pairs a collision has a chance of 10⁻²¹.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint(u64, u64);

/// Makes fingerprints, by two hashes with keys of their own.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    pub(crate) fn of(&self, app: &str, key: &str) -> Fingerprint {
        Fingerprint(self.0.hash_one((app, key)), self.1.hash_one((app, key)))
    }
}
