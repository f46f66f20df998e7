//! A bot: its id, credentials and settings, and the live directory of all bots.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::config::{Feishu, Handler, Message, Quota, Security};
use crate::pool::{self, Pool};
use crate::secret::Secret;

/// A bot's id: the name of its configuration folder, `[a-z0-9][a-z0-9_-]{0,63}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BotId(Arc<str>);

/// The name is not `[a-z0-9][a-z0-9_-]{0,63}`.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a bot id: use 1 to 64 of a-z, 0-9, `_` and `-`, beginning with a letter or digit")]
pub struct InvalidBotId(String);

impl BotId {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// When the name breaks the rule above.
    pub fn new(name: &str) -> Result<Self, InvalidBotId> {
        let tail_ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        match name.as_bytes() {
            [first, tail @ ..]
                if (first.is_ascii_lowercase() || first.is_ascii_digit())
                    && tail.len() < 64
                    && tail.iter().copied().all(tail_ok) =>
            {
                Ok(Self(name.into()))
            }
            _ => Err(InvalidBotId(name.to_owned())),
        }
    }

    /// The bot of a message that does not say whose it is.
    #[must_use]
    pub fn unknown() -> Self {
        Self("unknown".into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for BotId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for BotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

/// What Feishu's developer console shows for an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// `cli_…`.
    pub app_id: Arc<str>,
    /// Buys tenant access tokens.
    pub app_secret: Secret,
    /// Every event carries it.
    pub verification_token: Secret,
    /// Signs and encrypts events; without it events are unauthenticated (`security.allow_plaintext`).
    pub encrypt_key: Option<Secret>,
}

/// One bot as configured: the node's sections with the bot's own overrides applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Bot {
    /// Folder name.
    pub id: BotId,
    /// From `credentials.yaml`.
    pub credentials: Credentials,
    /// Retry, ordering and age rules.
    pub message: Message,
    /// Send limits.
    pub quota: Quota,
    /// What answers its events.
    pub handler: Handler,
    /// Who may push to it.
    pub security: Security,
    /// Where it sends.
    pub feishu: Feishu,
}

impl Bot {
    /// Whose monthly calls it spends: its account's, where several bots share one, else its app's own.
    #[must_use]
    pub fn tenant(&self) -> &str {
        let account = self.quota.account.as_ref();
        account.map_or(&self.credentials.app_id, |account| account.name.as_str())
    }
}

/// The live directory of all bots. Cheap to clone; readers see one consistent set, swapped as a whole.
#[derive(Clone, Debug)]
pub struct Bots {
    current: tokio::sync::watch::Receiver<Arc<BotSet>>,
}

/// One consistent set of bots.
#[derive(Clone, Debug, Default)]
pub struct BotSet {
    by_id: BTreeMap<BotId, Arc<Bot>>,
    by_app: HashMap<Arc<str>, Arc<Bot>>,
    pools: BTreeMap<BotId, Pool>,
    single: bool,
}

impl BotSet {
    /// Builds the set. `single`: the `-c` folder is one bot's own, so `/webhook` is its.
    #[must_use]
    pub fn new(bots: impl IntoIterator<Item = Arc<Bot>>, single: bool) -> Self {
        let by_id: BTreeMap<BotId, Arc<Bot>> = bots.into_iter().map(|bot| (bot.id.clone(), bot)).collect();
        let by_app = by_id
            .values()
            .map(|bot| (bot.credentials.app_id.clone(), bot.clone()))
            .collect();
        Self {
            by_id,
            by_app,
            pools: BTreeMap::new(),
            single,
        }
    }

    /// The same bots, with these pools of them, which go by `message`. A pool named like a bot is left out.
    #[must_use]
    pub fn with_pools(mut self, pools: &BTreeMap<String, Vec<BotId>>, message: &Message) -> Self {
        self.pools = pool::pools(pools, message, &self);
        self.pools.retain(|name, _| !self.by_id.contains_key(name));
        self
    }

    /// One pool by its name.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)
    }

    /// All pools, by name.
    #[must_use]
    pub fn pools(&self) -> &BTreeMap<BotId, Pool> {
        &self.pools
    }

    /// Whoever has a queue under this name: a bot, or a pool's stand-in.
    #[must_use]
    pub fn served(&self, name: &str) -> Option<&Arc<Bot>> {
        self.get(name).or_else(|| self.pool(name).map(|pool| &pool.stand_in))
    }

    /// Everybody who has a queue: the bots, and the pools' stand-ins.
    pub fn all_served(&self) -> impl Iterator<Item = &Arc<Bot>> {
        self.by_id
            .values()
            .chain(self.pools.values().map(|pool| &pool.stand_in))
    }

    /// One bot by its id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Bot>> {
        self.by_id.get(id)
    }

    /// One bot by its app.
    #[must_use]
    pub fn by_app(&self, app_id: &str) -> Option<&Arc<Bot>> {
        self.by_app.get(app_id)
    }

    /// The only bot, when the `-c` folder is one bot's own.
    #[must_use]
    pub fn single(&self) -> Option<&Arc<Bot>> {
        self.by_id.values().next().filter(|_| self.single)
    }

    /// All bots, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Bot>> {
        self.by_id.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl Bots {
    /// A directory that never changes: tests and `demo`.
    #[must_use]
    pub fn fixed(set: BotSet) -> Self {
        Self {
            current: tokio::sync::watch::channel(Arc::new(set)).1,
        }
    }

    /// A directory that follows its sender: the folder watcher.
    #[must_use]
    pub fn following(current: tokio::sync::watch::Receiver<Arc<BotSet>>) -> Self {
        Self { current }
    }

    /// The set as it is now.
    #[must_use]
    pub fn now(&self) -> Arc<BotSet> {
        self.current.borrow().clone()
    }

    /// To wait for changes.
    #[must_use]
    pub fn watch(&self) -> tokio::sync::watch::Receiver<Arc<BotSet>> {
        self.current.clone()
    }
}
