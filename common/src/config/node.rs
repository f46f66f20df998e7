//! The whole of a node's tree into a [`Config`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::mistake::Mistake;
use super::per_bot::PerBot;
use super::section::{Quote, Section};
use super::yaml::Node;
use super::{
    Api, Backend, Config, Console, Database, Encryption, Log, LogFormat, Monitoring, Pool, Server, address, credential,
    key_material, scalar,
};
use crate::bot::BotId;

/// The sections that only a node has: a bot's file that holds them holds them for the time it is run alone.
pub(super) const SECTIONS: [&str; 9] = [
    "server",
    "backend",
    "pools",
    "monitoring",
    "database",
    "encryption",
    "console",
    "api",
    "log",
];

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// More than any machine serves, and far from overflowing what is multiplied with it.
const MANY: usize = 100_000;

/// Reads the node's tree. `bots` are the names that `pools` may use; where there are mistakes the result is the
/// default at those keys.
pub(super) fn read(root: &Node, bots: &BTreeSet<BotId>, mistakes: &mut Vec<Mistake>) -> Config {
    let mut config = Config::default();
    Section::read(root, String::new(), &root.place, mistakes, |root| {
        let mut per_bot = PerBot::default();
        root.nested("server", |section| server(section, &mut config.server));
        root.nested("backend", |section| backend(section, &mut config.backend));
        per_bot.read(root);
        config.pools = pools(root, bots);
        root.nested("monitoring", |section| monitoring(section, &mut config.monitoring));
        root.nested("database", |section| database(section, &mut config.database));
        root.nested("encryption", |section| encryption(section, &mut config.encryption));
        root.nested("console", |section| console(section, &mut config.console));
        root.nested("api", |section| api(section, &mut config.api));
        root.nested("log", |section| log(section, &mut config.log));
        (config.message, config.quota, config.handler) = (per_bot.message, per_bot.quota, per_bot.handler);
        (config.security, config.feishu) = (per_bot.security, per_bot.feishu);
    });
    mistakes.extend(one_port_for_two(root, &config));
    config
}

/// Both ports are opened by every role: equal ones would fail only when the second is bound.
fn one_port_for_two(root: &Node, config: &Config) -> Option<Mistake> {
    let (server, metrics) = (config.server.port, config.monitoring.metrics_port);
    if server != metrics || server == 0 || !config.monitoring.metrics_enable {
        return None;
    }
    let written = root.written("monitoring.metrics.port").or(root.written("server.port"));
    let place = written.unwrap_or(&root.place).clone();
    let sentence = format!("{metrics} is server.port too: choose another, or 0");
    Some(Mistake::new(place, "monitoring.metrics.port", sentence))
}

fn server(section: &mut Section<'_>, server: &mut Server) {
    section.set("host", &mut server.host, scalar::address);
    section.set("port", &mut server.port, scalar::port);
    section.set("workers", &mut server.workers, scalar::integer(1..=MANY));
}

fn backend(section: &mut Section<'_>, backend: &mut Backend) {
    let mut embedded = None;
    let mut distributed = None;
    section.nested("embedded", |section| {
        let data_dir = section.take("data_dir", scalar::text).map(PathBuf::from);
        embedded = data_dir.map(|data_dir| Backend::Embedded { data_dir });
    });
    section.nested("distributed", |section| {
        let amqp_url = section.require_secret("amqp_url", address::server_url(&["amqp", "amqps"]));
        let redis_url = section.require_secret("redis_url", address::server_url(&["redis", "rediss", "unix"]));
        let database_url = section.require_secret("database_url", address::server_url(&["postgres", "postgresql"]));
        if let (Some(amqp_url), Some(redis_url), Some(database_url)) = (amqp_url, redis_url, database_url) {
            distributed = Some(Backend::Distributed {
                amqp_url,
                redis_url,
                database_url,
            });
        }
    });
    if section.has("embedded") && section.has("distributed") {
        section.own_mistake("has both `embedded` and `distributed`: keep one");
    } else if let Some(chosen) = embedded.or(distributed) {
        *backend = chosen;
    }
}

fn pools(root: &mut Section<'_>, bots: &BTreeSet<BotId>) -> BTreeMap<String, Vec<BotId>> {
    let mut pools = BTreeMap::new();
    for pool in root.named("pools") {
        match BotId::new(pool.name) {
            Ok(name) if bots.contains(&name) => {
                root.named_mistake(
                    &pool,
                    "is the name of a bot: pools and bots share one name space, choose another",
                );
            }
            Ok(_) => {}
            Err(invalid) => root.named_mistake(&pool, invalid.to_string().replace("a bot id", "a pool's name")),
        }
        let members = root.named_list(&pool, |text| {
            let found = bots.get(text).cloned();
            found.ok_or_else(|| "is not a bot: there is no such folder with a credentials.yaml".to_owned())
        });
        if let Some(members) = members {
            let distinct: BTreeSet<&BotId> = members.iter().collect();
            if members.is_empty() {
                root.named_mistake(&pool, "has no bot: name at least one");
            } else if distinct.len() < members.len() {
                root.named_mistake(&pool, "names a bot twice: keep one");
            }
            pools.insert(pool.name.to_owned(), members);
        }
    }
    pools
}

