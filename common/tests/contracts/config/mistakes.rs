use super::{Folder, credentials};

#[test]
fn every_mistake_of_every_file_is_reported_in_one_run() {
    let folder = Folder::new();
    let node = "\
server:
  prot: 9001
  port: 70000
  workers: 0
backend:
  embedded: {}
  distributed:
    amqp_url: http://claw:hunter2@rabbitmq/
    redis_url: redis://${NO_SUCH_HOST}
retries: 5
port: 80
message:
  max_age: 24
  order: strcit
  order: strict
quota:
  app: [50/s, 0/m]
  account: { name: team-a }
pools:
  bot1: [bot1]
  notify: [bot9]
handler: { kind: llm }
encryption: { keys: { old: hunter2 }, active: new }
feishu: { base_url: open.feishu.cn }
";
    folder.write("config.yaml", node);
    folder.bot("bot1").write(
        "bot1/config.yaml",
        "\n\nmessage:\n  queue_size: 1\n\n  retry_policy:\n    bakoff: 1s\n",
    );
    folder.write("bot2/credentials.yaml", &credentials("bot1"));
    let rules = "\
handler:
  kind: rules
  rules:
    - { keyword: a, prefix: b, reply: c }
    - { regex: \"a(\", reply: \"{name}\" }
    - { keyword: a, replay: b }
security:
  allowed_ips: [10.0.0.0/8, somewhere]
";
    folder.write("bot2/config.yaml", rules);
    folder.write(
        "bot3/credentials.yaml",
        "app_id: cli 3\napp_secret: \"  hunter2\"\nencrypt_kee: hunter2\n",
    );
    folder.write("bot4/credentials.yaml", "app_id: [\n");
    folder.write("Bot5/credentials.yaml", &credentials("bot5"));
    folder.write("bot6/credentials.yml", &credentials("bot6"));
    let variables = [
        ("OPENCLAW_LOG__LEVEL", "inof"),
        ("OPENCLAW_SERVER__HOTS", "::"),
        ("OPENCLAW_MONITORING__METRICS", "1"),
    ];
    let mistakes = folder.load(&variables).expect_err("a folder full of mistakes");
    let expected = "\
config/Bot5: `Bot5` is not a bot id: use 1 to 64 of a-z, 0-9, `_` and `-`, beginning with a letter or digit
config/bot1/config.yaml:7: message.retry_policy.bakoff: unknown key, did you mean `backoff`?
config/bot2/config.yaml:4: handler.rules[0]: needs exactly one of keyword, prefix and regex
config/bot2/config.yaml:5: handler.rules[1].regex: `a(` is not a regular expression: unclosed group
config/bot2/config.yaml:5: handler.rules[1].reply: `{name}` has a brace that is neither {text} nor {sender}: write `{{` and `}}` for braces
config/bot2/config.yaml:6: handler.rules[2].replay: unknown key, did you mean `reply`?
config/bot2/config.yaml:6: handler.rules[2].reply: is missing
config/bot2/config.yaml:8: security.allowed_ips[1]: `somewhere` is not an address or a network such as 10.0.0.0/8
config/bot2/credentials.yaml:1: app_id: `cli_bot1` is the app of bot bot1 too: every bot needs an app of its own
config/bot3/credentials.yaml:1: app_id: is not an app id such as cli_a1b2c3d4
config/bot3/credentials.yaml:1: encrypt_key: is missing: without it anybody can forge events; copy it from the app's page (or accept that with `security.allow_plaintext: true`)
config/bot3/credentials.yaml:1: verification_token: is missing
config/bot3/credentials.yaml:2: app_secret: begins or ends with a space or a line end
config/bot3/credentials.yaml:3: encrypt_kee: unknown key, did you mean `encrypt_key`?
config/bot4/credentials.yaml:2: is not valid YAML: while parsing a node, did not find expected node content (column 1); the `[` on line 1 is not closed: is a `]` missing?
config/bot6/credentials.yml: is not read: rename it to credentials.yaml
config/config.yaml:2: server.prot: unknown key, did you mean `port`?
config/config.yaml:3: server.port: `70000` is not a port: 0 to 65535
config/config.yaml:4: server.workers: `0` is not a whole number from 1 to 100000
config/config.yaml:5: backend: has both `embedded` and `distributed`: keep one
config/config.yaml:7: backend.distributed.database_url: is missing
config/config.yaml:8: backend.distributed.amqp_url: does not begin with amqp:// or amqps://
config/config.yaml:9: backend.distributed.redis_url: environment variable `NO_SUCH_HOST` is not set
config/config.yaml:10: retries: unknown key, known here: server, backend, message, quota, handler, security, feishu, pools, monitoring, database, encryption, console, api, log
config/config.yaml:11: port: unknown key, did you mean one of `server.port`, `monitoring.metrics.port`, `console.port`?
config/config.yaml:13: message.max_age: `24` has no unit: write 24s, 24m or another of ms s m h d
config/config.yaml:14: message.order: `strcit` is not known, did you mean `strict`?
config/config.yaml:15: `order` is written twice (first on line 14): keep one
config/config.yaml:17: quota.app[1]: `0/m` is not a rate: N/s, N/m (N from 1) or off
config/config.yaml:18: quota.account.limit: is missing
config/config.yaml:20: pools.bot1: is the name of a bot: pools and bots share one name space, choose another
config/config.yaml:21: pools.notify[0]: `bot9` is not a bot: there is no such folder with a credentials.yaml
config/config.yaml:22: handler.kind: `llm` is not one of echo, rules
config/config.yaml:23: encryption.active: `new` is not the name of one of encryption.keys
config/config.yaml:23: encryption.keys.old: is not a key: 32 bytes as base64 or hexadecimal; `openclaw keys new` makes one
config/config.yaml:24: feishu.base_url: `open.feishu.cn` is not a URL such as https://open.feishu.cn: relative URL without a base
OPENCLAW_LOG__LEVEL: log.level: `inof` is not a log level, did you mean `info`?
OPENCLAW_MONITORING__METRICS: monitoring.metrics: must be a mapping, `key: value`
OPENCLAW_SERVER__HOTS: server.hots: unknown key, did you mean `host`?
";
    assert_eq!(mistakes, expected.trim_end());
    assert!(!mistakes.contains("hunter2"), "secrets are never repeated");
}

#[test]
fn folders_that_hold_no_configuration_say_what_was_expected() {
    let folder = Folder::new();
    let of = |path: &str| folder.load_from(&folder.path().join(path), &[]).expect_err(path);
    assert_eq!(of("nowhere"), "config/nowhere: does not exist");
    folder.write("empty/notes.txt", "");
    let expected = "config/empty: is no configuration: expected a config.yaml, or a subfolder with a credentials.yaml for each bot";
    assert_eq!(of("empty"), expected);
    assert_eq!(
        of("empty/notes.txt"),
        "config/empty/notes.txt: is a file: give the folder it is in"
    );
}

#[test]
fn a_bot_that_nobody_could_authenticate_is_refused_with_both_ways_out() {
    let folder = Folder::new();
    folder.write("config.yaml", "handler: { kind: echo }\n");
    folder.write(
        "bot1/credentials.yaml",
        "app_id: cli_1\napp_secret: s\nverification_token: vt\nencrypt_key:\n",
    );
    let expected = "config/bot1/credentials.yaml:4: encrypt_key: is missing: without it anybody can forge events; copy it \
                    from the app's page (or accept that with `security.allow_plaintext: true`)";
    assert_eq!(folder.load(&[]).expect_err("no key"), expected);
    assert!(folder.load(&[("OPENCLAW_SECURITY__ALLOW_PLAINTEXT", "true")]).is_ok());
}

#[test]
fn a_variable_that_is_unset_is_named_once_and_an_override_makes_it_needless() {
    let folder = Folder::new();
    folder
        .write("config.yaml", "handler: { kind: echo }\nserver:\n  port: ${NO_SUCH}\n")
        .bot("bot1");
    let expected = "config/config.yaml:3: server.port: environment variable `NO_SUCH` is not set";
    assert_eq!(folder.load(&[]).expect_err("unset"), expected);
    assert!(folder.load(&[("OPENCLAW_SERVER__PORT", "7")]).is_ok());
    let garbled = folder.load(&[("NO_SUCH", "hunter2")]).expect_err("no port");
    assert_eq!(
        garbled,
        "config/config.yaml:3: server.port: `${NO_SUCH}` is not a port: 0 to 65535"
    );
}

#[test]
fn ports_that_every_role_opens_must_differ() {
    let folder = Folder::new();
    folder.write("config.yaml", "handler: { kind: echo }\n").bot("bot1");
    let expected = "OPENCLAW_SERVER__PORT: monitoring.metrics.port: 9091 is server.port too: choose another, or 0";
    assert_eq!(
        folder
            .load(&[("OPENCLAW_SERVER__PORT", "9091")])
            .expect_err("one port for two"),
        expected
    );
    let off = [
        ("OPENCLAW_SERVER__PORT", "9091"),
        ("OPENCLAW_MONITORING__METRICS__ENABLE", "false"),
    ];
    assert!(folder.load(&off).is_ok());
}

#[test]
fn a_password_that_needs_escaping_is_told_with_its_key_and_line_wherever_it_is_written() {
    let folder = Folder::new();
    folder.bot("bot1");
    let node = "\
handler: { kind: echo }
backend:
  distributed:
    amqp_url: amqp://openclaw:4711#geheim@rabbit:5672/%2f
    redis_url: redis://openclaw:4711#geheim@redis:6379/0
    database_url: postgres://openclaw:47?geheim@pg:5432/openclaw
";
    folder.write("config.yaml", node);
    let mistakes = folder.load(&[]).expect_err("three passwords");
    for (line, place) in mistakes.lines().zip([
        "config/config.yaml:4: backend.distributed.amqp_url: has a special character",
        "config/config.yaml:5: backend.distributed.redis_url: has a special character",
        "config/config.yaml:6: backend.distributed.database_url: has a special character",
    ]) {
        assert!(line.starts_with(place) && line.contains("`#` as %23"), "{line}");
    }
    assert_eq!(mistakes.lines().count(), 3, "{mistakes}");
    let escaped = node
        .replace("4711#geheim", "4711%23geheim")
        .replace("47?geheim", "47%3Fgeheim");
    folder.write("config.yaml", &escaped);
    assert!(folder.load(&[]).is_ok());
    for password in ["4711#geheim", "47@geheim", "47/geheim", "47%geheim", "47 #geheim"] {
        let url = format!("amqp://openclaw:{password}@rabbit:5672/%2f");
        let variable = [("OPENCLAW_BACKEND__DISTRIBUTED__AMQP_URL", url.as_str())];
        let mistake = folder.load(&variable).expect_err(&url);
        assert!(
            mistake.starts_with("OPENCLAW_BACKEND__DISTRIBUTED__AMQP_URL: "),
            "{mistake}"
        );
        assert!(
            mistake.contains("%23") && !mistake.contains("47") && !mistake.contains("geheim"),
            "{mistake}"
        );
    }
    // YAML itself would cut the URL here, and leave one of another server.
    folder.write("config.yaml", &escaped.replace("4711%23geheim", "4711 #geheim"));
    let mistakes = folder.load(&[]).expect_err("a comment in a password");
    assert!(
        mistakes.starts_with("config/config.yaml:4: ") && mistakes.contains("%23"),
        "{mistakes}"
    );
    assert!(!mistakes.contains("geheim"), "{mistakes}");
}

#[test]
fn placeholders_and_single_characters_are_no_credentials() {
    let folder = Folder::new();
    folder.write(
        "config.yaml",
        "handler: { kind: echo }\napi: { tokens: [replace-me, x, an-api-token] }\n",
    );
    folder.write(
        "bot1/credentials.yaml",
        "app_id: cli_example\napp_secret: replace-me\nverification_token: t\nencrypt_key: <key>\n",
    );
    let mistakes = folder.load(&[]).expect_err("placeholders");
    let places: Vec<&str> = mistakes
        .lines()
        .map(|line| line.split(": is ").next().unwrap_or(line))
        .collect();
    let expected = [
        "config/bot1/credentials.yaml:2: app_secret",
        "config/bot1/credentials.yaml:3: verification_token",
        "config/bot1/credentials.yaml:4: encrypt_key",
        "config/config.yaml:2: api.tokens[0]",
        "config/config.yaml:2: api.tokens[1]",
    ];
    assert_eq!(places, expected, "{mistakes}");
    let given = "app_id: cli_example\napp_secret: as\nverification_token: vt\nencrypt_key: ek\n";
    folder
        .write("bot1/credentials.yaml", given)
        .write("config.yaml", "handler: { kind: echo }\n");
    assert!(folder.load(&[]).is_ok());
}

#[test]
fn a_base_url_with_a_path_is_a_mistake_that_says_what_to_write() {
    let folder = Folder::new();
    folder.bot("bot1");
    folder.write(
        "config.yaml",
        "handler: { kind: echo }\nfeishu:\n  base_url: https://open.larksuite.com/open-apis\n",
    );
    let expected = "config/config.yaml:3: feishu.base_url: `https://open.larksuite.com/open-apis` holds a path, and the paths of \
                    the Open API are added to it: write https://open.larksuite.com";
    assert_eq!(folder.load(&[]).expect_err("a path"), expected);
}

#[test]
fn an_unknown_handler_kind_is_the_only_mistake_of_its_section() {
    let folder = Folder::new();
    folder.bot("bot1");
    for section in [
        "{ kind: llm, base_url: \"https://x.org/v1\", model: m, history: 20, stream: card }",
        "{ kind: rulez, rules: [ { keyword: a } ] }",
        "{ kind: rulez, rules: none }",
        "{ kind: , rules: [] }",
        "{ kind: [rules], rule: [] }",
    ] {
        folder.write("config.yaml", &format!("handler: {section}\n"));
        let mistakes = folder.load(&[]).expect_err(section);
        assert_eq!(mistakes.lines().count(), 1, "{mistakes}");
        assert!(
            mistakes.starts_with("config/config.yaml:1: handler.kind: "),
            "{mistakes}"
        );
    }
}
