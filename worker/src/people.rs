//! Which person a one-to-one chat is with: for the platform a message to the person and one into that chat count against the
//! same limit, so they count against one here.
//!
//! Open ids are an app's own, and so is the mapping. It is learnt from messages in such chats and from the answers to
//! messages sent to a person, shared through the cache, and copied by each process for what it serves. While it is not known
//! the two are two buckets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::cache::Cache;
use tokio_util::task::TaskTracker;

use crate::recent::Recent;

/// Chats remembered by one process, about 150 bytes each.
const REMEMBERED: usize = 50_000;
/// How long the cache remembers a chat nobody writes in.
const SHARED: Duration = Duration::from_secs(30 * 24 * 3600);
/// A chat that the cache does not know is not looked up again before this.
const LOOK: Duration = Duration::from_secs(60);

/// The mapping.
pub(crate) struct People {
    cache: Arc<dyn Cache>,
    tracker: TaskTracker,
    by_chat: Mutex<Chats>,
}

/// By app and chat.
type Chats = Recent<(Arc<str>, Arc<str>), Known>;

#[derive(Clone, Debug)]
struct Known {
    /// `None`: a group, or nobody knows.
    person: Option<Person>,
    since: Instant,
    /// Whether the event itself said what kind of chat it is.
    certain: bool,
}

impl Known {
    fn says(&self, open_id: Option<&str>) -> bool {
        let person = self.person.as_ref().map(|person| &*person.open_id);
        self.certain && person == open_id
    }
}

/// Whom a chat is with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// `ou_…`
    pub(crate) open_id: Arc<str>,
    /// Since when this process knows: what it sent before may stand in the chat's own bucket.
    pub(crate) since: Instant,
}

impl People {
    pub(crate) fn new(cache: Arc<dyn Cache>, tracker: TaskTracker) -> Self {
        Self {
            cache,
            tracker,
            by_chat: Mutex::new(Recent::new(REMEMBERED)),
        }
    }

    /// Learns that the app's chat is with this person; `None`: that it is a group.
    pub(crate) fn learn(&self, app: &Arc<str>, chat: &str, open_id: Option<&str>) {
        if chat.is_empty() || open_id.is_some_and(str::is_empty) {
            return;
        }
        let key = (app.clone(), Arc::from(chat));
        let now = Instant::now();
        {
            let mut chats = self.lock();
            if chats.get(&key).is_some_and(|known| known.says(open_id)) {
                return;
            }
            let person = open_id.map(|open_id| Person {
                open_id: open_id.into(),
                since: now,
            });
            let known = Known {
                person,
                since: now,
                certain: true,
            };
            chats.insert(key, known);
        }
        let Some(open_id) = open_id else { return };
        // Nobody waits for this: without it the next process learns for itself.
        let (cache, key, value) = (self.cache.clone(), shared_key(app, chat), open_id.to_owned());
        self.tracker.spawn(async move {
            if let Err(error) = cache.set(&key, value.as_bytes(), SHARED).await {
                tracing::debug!(%error, "whom a chat is with is not shared");
            }
        });
    }

    /// Whom the app's chat is with, as far as anybody knows.
    pub(crate) async fn whose(&self, app: &Arc<str>, chat: &str) -> Option<Person> {
        if chat.is_empty() {
            return None;
        }
        let key = (app.clone(), Arc::from(chat));
        if let Some(known) = self.lock().get(&key)
            && (known.certain || known.person.is_some() || known.since.elapsed() < LOOK)
        {
            return known.person.clone();
        }
        let shared = self.cache.get(&shared_key(app, chat)).await;
        let open_id = shared.ok().flatten().and_then(|value| String::from_utf8(value).ok());
        let since = Instant::now();
        let person = open_id.map(|open_id| Person {
            open_id: open_id.into(),
            since,
        });
        let known = Known {
            person: person.clone(),
            since,
            certain: false,
        };
        let mut chats = self.lock();
        // Somebody may have learnt more meanwhile.
        match chats.get(&key).filter(|known| known.person.is_some() || known.certain) {
            Some(known) => known.person.clone(),
            None => {
                chats.insert(key, known);
                person
            }
        }
    }

    /// Whom the app's chat is with, as far as this process knows; `Some(None)`: it is a group.
    pub(crate) fn known(&self, app: &Arc<str>, chat: &str) -> Option<Option<Arc<str>>> {
        let key = (app.clone(), Arc::from(chat));
        let mut chats = self.lock();
        let known = chats
            .get(&key)
            .filter(|known| known.certain || known.person.is_some())?;
        Some(known.person.as_ref().map(|person| person.open_id.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, Chats> {
        // Nothing panics while it is held.
        self.by_chat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shared_key(app: &str, chat: &str) -> String {
    format!("openclaw:p2p:{app}:{chat}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use openclaw_backends::caches::memory::Memory;
    use openclaw_backends::caches::redis::Redis;
    use openclaw_common::secret::Secret;
    use testkit::{Servers, eventually};

    use super::*;

    async fn what_one_process_learns_the_next_one_knows(cache: Arc<dyn Cache>) {
        let tracker = TaskTracker::new();
        let process = || People::new(cache.clone(), tracker.clone());
        let (first, app): (_, Arc<str>) = (process(), "cli_1".into());
        assert_eq!(first.whose(&app, "oc_1").await, None, "nobody has said");
        first.learn(&app, "oc_1", Some("ou_1"));
        first.learn(&app, "oc_group", None);
        first.learn(&app, "oc_2", Some(""));
        let whose = async |people: &People, app: &Arc<str>, chat| {
            let person = people.whose(app, chat).await;
            person.map(|person| person.open_id.to_string())
        };
        assert_eq!(whose(&first, &app, "oc_1").await.as_deref(), Some("ou_1"));
        for unknown in ["oc_group", "oc_2", ""] {
            assert_eq!(whose(&first, &app, unknown).await, None, "{unknown}");
        }
        eventually("another process knows", Duration::from_secs(5), async || {
            whose(&process(), &app, "oc_1").await.as_deref() == Some("ou_1")
        })
        .await;
        assert_eq!(
            whose(&process(), &"cli_2".into(), "oc_1").await,
            None,
            "another app's chats are its own"
        );
        // What an event says itself needs no look into the cache and is not undone by one.
        let second = process();
        second.learn(&app, "oc_1", None);
        assert_eq!(whose(&second, &app, "oc_1").await, None);
    }

    #[tokio::test]
    async fn over_memory() {
        what_one_process_learns_the_next_one_knows(Arc::new(Memory::new())).await;
    }

    #[tokio::test]
    async fn over_redis() {
        let server = Servers::redis().await;
        let cache: Arc<dyn Cache> = Arc::new(Redis::connect(&Secret::new(server.url())).unwrap());
        eventually("connected", Duration::from_secs(5), async || cache.ping().await.is_ok()).await;
        what_one_process_learns_the_next_one_knows(cache).await;
    }

    #[tokio::test]
    async fn memory_is_bounded_whoever_writes() {
        let people = People::new(Arc::new(Memory::new()), TaskTracker::new());
        let app: Arc<str> = "cli_1".into();
        for number in 0..3 * REMEMBERED {
            people.learn(&app, &format!("oc_{number}"), None);
        }
        assert!(people.lock().values().count() <= 2 * REMEMBERED);
    }
}
