//! The configuration folder: typed, complete, every mistake at once. Every default of the reference is the `Default` of
//! its section.
//!
//! A folder is read once into a snapshot of its text, each text into a tree of nodes that know their lines, the
//! environment is laid over the node's tree, and each section takes its keys from the tree. [`load()`] does this for a
//! process that starts, [`follow`] for one that runs.

mod address;
mod credential;
mod environment;
mod key_material;
mod load;
mod mistake;
mod node;
mod per_bot;
mod reading;
pub mod reference;
mod scalar;
mod section;
mod snapshot;
mod watch;
mod yaml;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use environment::Environment;
pub use key_material::new_key;
pub use load::{Loaded, load};
pub use mistake::{Mistake, Mistakes};
pub use per_bot::REGEX_SIZE;
pub use watch::follow;

/// A duration as the configuration writes it: an integer with `ms`, `s`, `m`, `h` or `d`; at least 1 ms.
///
/// # Errors
/// The end of the sentence "`text` …".
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scalar::duration(Duration::from_millis(1))(text)
}

use crate::bot::BotId;
use crate::secret::Secret;

/// The node's whole configuration (`config.yaml` plus `OPENCLAW_…` overrides).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `server`
    pub server: Server,
    /// `backend`
    pub backend: Backend,
    /// `message`: the default of every bot.
    pub message: Message,
    /// `quota`: the default of every bot.
    pub quota: Quota,
    /// `pools`: bots that share a send address.
    pub pools: BTreeMap<String, Vec<BotId>>,
    /// `handler`: the default of every bot.
    pub handler: Handler,
    /// `security`: the default of every bot.
    pub security: Security,
    /// `feishu`: the default of every bot.
    pub feishu: Feishu,
    /// `monitoring`
    pub monitoring: Monitoring,
    /// `database`
    pub database: Database,
    /// `encryption`; `None` stores bodies in the clear.
    pub encryption: Option<Encryption>,
    /// `console`
    pub console: Console,
    /// `api`
    pub api: Api,
    /// `log`
    pub log: Log,
}

/// `server`: this node's listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// Handlers running at once, per bot.
    pub workers: usize,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: IpAddr::from([0, 0, 0, 0]),
            port: 9001,
            workers: 4,
        }
    }
}

/// `backend`: one of the two.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// One SQLite file in this folder.
    Embedded {
        /// Relative paths are relative to the `-c` folder.
        data_dir: PathBuf,
    },
    /// RabbitMQ, Redis and PostgreSQL.
    Distributed {
        /// `amqp://user:password@host:port/vhost`
        amqp_url: Secret,
        /// `redis://…`
        redis_url: Secret,
        /// `postgres://…`
        database_url: Secret,
    },
}

impl Default for Backend {
    fn default() -> Self {
        Self::Embedded {
            data_dir: PathBuf::from("./data"),
        }
    }
}

/// `message`: how one event is retried, ordered and given up.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Queue depth at which ingest answers 503 `queue_full`.
    pub queue_size: u64,
    /// `retry_policy`
    pub retry: RetryPolicy,
    /// Older events are stale.
    pub max_age: Duration,
    /// What happens to stale events.
    pub on_stale: OnStale,
    /// What happens when a send's outcome stays unknown.
    pub on_unknown: OnUnknown,
    /// Whether later events of a chat pass one that waits for a retry.
    pub order: Order,
    /// How long ingest's filter remembers an event.
    pub dedup_ttl: Duration,
}

impl Default for Message {
    fn default() -> Self {
        Self {
            queue_size: 100_000,
            retry: RetryPolicy::default(),
            max_age: Duration::from_secs(24 * 3600),
            on_stale: OnStale::DeadLetter,
            on_unknown: OnUnknown::Park,
            order: Order::Relaxed,
            dedup_ttl: Duration::from_secs(600),
        }
    }
}

/// `message.retry_policy`: the wait before try n+1 is `backoff * multiplier^(n-1)`, at most `max_backoff`, jitter 10 %.
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub max_attempts: u32,
    /// Wait after the first try.
    pub backoff: Duration,
    /// Growth from try to try.
    pub multiplier: f64,
    /// Longest wait.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 8,
            backoff: Duration::from_millis(500),
            multiplier: 5.0,
            max_backoff: Duration::from_secs(30 * 60),
        }
    }
}

/// `message.on_stale`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStale {
    /// Dead letter of class `stale`.
    DeadLetter,
    /// Finished without an action.
    Drop,
    /// Answered with a sentence that it came too late.
    Reply,
}

/// `message.on_unknown`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// Dead letter of class `ambiguous`, for a person to decide.
    Park,
    /// Sent again with a new uuid: may double.
    Resend,
    /// Finished as if sent: may lose.
    Drop,
}

/// `message.order`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Later events pass one that waits for a retry.
    Relaxed,
    /// They wait behind it.
    Strict,
}

/// `N/s` or `N/m`: at most `count` in any rolling `window`. `off` is `None` at the use site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Sends per window.
    pub count: u32,
    /// 1 s or 60 s.
    pub window: Duration,
}

impl Rate {
    /// `count` a second.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self {
            count,
            window: Duration::from_secs(1),
        }
    }

    /// `count` a minute.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self {
            count,
            window: Duration::from_secs(60),
        }
    }
}

