//! Every key, once: `docs/configuration.md` is printed from this table, and tests hold the table against the parser.

use super::reading::NOT_YET;

/// One key of the reference.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Dotted path; `[]` is an item of a list, `<…>` a name that the operator chooses.
    pub path: &'static str,
    /// What may stand there.
    pub kind: &'static str,
    /// The value when nothing is written, as YAML; empty when there is none.
    pub default: &'static str,
    /// A value that shows the form, where the default does not.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn key(path: &'static str, kind: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        kind,
        default,
        example: default,
        meaning,
    }
}

const fn example(path: &'static str, kind: &'static str, example: &'static str, meaning: &'static str) -> Key {
    Key {
        path,
        kind,
        default: "",
        example,
        meaning,
    }
}

const DURATION: &str = "duration";
const RATE: &str = "rate";
const BOOLEAN: &str = "`true` or `false`";
const PORT: &str = "port";
const ADDRESS: &str = "IP address";
const INTEGER: &str = "integer from 1";
const PATH: &str = "path";
const NETWORKS: &str = "list of addresses and networks";

/// The keys of `config.yaml`, in the order of the reference.
pub const KEYS: &[Key] = &[
    key("server.host", ADDRESS, "0.0.0.0", "Address to listen on."),
    key(
        "server.port",
        PORT,
        "9001",
        "Port to listen on; 0 lets the system choose.",
    ),
    key(
        "server.workers",
        INTEGER,
        "4",
        "Handlers running at once, per bot. Waiting and sending take none of them.",
    ),
    key(
        "backend.embedded.data_dir",
        "folder",
        "./data",
        "Everything in one SQLite file in this folder, which one process at a time may use. Relative to the `-c` folder.",
    ),
    example(
        "backend.distributed.amqp_url",
        "`amqp://` or `amqps://` URL",
        "amqp://openclaw:secret@rabbitmq:5672/%2f",
        "RabbitMQ. The three keys of `distributed` go together, in place of `embedded`. In user and password write special characters as `%XX`: `#` is `%23`, `?` `%3F`, `/` `%2F`, `@` `%40`, `%` `%25`.",
    ),
    example(
        "backend.distributed.redis_url",
        "`redis://`, `rediss://` or `unix://` URL",
        "redis://redis:6379/0",
        "Redis.",
    ),
    example(
        "backend.distributed.database_url",
        "`postgres://` URL",
        "postgres://openclaw:secret@postgres:5432/openclaw",
        "PostgreSQL, the primary. Ingest does without it. PgBouncer may stand before it in `transaction` or `session` mode; straight to PostgreSQL is quicker.",
    ),
    key(
        "message.queue_size",
        INTEGER,
        "100000",
        "Events waiting for this bot at which ingest answers 503 `queue_full`.",
    ),
    key(
        "message.retry_policy.max_attempts",
        "integer from 1 to 1000",
        "8",
        "Tries in all, the first included.",
    ),
    key(
        "message.retry_policy.backoff",
        DURATION,
        "500ms",
        "Wait after the first try; after try n it is `backoff * multiplier^(n-1)`, give or take 10 %.",
    ),
    key(
        "message.retry_policy.multiplier",
        "number from 1 to 1000",
        "5",
        "Growth of the wait from try to try.",
    ),
    key(
        "message.retry_policy.max_backoff",
        DURATION,
        "30m",
        "Longest wait between two tries.",
    ),
    key(
        "message.max_age",
        DURATION,
        "24h",
        "Events that are older when their turn comes are stale.",
    ),
    key(
        "message.on_stale",
        "`dead_letter`, `drop` or `reply`",
        "dead_letter",
        "What happens to a stale event: a dead letter of class `stale`, nothing, or an answer that it came too late.",
    ),
    key(
        "message.on_unknown",
        "`park`, `resend` or `drop`",
        "park",
        "A send whose outcome stays unknown: a dead letter of class `ambiguous`, once more (may double), or counted as sent (may lose).",
    ),
    key(
        "message.order",
        "`relaxed` or `strict`",
        "relaxed",
        "Whether later events of a chat pass one that waits for a retry, or wait behind it.",
    ),
    key(
        "message.dedup_ttl",
        DURATION,
        "10m",
        "How long ingest's filter remembers an event. The database drops later re-pushes, so this only saves work.",
    ),
    key("quota.bot", RATE, "5/s", "Sends of the bot, over all its chats."),
    key("quota.chat", RATE, "5/s", "Sends to one chat, over all bots in it."),
    key("quota.user", RATE, "5/s", "Sends to one user."),
    key("quota.card", RATE, "5/s", "Updates of one card."),
    key(
        "quota.app",
        "rate, or list of rates",
        "[50/s, 1000/m]",
        "Calls of one app's API; every rate of the list holds.",
    ),
    example(
        "quota.account.name",
        "text",
        "team-a",
        "Bots with the same account share its limit. Needs `limit`.",
    ),
    example("quota.account.limit", RATE, "50/s", "The shared limit. Needs `name`."),
    key(
        "quota.max_workers",
        INTEGER,
        "4",
        "Most workers that will ever run at once: limits are divided by it while Redis is down.",
    ),
    key(
        "quota.budget.calls",
        "integer from 1, or `off`",
        "off",
        "Calls of the Open API that the tenant (`quota.account`, else the app) may make in a calendar month, in UTC+8; token purchases are free. Warned about at 50, 80 and 95 %; what does not fit waits.",
    ),
    key(
        "quota.budget.degrade",
        "list of `notify`, `reply`",
        "[notify, reply]",
        "What waits for the next month first: the first kind from 90 % of the budget on, the second, or one not named, from 100 %. `notify`: the send API; `reply`: answers.",
    ),
    example(
        "pools.<name>",
        "list of bots",
        "[bot1]",
        "Bots that share one address of the send API. The name shares the bots' name space.",
    ),
    key(
        "handler.kind",
        "`echo` or `rules`",
        "echo",
        "What answers events. `echo`: every text with itself, warned about when nobody chose it. `rules`: the first rule that matches.",
    ),
    example(
        "handler.rules[].keyword",
        "text",
        "help",
        "The rule matches a text or post that contains this; mentions it begins with do not count. A rule has one of `keyword`, `prefix` and `regex`.",
    ),
    example("handler.rules[].prefix", "text", "/ping", "… that begins with this."),
    example(
        "handler.rules[].regex",
        "regular expression",
        "(?i)^order \\d+$",
        "… whose first 8 KiB match this.",
    ),
    example(
        "handler.rules[].reply",
        "text",
        "You wrote: {text}",
        "The answer. `{text}` and `{sender}` are filled in; `{{` and `}}` are braces.",
    ),
    key(
        "security.allowed_ips",
        NETWORKS,
        "[]",
        "Who may push; empty means everybody.",
    ),
    key(
        "security.trusted_proxies",
        NETWORKS,
        "[]",
        "Whose `X-Forwarded-For` is believed.",
    ),
    key(
        "security.safe_paths",
        "list of paths",
        "[/webhook]",
        "Paths that may be pushed to, compared by whole segments.",
    ),
    key(
        "security.rate_limit",
        RATE,
        "off",
        "Events of the bot, counted after the signature was verified.",
    ),
    key("security.max_body", "size up to 8MiB", "1MiB", "Largest request body."),
    key(
        "security.allow_plaintext",
        BOOLEAN,
        "false",
        "Lets a bot without `encrypt_key` start; its events are authenticated by the verification token alone.",
    ),
    key(
        "security.legacy_cards",
        BOOLEAN,
        "false",
        "Takes clicks of the old card callback (`card.action.trigger_v1`), which are signed with SHA-1 and the verification token: whoever knows the token can make one.",
    ),
    key(
        "feishu.base_url",
        "`http://` or `https://` URL",
        "https://open.feishu.cn",
        "The Open API; `https://open.larksuite.com` for Lark. Without a path.",
    ),
    example(
        "feishu.card_toast.type",
        "`info`, `success`, `error` or `warning`",
        "info",
        "What a click on a card is answered with at once. Needs `content`.",
    ),
    example(
        "feishu.card_toast.content",
        "text",
        "Got it",
        "What the person reads. Needs `type`.",
    ),
    key(
        "monitoring.health_check.path",
        PATH,
        "/healthz",
        "Liveness path, on the server's port.",
    ),
    key(
        "monitoring.health_check.interval",
        DURATION,
        "30s",
        "How often dependencies are looked at in the background.",
    ),
    key(
        "monitoring.metrics.enable",
        BOOLEAN,
        "true",
        "Whether the metrics port is opened.",
    ),
    key(
        "monitoring.metrics.port",
        PORT,
        "9091",
        "The metrics port; 0 lets the system choose.",
    ),
    key("monitoring.metrics.path", PATH, "/metrics", "The metrics path."),
    key(
        "database.pool.max_connections",
        INTEGER,
        "20",
        "Most connections of one process.",
    ),
    key(
        "database.pool.min_connections",
        "integer from 0",
        "5",
        "Connections kept open; never more than `max_connections`.",
    ),
    key(
        "database.pool.max_lifetime",
        DURATION,
        "300s",
        "A connection is replaced after this.",
    ),
    key(
        "database.pool.idle_timeout",
        DURATION,
        "60s",
        "A connection that nobody used for this long is closed.",
    ),
    key(
        "database.retention",
        DURATION,
        "30d",
        "Rows of finished events are deleted after this. They are what recognises a repeated event: keep at least a day.",
    ),
    example(
        "encryption.keys.<id>",
        "key",
        "\"${OPENCLAW_KEY_2026A}\"",
        "A key for stored message bodies, 32 bytes in base64 or hexadecimal (`openclaw keys new`). Old keys stay as long as bodies that need them.",
    ),
    example(
        "encryption.active",
        "id of a key",
        "2026a",
        "The key that new bodies are sealed with.",
    ),
    example(
        "encryption.accept_plain_until",
        "time",
        "2026-12-01T00:00:00Z",
        "With keys a body that is not sealed is refused (a dead letter, `unreadable`). While keys are introduced: a time until which bodies from before pass, later than the oldest of them is done with.",
    ),
    key("console.host", ADDRESS, "127.0.0.1", "Address the console listens on."),
    key("console.port", PORT, "9100", "Port the console listens on."),
    example(
        "api.tokens",
        "list of texts",
        "[\"${OPENCLAW_API_TOKEN}\"]",
        "Bearer tokens of the send API and the console.",
    ),
    key(
        "log.level",
        "level or filter",
        "info",
        "`off`, `error`, `warn`, `info`, `debug`, `trace`, or a list such as `info,openclaw_worker=debug`.",
    ),
    key("log.format", "`text` or `json`", "text", "For people or for machines."),
    key("log.access", BOOLEAN, "false", "One line for each webhook request."),
];

