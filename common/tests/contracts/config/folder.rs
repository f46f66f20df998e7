use std::path::Path;
use std::time::Duration;

use openclaw_common::config::{Backend, Handler, LogFormat, OnStale, Order, Pattern, Rate, load};

use super::{Folder, credentials};

#[test]
fn a_folder_serves_every_subfolder_that_has_credentials() {
    let folder = Folder::new();
    folder
        .bot("bot1")
        .bot("bot-2")
        .write("notes/readme.txt", "no bot")
        .write("config.yaml", "handler: { kind: echo }\n");
    folder.write("..data/credentials.yaml", &credentials("hidden"));
    let loaded = folder.load(&[]).expect("a good folder");
    let ids: Vec<&str> = loaded.bots.iter().map(|bot| bot.id.as_str()).collect();
    assert_eq!(ids, ["bot-2", "bot1"]);
    assert!(loaded.bots.single().is_none());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let bot = loaded.bots.by_app("cli_bot1").expect("bot1 by its app");
    assert_eq!(bot.credentials.app_secret.expose(), "s-bot1");
    assert_eq!(bot.credentials.verification_token.expose(), "t-bot1");
    assert_eq!(
        bot.credentials.encrypt_key.as_ref().map(|key| key.expose()),
        Some("e-bot1")
    );
}

#[test]
fn a_bots_folder_alone_is_that_bot_with_its_own_node_keys() {
    let folder = Folder::new();
    folder
        .bot("bot1")
        .bot("bot2")
        .write("config.yaml", "server: { port: 1 }\nquota: { bot: 1/s }\n");
    folder.write(
        "bot1/config.yaml",
        "server: { port: 7000 }\nhandler: { kind: echo }\nmessage: { order: strict }\n",
    );
    let alone = folder
        .load_from(&folder.path().join("bot1"), &[])
        .expect("one bot's folder");
    assert_eq!(alone.config.server.port, 7000);
    let bot = alone.bots.single().expect("the only bot");
    assert_eq!((bot.id.as_str(), bot.message.order), ("bot1", Order::Strict));
    assert_eq!(
        bot.quota.bot,
        Some(Rate::per_second(5)),
        "the parent's file is another node's"
    );
    assert!(alone.warnings.is_empty(), "{:?}", alone.warnings);
}

#[test]
fn node_keys_in_bots_files_are_ignored_with_one_warning() {
    let folder = Folder::new();
    folder
        .bot("bot1")
        .bot("bot2")
        .write("config.yaml", "handler: { kind: echo }\n");
    folder.write(
        "bot1/config.yaml",
        "server: { port: 7000 }\nlog: { level: \"${NOT_SET}\" }\n",
    );
    folder.write("bot2/config.yaml", "database: { retention: 1d }\n");
    let loaded = folder.load(&[]).expect("node keys are no mistake");
    assert_eq!(loaded.config.server.port, 9001);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    let warning = loaded.warnings[0].replace(&folder.path().display().to_string(), "config");
    let expected = "keys of the node in a bot's config.yaml hold only when that bot is run alone; ignored: \
                    server, log in config/bot1/config.yaml; database in config/bot2/config.yaml";
    assert_eq!(warning, expected);
}

