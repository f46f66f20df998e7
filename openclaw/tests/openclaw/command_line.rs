//! What the program says, and how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};

use world::{Kind, World};
use world::{Process, openclaw};

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = openclaw(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn check_names_every_mistake_at_once_and_ends_64() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "config.yaml",
        "server:\n  prot: 9001\nmessage:\n  max_age: soon\nquota:\n  bot: 0/s\n",
    );
    write(
        "one/credentials.yaml",
        "app_id: cli_a\napp_secret: s\nverification_token: vt\nencrypt_key: ${OPENCLAW_NO_SUCH}\n",
    );
    write(
        "two/credentials.yaml",
        "app_id: cli_b\napp_secret: s\nverification_token: vt\n",
    );
    write(
        "three/credentials.yaml",
        "app_id: cli_b\napp_secret: s\nverification_token: vt\nencrypt_key: ek\n",
    );
    let (code, _, stderr) = run(&["check", "-c", folder.path().to_str().unwrap()]);
    assert_eq!(code, 64, "{stderr}");
    for mistake in [
        "config.yaml:2: server.prot: unknown key, did you mean `port`?",
        "message.max_age",
        "quota.bot",
        "OPENCLAW_NO_SUCH",
        "encrypt_key",
        "cli_b",
    ] {
        assert!(stderr.contains(mistake), "`{mistake}` is not in\n{stderr}");
    }
    assert!(!folder.path().join("data").exists(), "check made a data folder");
}

#[test]
fn a_role_apart_needs_servers_that_processes_share() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.yaml"), "log: { level: info }\n").unwrap();
    for role in ["ingest", "worker"] {
        let (code, _, stderr) = run(&[role, "-c", folder.path().to_str().unwrap()]);
        assert_eq!(code, 64);
        assert!(
            stderr.contains("backend.distributed") && stderr.contains("openclaw run"),
            "{stderr}"
        );
    }
}

#[test]
fn bad_usage_ends_64_and_help_ends_0() {
    assert_eq!(run(&["frobnicate"]).0, 64);
    assert_eq!(run(&["run"]).0, 64);
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in [
        "demo", "run", "ingest", "worker", "check", "migrate", "dlq", "keys", "sim",
    ] {
        assert!(stdout.contains(command));
        assert_eq!(run(&[command, "--help"]).0, 0);
    }
}

/// The form of the original's Supervisor file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_a_command_is_run() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let folder = world.join("bot0");
    let folder = folder.to_str().unwrap();
    let (port, metrics) = (testkit::free_port().to_string(), testkit::free_port().to_string());
    let config = format!("--config={folder}");
    for arguments in [
        vec!["-c", folder, "--port", &port, "--metrics-port", &metrics],
        vec!["--metrics-port", &metrics, &config, "--port", &port],
    ] {
        let mut process = openclaw(&arguments).spawn().unwrap();
        testkit::eventually("both ports are open", std::time::Duration::from_secs(20), async || {
            [&port, &metrics]
                .iter()
                .all(|port| std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok())
        })
        .await;
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
    // Without a flag, it is the configuration that counts: here a port that is taken.
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    world.write(
        "bot0/config.yaml",
        &format!("server: {{ port: {} }}\n", taken.local_addr().unwrap().port()),
    );
    let (code, _, stderr) = run(&["-c", folder]);
    assert!(code == 64 && stderr.contains("cannot listen on"), "{stderr}");
    let (code, _, stderr) = run(&["--port", &port]);
    assert!(code == 64 && stderr.contains("-c"), "{stderr}");
    assert_eq!(run(&[]).0, 64);
}

#[test]
fn the_demo_keeps_every_promise_and_says_so() {
    let (code, stdout, stderr) = run(&["demo", "--duration", "3s"]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    for line in [
        "accepted",
        "duplicates dropped",
        "answered",
        "dead letters",
        "every promise kept",
    ] {
        assert!(stdout.contains(line), "{stdout}");
    }
}

/// Among the temporary files of a machine anybody may lay out a link under a name that can be foreseen.
#[test]
fn the_demos_data_is_its_owners_alone_under_a_name_nobody_can_foresee() {
    let temporary = tempfile::tempdir().unwrap();
    let mut demo = openclaw(&["demo", "--duration", "1s", "--keep"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(demo.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let told = said.find(|line| line.contains("data in "));
    demo.kill().unwrap();
    demo.wait().unwrap();
    let folders: Vec<_> = fs::read_dir(temporary.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [folder] = folders.as_slice() else {
        panic!("{folders:?}")
    };
    assert!(told.unwrap().contains(folder.to_str().unwrap()));
    assert!(
        !folder.ends_with(format!("openclaw-demo-{}", demo.id())),
        "{}",
        folder.display()
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700);
    assert_eq!(mode(&folder.join("openclaw.db")), 0o600);
}

#[test]
fn a_new_key_is_a_key_the_configuration_takes() {
    let (code, key, _) = run(&["keys", "new"]);
    assert_eq!(code, 0);
    let folder = tempfile::tempdir().unwrap();
    let config = format!("encryption: {{ keys: {{ a: \"{}\" }}, active: a }}\n", key.trim());
    fs::write(folder.path().join("config.yaml"), config).unwrap();
    let (code, _, stderr) = run(&["check", "--offline", "-c", folder.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_dependency_that_cannot_be_reached_ends_69() {
    let folder = tempfile::tempdir().unwrap();
    // A port that was just free: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "backend:\n  distributed:\n    amqp_url: amqp://u:hidden@127.0.0.1:{port}\n    redis_url: redis://127.0.0.1:{port}\n    database_url: postgres://u:hidden@127.0.0.1:{port}/d\n"
    );
    fs::write(folder.path().join("config.yaml"), config).unwrap();
    let (code, stdout, stderr) = run(&["check", "-c", folder.path().to_str().unwrap()]);
    assert_eq!(code, 69, "{stderr}");
    for name in ["rabbitmq", "redis", "postgresql"] {
        assert!(stderr.contains(name), "{stderr}");
    }
    assert!(!(stdout + &stderr).contains("hidden"), "a password was printed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_one_data_folder_ends_64_and_names_the_first() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let _first = Process::start("run", world.path()).await;
    let folder = world.path().to_str().unwrap();
    let (code, _, stderr) = run(&["run", "-c", folder, "--port", "0", "--metrics-port", "0"]);
    assert_eq!(code, 64, "{stderr}");
    assert!(stderr.contains("in use by process"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_an_error_that_says_so() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let first = Process::start("run", world.path()).await;
    let other = World::new(Kind::Embedded, 1, "").await;
    let port = first.address.port().to_string();
    let (code, _, stderr) = run(&[
        "run",
        "-c",
        other.path().to_str().unwrap(),
        "--port",
        &port,
        "--metrics-port",
        "0",
    ]);
    assert_eq!(code, 64, "{stderr}");
    assert!(stderr.contains(&port) && stderr.contains("--port"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_ever_logged() {
    let world = World::new(Kind::Embedded, 1, "log: { level: debug }\n").await;
    let process = Process::start("run", world.path()).await;
    let pusher = world.pusher(&[&process], openclaw_sim::push::PushOptions::default());
    pusher.open_loop(50.0, world.workload(2).take(4)).await;
    world.answered(&pusher).await;
    let log = process.log();
    for secret in ["secret-of-bot0", "token-of-bot0", "key-of-bot0", "Bearer", "#0 xxxx"] {
        assert!(!log.contains(secret), "`{secret}` stands in the log:\n{log}");
    }
}
