//! A map whose entries end, and which forgets the earliest-ending ones rather than grow without bound.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// At most `capacity` entries, each until its time. Expired ones are removed by whoever comes next.
#[derive(Debug)]
pub(super) struct Expiring<K, V> {
    entries: HashMap<K, (V, Ends)>,
    order: BTreeMap<Ends, K>,
    next: u64,
    capacity: usize,
}

/// When an entry ends, and a number that tells it from others ending then.
type Ends = (Instant, u64);

impl<K: Clone + Eq + Hash, V> Expiring<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            capacity,
        }
    }

    pub(super) fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.expire();
        self.entries.get(key).map(|(value, _)| value)
    }

    pub(super) fn insert(&mut self, key: K, value: V, ttl: Duration) {
        self.expire();
        self.remove(&key);
        if self.entries.len() >= self.capacity
            && let Some((_, earliest)) = self.order.pop_first()
        {
            self.entries.remove(&earliest);
        }
        let ends = (Instant::now() + ttl.min(LONGEST), self.next);
        self.next += 1;
        self.order.insert(ends, key.clone());
        self.entries.insert(key, (value, ends));
    }

    pub(super) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        if let Some((_, ends)) = self.entries.remove(key) {
            self.order.remove(&ends);
        }
    }

    pub(super) fn iter(&mut self) -> impl Iterator<Item = (&K, &V)> {
        self.expire();
        self.entries.iter().map(|(key, (value, _))| (key, value))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.order.first_entry()
            && first.key().0 <= now
        {
            self.entries.remove(&first.remove());
        }
    }
}

/// Far enough to mean "for ever", near enough that adding it to an instant cannot overflow.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