#[test]
fn later_levels_win_key_by_key() {
    let folder = Folder::new();
    let node = "message:\n  retry_policy: { max_attempts: 3, backoff: 1s }\n  max_age: 2h\n  order: strict\n\
                quota: { bot: 9/s, account: { name: team, limit: 50/s }, app: off }\nhandler: { kind: echo }\n\
                security: { allowed_ips: [10.0.0.0/8], safe_paths: [/hook/] }\n\
                feishu: { card_toast: { type: info, content: hi } }\nlog: { format: json }\n";
    folder.write("config.yaml", node).bot("bot1").bot("bot2");
    let own = "message: { retry_policy: { backoff: 2s }, on_stale: drop }\n\
               quota: { account: { limit: 7/m }, app: 20/s, chat: off }\nfeishu: { card_toast: { content: ho } }\n\
               handler: { kind: rules, rules: [ { prefix: /a, reply: \"{text}{{\" } ] }\n";
    folder
        .write("bot1/config.yaml", own)
        .write("bot2/config.yaml", "quota: { account: null }\n");
    let variables = [
        ("OPENCLAW_MESSAGE__MAX_AGE", "3h"),
        ("OPENCLAW_QUOTA__BOT", "11/s"),
        ("OPENCLAW_PORT", "x"),
    ];
    let loaded = folder.load(&variables).expect("a good folder");

    assert_eq!(loaded.config.log.format, LogFormat::Json);
    let bot1 = loaded.bots.get("bot1").expect("bot1");
    assert_eq!(
        (bot1.message.retry.max_attempts, bot1.message.retry.backoff),
        (3, Duration::from_secs(2))
    );
    assert_eq!(
        (bot1.message.order, bot1.message.on_stale),
        (Order::Strict, OnStale::Drop)
    );
    assert_eq!(
        bot1.message.max_age,
        Duration::from_secs(3 * 3600),
        "the variable is over the node's file"
    );
    assert_eq!((bot1.quota.bot, bot1.quota.chat), (Some(Rate::per_second(11)), None));
    assert_eq!(bot1.quota.app, [Rate::per_second(20)]);
    let account = bot1.quota.account.as_ref().expect("an account");
    assert_eq!(
        (account.name.as_str(), account.limit),
        ("team", Some(Rate::per_minute(7)))
    );
    let toast = bot1.feishu.card_toast.as_ref().expect("a toast");
    assert_eq!((toast.kind.as_str(), toast.content.as_str()), ("info", "ho"));
    assert!(matches!(&bot1.handler, Handler::Rules(rules) if rules[0].pattern == Pattern::Prefix("/a".to_owned())));
    assert_eq!(bot1.security.safe_paths, ["/hook"]);

    let bot2 = loaded.bots.get("bot2").expect("bot2");
    assert_eq!((bot2.quota.account.as_ref(), &bot2.handler), (None, &Handler::Echo));
    assert_eq!(bot2.quota.app, [], "off is no limit at all");
}

#[test]
fn values_from_the_environment_are_typed_like_written_ones() {
    let folder = Folder::new();
    let text = "backend:\n  distributed:\n    amqp_url: amqp://claw:${PASSWORD}@${HOST}:5672/%2f\n    \
                redis_url: \"redis://${HOST}\"\n    database_url: ${DATABASE}\nserver: { port: \"${PORT}\" }\n\
                handler: { kind: rules, rules: [ { keyword: \"$${HOST} 5$\", reply: \"${HOST}\" } ] }\n";
    folder.write("config.yaml", text).bot("bot1");
    folder.write(
        "bot1/credentials.yaml",
        &credentials("bot1").replace("s-bot1", "${OPENCLAW_SECRET}"),
    );
    let database = "postgres://u:p@h/d";
    let variables = [
        ("PASSWORD", "p: {x"),
        ("HOST", "mq"),
        ("DATABASE", database),
        ("PORT", "7001"),
        ("OPENCLAW_SECRET", "12345"),
    ];
    let loaded = folder.load(&variables).expect("a good folder");
    let Backend::Distributed {
        amqp_url, database_url, ..
    } = &loaded.config.backend
    else {
        unreachable!("distributed was written");
    };
    assert_eq!(amqp_url.expose(), "amqp://claw:p: {x@mq:5672/%2f");
    assert_eq!((database_url.expose(), loaded.config.server.port), (database, 7001));
    let bot = loaded.bots.get("bot1").expect("bot1");
    assert_eq!(bot.credentials.app_secret.expose(), "12345");
    assert!(
        matches!(&bot.handler, Handler::Rules(rules) if rules[0].reply == "mq" && rules[0].pattern == Pattern::Keyword("${HOST} 5$".to_owned()))
    );
}

#[test]
fn a_relative_data_dir_is_in_the_configuration_folder() {
    let folder = Folder::new();
    folder.write("config.yaml", "handler: { kind: echo }\n").bot("bot1");
    let data_dir = |variables: &[(&str, &str)]| match folder.load(variables).expect("a good folder").config.backend {
        Backend::Embedded { data_dir } => data_dir,
        Backend::Distributed { .. } => unreachable!("no backend was written"),
    };
    assert_eq!(data_dir(&[]), folder.path().join("data"));
    assert_eq!(
        data_dir(&[("OPENCLAW_BACKEND__EMBEDDED__DATA_DIR", "../x")]),
        folder.path().join("../x")
    );
    assert_eq!(
        data_dir(&[("OPENCLAW_BACKEND__EMBEDDED__DATA_DIR", "/var/x")]),
        Path::new("/var/x")
    );
}