/// The keys of `credentials.yaml`.
pub const CREDENTIALS: &[Key] = &[
    example(
        "app_id",
        "text",
        "cli_a1b2c3d4",
        "The app's id. No two bots may have the same.",
    ),
    example(
        "app_secret",
        "text",
        "\"${BOT1_APP_SECRET}\"",
        "Buys the tokens that sending needs.",
    ),
    example(
        "verification_token",
        "text",
        "\"${BOT1_TOKEN}\"",
        "Every event carries it.",
    ),
    example(
        "encrypt_key",
        "text",
        "\"${BOT1_ENCRYPT_KEY}\"",
        "Signs and encrypts events. May be left out only with `security.allow_plaintext: true`.",
    ),
];

/// Full paths whose last word is `word`: for a key that was written in the wrong place.
pub(super) fn paths_ending_in(word: &str) -> impl Iterator<Item = &'static str> {
    KEYS.iter()
        .map(|key| key.path)
        .filter(move |path| path.rsplit('.').next() == Some(word))
}

/// The reference as the page `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    let mut section = "";
    for key in KEYS {
        let (top, _) = key.path.split_once('.').unwrap_or((key.path, ""));
        if top != section {
            section = top;
            page += &format!("\n## `{section}`{}\n\n{TABLE_HEAD}", scope(section));
        }
        page += &row(key);
    }
    page += "\n## `credentials.yaml`\n\nIn the folder of each bot.\n\n";
    page += TABLE_HEAD;
    CREDENTIALS.iter().for_each(|key| page += &row(key));
    page
}

const INTRODUCTION: &str = include_str!("reference.md");

const TABLE_HEAD: &str = "| key | value | default | meaning |\n|---|---|---|---|\n";

fn scope(section: &str) -> &'static str {
    if super::node::SECTIONS.contains(&section) {
        ""
    } else {
        " (node or bot)"
    }
}

fn row(key: &Key) -> String {
    let default = match (key.default, key.example) {
        ("", "") => String::new(),
        ("", example) => format!("none; e.g. `{example}`"),
        (default, _) => format!("`{default}`"),
    };
    let below = |path: &str| {
        key.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let not_yet = NOT_YET.into_iter().any(below);
    let later = if not_yet { " *Not served yet.*" } else { "" };
    let cells = [
        format!("`{}`", key.path),
        key.kind.to_owned(),
        default,
        format!("{}{later}", key.meaning),
    ];
    format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))
}

#[cfg(test)]
mod tests;