fn monitoring(section: &mut Section<'_>, monitoring: &mut Monitoring) {
    section.nested("health_check", |section| {
        section.set("path", &mut monitoring.health_path, scalar::own_path);
        section.set(
            "interval",
            &mut monitoring.health_interval,
            scalar::duration(100 * MILLISECOND),
        );
    });
    section.nested("metrics", |section| {
        section.set("enable", &mut monitoring.metrics_enable, scalar::boolean);
        section.set("port", &mut monitoring.metrics_port, scalar::port);
        section.set("path", &mut monitoring.metrics_path, scalar::own_path);
    });
}

fn database(section: &mut Section<'_>, database: &mut Database) {
    section.nested("pool", |section| pool(section, &mut database.pool));
    section.set("retention", &mut database.retention, scalar::duration(SECOND));
}

fn pool(section: &mut Section<'_>, pool: &mut Pool) {
    section.set(
        "max_connections",
        &mut pool.max_connections,
        scalar::integer(1..=10_000),
    );
    if section.has("min_connections") {
        section.set(
            "min_connections",
            &mut pool.min_connections,
            scalar::integer(0..=10_000),
        );
        if pool.min_connections > pool.max_connections {
            let most = pool.max_connections;
            section.mistake("min_connections", format!("is more than max_connections ({most})"));
        }
    } else {
        section.set(
            "min_connections",
            &mut pool.min_connections,
            scalar::integer(0..=10_000),
        );
        pool.min_connections = pool.min_connections.min(pool.max_connections);
    }
    section.set("max_lifetime", &mut pool.max_lifetime, scalar::duration(SECOND));
    section.set("idle_timeout", &mut pool.idle_timeout, scalar::duration(SECOND));
}

fn encryption(section: &mut Section<'_>, encryption: &mut Option<Encryption>) {
    let names = section.named("keys");
    let mut keys = BTreeMap::new();
    for key in &names {
        if !is_key_id(key.name) {
            section.named_mistake(key, "is not a key's name: use 1 to 32 letters, digits, `_` and `-`");
        }
        if let Some(material) = section.named_secret(key, key_material::check) {
            keys.insert(key.name.to_owned(), material);
        }
    }
    if names.is_empty() {
        section.mistake("keys", "has no key: `openclaw keys new` makes one");
    }
    let active = section.require("active", |text| {
        let known = names.iter().any(|key| key.name == text);
        if known {
            Ok(text.to_owned())
        } else {
            Err("is not the name of one of encryption.keys".to_owned())
        }
    });
    let accept_plain_until_ms = section.take("accept_plain_until", scalar::time_ms);
    *encryption = active.map(|active| Encryption {
        keys,
        active,
        accept_plain_until_ms,
    });
}

fn is_key_id(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=32).contains(&name.len()) && name.bytes().all(plain)
}

fn console(section: &mut Section<'_>, console: &mut Console) {
    section.set("host", &mut console.host, scalar::address);
    section.set("port", &mut console.port, scalar::port);
}

fn api(section: &mut Section<'_>, api: &mut Api) {
    if let Some(tokens) = section.take_list("tokens", Quote::Nothing, credential::guard) {
        api.tokens = tokens;
    }
}

fn log(section: &mut Section<'_>, log: &mut Log) {
    section.set("level", &mut log.level, scalar::log_level);
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    section.set("format", &mut log.format, scalar::choice(&formats));
    section.set("access", &mut log.access, scalar::boolean);
}

/// Makes a relative `data_dir` relative to the `-c` folder.
pub(super) fn resolve_data_dir(config: &mut Config, folder: &Path) {
    if let Backend::Embedded { data_dir } = &mut config.backend {
        // `config/./data` is right but ugly in every log line.
        *data_dir = folder.join(&*data_dir).components().collect();
    }
}

/// The node's own sections in which two configurations differ: those that take a restart. Pools are not among them:
/// they change with the bots. `security` is a bot's own and holds for its pushes at once; what a node counts connections by, and
/// who may use the send API, is the node's.
pub(super) fn changed_sections(old: &Config, new: &Config) -> Vec<&'static str> {
    [
        ("server", old.server != new.server),
        ("backend", old.backend != new.backend),
        ("monitoring", old.monitoring != new.monitoring),
        ("database", old.database != new.database),
        ("encryption", old.encryption != new.encryption),
        (
            "security (of connections and /v1/messages)",
            old.security != new.security,
        ),
        ("console", old.console != new.console),
        ("api", old.api != new.api),
        ("log", old.log != new.log),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}
