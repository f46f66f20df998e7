//! `openclaw check` against real servers: their own words, what to do, and how it ends.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use world::{Kind, Process, World, openclaw};

/// Exit code, then everything it said.
fn check(folder: &Path, more: &[&str]) -> (i32, String) {
    let arguments = [&["check", "-c", folder.to_str().unwrap()], more].concat();
    let Output { status, stdout, stderr } = openclaw(&arguments).output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    for secret in ["secret-of-", "token-of-", "key-of-", "geheim", "openclaw:openclaw"] {
        assert!(!text.contains(secret), "`{secret}` in\n{text}");
    }
    (status.code().unwrap(), text)
}

/// The world's configuration with one text in it replaced, in a folder of its own.
fn changed(world: &World, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let node = fs::read_to_string(world.join("config.yaml")).unwrap();
    assert!(node.contains(from), "`{from}` is not in\n{node}");
    fs::write(folder.path().join("config.yaml"), node.replace(from, to)).unwrap();
    folder
}

fn expect(folder: &Path, code: i32, words: &[&str]) {
    let (ended, text) = check(folder, &[]);
    assert_eq!(ended, code, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_world_is_told_with_versions_and_names() {
    let world = World::new(Kind::Distributed, 2, "").await;
    let (code, text) = check(world.path(), &[]);
    assert_eq!(code, 0, "{text}");
    for word in [
        "RabbitMQ 3.",
        "Redis 7.",
        "PostgreSQL 1",
        "bot bot0: a token was bought; its name is `Bot of cli_bot0`",
    ] {
        assert!(text.contains(word), "`{word}` is not in\n{text}");
    }
    let vhost = &world.shared.as_ref().unwrap().rabbitmq;
    assert_eq!(
        vhost.depth("openclaw.v1.bot.bot0").await,
        None,
        "check made a bot's queue"
    );
    let (code, text) = check(world.path(), &["--json"]);
    assert_eq!(code, 0, "{text}");
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let mut keys: Vec<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["detail", "result", "to_do", "what"]);
        assert_eq!(line["result"], "ok", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_kind_and_an_evicting_cache_are_told() {
    let world = World::new(Kind::Distributed, 2, "").await;
    let shared = world.shared.as_ref().unwrap();
    shared
        .redis
        .command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    let warning = "maxmemory-policy is allkeys-lru";
    expect(world.path(), 0, &["warning: redis: ", warning, "noeviction"]);
    shared.rabbitmq.declare_plain("openclaw.v1.bot.bot0").await;
    expect(
        world.path(),
        70,
        &[
            "queue `openclaw.v1.bot.bot0`: PRECONDITION_FAILED",
            "inequivalent arg",
            "delete_queue",
        ],
    );
    let (_, text) = check(world.path(), &["--json"]);
    assert!(
        text.contains("\"result\":\"wrong\"") && text.contains("\"result\":\"warning\""),
        "{text}"
    );
    shared.rabbitmq.delete_queue("openclaw.v1.bot.bot0").await;
    let worker = Process::start("worker", world.path()).await;
    assert!(worker.log().contains(warning), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_of_the_broker_is_wrong_and_a_user_without_rights_is_told() {
    let world = World::with_broker(1, "").await;
    let node = world.shared.as_ref().unwrap().node.as_ref().unwrap();
    node.ctl(&["add_user", "stranger", "geheim"]).await;
    let stranger = changed(&world, "amqp://openclaw:openclaw@", "amqp://stranger:geheim@");
    expect(
        stranger.path(),
        69,
        &["rabbitmq: ", "access to vhost", "set_permissions"],
    );
    node.ctl(&["set_disk_free_limit", "900000GB"]).await;
    expect(
        world.path(),
        70,
        &["rabbitmq: takes no publishes, an alarm is on", "disk"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lets_nobody_in_is_told_in_its_own_words() {
    let world = World::new(Kind::Distributed, 1, "").await;
    let shared = world.shared.as_ref().unwrap();
    let login = "amqp://openclaw:openclaw@";
    let wrong = changed(&world, login, "amqp://openclaw:geheim@");
    expect(
        wrong.path(),
        69,
        &["rabbitmq: ", "ACCESS_REFUSED", "backend.distributed.amqp_url"],
    );
    let way = shared.ways.amqp.address().to_string();
    let nobody = changed(&world, &way, "nowhere.invalid:5672");
    expect(
        nobody.path(),
        69,
        &["rabbitmq: ", "failed to lookup address", "backend.distributed.amqp_url"],
    );
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let deaf = changed(&world, &way, &closed.to_string());
    expect(deaf.path(), 69, &["rabbitmq: ", "Connection refused"]);
    let way = shared.ways.database.address().to_string();
    let deaf = changed(&world, &way, &closed.to_string());
    expect(deaf.path(), 69, &["postgresql: ", "Connection refused"]);
    let name = shared.database.url().rsplit('/').next().unwrap();
    let empty = changed(&world, name, "no_such_database");
    expect(
        empty.path(),
        69,
        &[
            "postgresql: ",
            "database \"no_such_database\" does not exist",
            "createdb",
        ],
    );
    shared.redis.command(&["CONFIG", "SET", "requirepass", "another"]).await;
    expect(world.path(), 69, &["redis: NOAUTH", "backend.distributed.redis_url"]);
    let wrong = changed(&world, "redis://", "redis://:geheim@");
    expect(wrong.path(), 69, &["redis: WRONGPASS", "backend.distributed.redis_url"]);
}

/// A Feishu that answers everything with this.
fn feishu(body: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok() {
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + body).as_bytes()).ok();
            }
        }
    });
    format!("http://{address}")
}

#[test]
fn a_bot_that_gets_no_token_is_named_with_feishus_words() {
    let folder = tempfile::tempdir().unwrap();
    let bot = |base_url: &str| {
        let node = format!("handler: {{ kind: echo }}\nfeishu: {{ base_url: \"{base_url}\" }}\n");
        fs::write(folder.path().join("config.yaml"), node).unwrap();
    };
    fs::create_dir(folder.path().join("one")).unwrap();
    let credentials = "app_id: cli_example\napp_secret: secret-of-one\nverification_token: vt\nencrypt_key: ek\n";
    fs::write(folder.path().join("one/credentials.yaml"), credentials).unwrap();
    bot(&feishu(r#"{"code":10014,"msg":"app secret invalid"}"#));
    expect(
        folder.path(),
        69,
        &["bot one: ", "10014", "app secret invalid", "credentials.yaml"],
    );
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    bot(&format!("http://{closed}"));
    expect(
        folder.path(),
        69,
        &["bot one: ", "Connection refused", "feishu.base_url"],
    );
    let (code, _) = check(folder.path(), &["--offline"]);
    assert_eq!(code, 0, "offline asks nobody");
    let sold = r#"{"code":0,"msg":"ok","tenant_access_token":"t-1","expire":7200,"bot":{"activate_status":1,"app_name":"Claw"}}"#;
    bot(&feishu(sold));
    expect(
        folder.path(),
        70,
        &["bot one: ", "`Claw`, and it is stopped", "administrator"],
    );
    assert!(!folder.path().join("data").exists(), "check made a data folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_is_looked_at_once_also_while_a_node_runs_on_it() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let _running = Process::start("run", world.path()).await;
    let (code, text) = check(world.path(), &[]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("sqlite: ").count(), 1, "{text}");
    assert!(text.contains("MiB free for"), "{text}");
}