/// `quota`: the limits of every level; `None` is `off`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// One bot over all its chats.
    pub bot: Option<Rate>,
    /// One chat over all bots in it.
    pub chat: Option<Rate>,
    /// One user.
    pub user: Option<Rate>,
    /// Patches of one card.
    pub card: Option<Rate>,
    /// One app's API calls; every rate holds.
    pub app: Vec<Rate>,
    /// An account that several bots share.
    pub account: Option<Account>,
    /// Most workers that will ever run: divides shared limits while Redis is down.
    pub max_workers: u32,
    /// Monthly API calls.
    pub budget: Budget,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            bot: Some(Rate::per_second(5)),
            chat: Some(Rate::per_second(5)),
            user: Some(Rate::per_second(5)),
            card: Some(Rate::per_second(5)),
            app: vec![Rate::per_second(50), Rate::per_minute(1000)],
            account: None,
            max_workers: 4,
            budget: Budget::default(),
        }
    }
}

/// `quota.account`
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// Bots with the same name share the limit.
    pub name: String,
    /// The shared limit; `None` is `off`.
    pub limit: Option<Rate>,
}

/// `quota.budget`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Calls a month; `None` is `off`.
    pub calls: Option<u64>,
    /// What is given up first, in this order.
    pub degrade: Vec<SendKind>,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            calls: None,
            degrade: vec![SendKind::Notify, SendKind::Reply],
        }
    }
}

/// What a send is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendKind {
    /// Somebody asked through the send API.
    Notify,
    /// An answer to a person.
    Reply,
}

impl SendKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Notify, Self::Reply];

    /// As written in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Reply => "reply",
        }
    }
}

/// `handler`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Handler {
    /// Answers a text with itself.
    #[default]
    Echo,
    /// The first matching rule answers.
    Rules(Vec<Rule>),
}

/// One rule of `handler.rules`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// When it applies.
    pub pattern: Pattern,
    /// The answer; `{text}` and `{sender}` are filled in.
    pub reply: String,
}

/// The one matcher of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// The text contains it.
    Keyword(String),
    /// The text begins with it.
    Prefix(String),
    /// The text matches it; checked when the configuration is read.
    Regex(String),
}

/// `security`
#[derive(Clone, Debug, PartialEq)]
pub struct Security {
    /// Who may push; empty means everybody.
    pub allowed_ips: Vec<IpNet>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Paths that are served, by whole segments.
    pub safe_paths: Vec<String>,
    /// Events of one bot, after the signature.
    pub rate_limit: Option<Rate>,
    /// Largest request body, bytes.
    pub max_body: usize,
    /// Lets a bot without `encrypt_key` start: its events are authenticated by the token alone.
    pub allow_plaintext: bool,
    /// Takes the old card callback, which proves no more than the verification token (SHA-1).
    pub legacy_cards: bool,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            allowed_ips: Vec::new(),
            trusted_proxies: Vec::new(),
            safe_paths: vec!["/webhook".to_owned()],
            rate_limit: None,
            max_body: 1024 * 1024,
            allow_plaintext: false,
            legacy_cards: false,
        }
    }
}

/// `feishu`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feishu {
    /// Scheme, host and port of the Open API, without a trailing slash.
    pub base_url: String,
    /// What a card click is answered with.
    pub card_toast: Option<Toast>,
}

impl Default for Feishu {
    fn default() -> Self {
        Self {
            base_url: "https://open.feishu.cn".to_owned(),
            card_toast: None,
        }
    }
}

/// `feishu.card_toast`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toast {
    /// `info`, `success`, `error` or `warning`.
    pub kind: String,
    /// What the person reads.
    pub content: String,
}

/// `monitoring`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitoring {
    /// Liveness path.
    pub health_path: String,
    /// How often dependencies are looked at in the background.
    pub health_interval: Duration,
    /// Whether the metrics port is opened.
    pub metrics_enable: bool,
    /// The metrics port; 0 lets the system choose.
    pub metrics_port: u16,
    /// The metrics path.
    pub metrics_path: String,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self {
            health_path: "/healthz".to_owned(),
            health_interval: Duration::from_secs(30),
            metrics_enable: true,
            metrics_port: 9091,
            metrics_path: "/metrics".to_owned(),
        }
    }
}

/// `database`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// `pool`
    pub pool: Pool,
    /// Finished rows older than this are deleted.
    pub retention: Duration,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            pool: Pool::default(),
            retention: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// `database.pool`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Most connections.
    pub max_connections: u32,
    /// Connections kept open.
    pub min_connections: u32,
    /// A connection is replaced after this.
    pub max_lifetime: Duration,
    /// A connection unused for this is closed.
    pub idle_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            max_connections: 20,
            min_connections: 5,
            max_lifetime: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(60),
        }
    }
}

/// `encryption`: the key ring for stored bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// Every key by its id; each ciphertext names the one it needs.
    pub keys: BTreeMap<String, Secret>,
    /// The one that new bodies are sealed with.
    pub active: String,
    /// While changing over: Unix milliseconds until which bodies that are not sealed pass.
    pub accept_plain_until_ms: Option<i64>,
}

/// `console`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// Address to listen on; loopback by default.
    pub host: IpAddr,
    /// Port to listen on.
    pub port: u16,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            host: IpAddr::from([127, 0, 0, 1]),
            port: 9100,
        }
    }
}

/// `api`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Bearer tokens of the send API and the console.
    pub tokens: Vec<Secret>,
}

/// `log`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `trace` to `error`, or a `tracing` filter.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// One line for each webhook request.
    pub access: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
            access: false,
        }
    }
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}