#[test]
fn what_is_legal_and_probably_not_meant_is_one_warning_each() {
    let folder = Folder::new();
    folder
        .bot("bot1")
        .bot("bot2")
        .bot("bot3")
        .write("bot3/config.yaml", "handler: { kind: echo }\n");
    let unsigned = credentials("bot2").replace("e-bot2", "\"\"");
    folder
        .write("bot2/credentials.yaml", &unsigned)
        .write("bot2/config.yaml", "security: { allow_plaintext: true }\n");
    let loaded = folder.load(&[]).expect("warnings are no mistakes");
    let expected = [
        "no `handler` for bot1, bot2: every text is answered with itself (`kind: echo`)",
        "no encrypt_key for bot2: events are authenticated by the verification token alone",
    ];
    assert_eq!(loaded.warnings, expected);
    assert!(loaded.not_yet.is_empty());
}

#[test]
fn a_node_without_bots_starts_because_bots_may_come_later() {
    let folder = Folder::new();
    folder.write("config.yaml", "");
    let loaded = folder.load(&[]).expect("no bots yet");
    assert!(loaded.bots.is_empty());
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}

#[test]
fn features_that_are_not_served_yet_are_named_with_their_place() {
    let folder = Folder::new();
    folder.bot("bot1").bot("bot2");
    folder.write("config.yaml", "handler: { kind: echo }\nconsole: { port: 9200 }\n");
    let loaded = folder.load(&[]).expect("a good folder");
    let root = folder.path().display().to_string();
    let not_yet: Vec<String> = loaded
        .not_yet
        .iter()
        .map(|sentence| sentence.replace(&root, "config"))
        .collect();
    let expected = ["config/config.yaml:2: `console` is set but this version does not serve it yet"];
    assert_eq!(not_yet, expected);
}

#[test]
fn the_example_folder_loads_without_a_word() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/config");
    let names = ["APP_SECRET", "VERIFICATION_TOKEN", "ENCRYPT_KEY"];
    let variables = ["BOT1", "BOT2"]
        .into_iter()
        .flat_map(|bot| names.map(|name| format!("{bot}_{name}")));
    let environment = variables.map(|name| (name, "a-real-one")).collect();
    for path in [path.clone(), path.join("bot2")] {
        let loaded = load(&path, &environment).expect("the example");
        assert!(loaded.warnings.is_empty() && loaded.not_yet.is_empty(), "{loaded:?}");
        assert!(loaded.bots.get("bot2").is_some());
    }
}

#[test]
fn the_folder_that_compose_mounts_loads_without_a_word() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/compose");
    let example = std::fs::read_to_string(root.join(".env.example")).expect("the secrets' example");
    let filled_in = |(name, value): (&'static str, &'static str)| match value {
        "change-me" => (name, "a-real-one"),
        _ => (name, value),
    };
    let example: &'static str = example.leak();
    let secrets = example.lines().filter_map(|line| line.split_once('=')).map(filled_in);
    // What compose.yaml gives its containers, and a key of the right size in place of the example's.
    let given = [
        ("AMQP_URL", "amqp://openclaw:a-real-one@rabbitmq:5672/%2f"),
        ("REDIS_URL", "redis://:a-real-one@redis:6379/0"),
        ("DATABASE_URL", "postgres://openclaw:a-real-one@postgres:5432/openclaw"),
        ("OPENCLAW_KEY_2026A", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ];
    let environment = secrets.chain(given).collect();
    let loaded = load(&root.join("config"), &environment).expect("the folder that compose mounts");
    assert!(loaded.warnings.is_empty() && loaded.not_yet.is_empty(), "{loaded:?}");
    assert!(matches!(loaded.config.backend, Backend::Distributed { .. }));
    assert!(loaded.bots.get("bot1").is_some());
}
