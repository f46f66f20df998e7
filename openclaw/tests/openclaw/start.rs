//! The first seconds of a process, and the wake-ups it may miss later.

use std::process::Stdio;
use std::time::{Duration, Instant};

use openclaw_sim::proxy::{Direction, Flow};
use openclaw_sim::push::PushOptions;
use sqlx::{Connection as _, SqliteConnection};
use testkit::eventually;
use world::{Kind, Process, World, openclaw};

fn once() -> PushOptions {
    PushOptions {
        timetable: Vec::new(),
        ..PushOptions::default()
    }
}

/// 60 new bots, and an event for each at the moment of `/readyz`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_ready_stores_an_event_of_every_new_bot() {
    let world = World::new(Kind::Distributed, 60, "").await;
    let ingest = Process::start("ingest", world.path()).await;
    let rabbitmq = &world.shared.as_ref().unwrap().rabbitmq;
    assert_eq!(
        rabbitmq.depth("openclaw.v1.bot.bot59").await,
        Some(0),
        "the last bot has no queue"
    );
    let pusher = world.pusher(&[&ingest], once());
    pusher.closed_loop(20, world.workload(1).take(60)).await;
    let statuses = pusher.log(|log| log.totals().statuses.clone());
    assert_eq!(statuses, [(Some(200), 60)].into());
}

/// One bot's queue that the broker refuses is named, and keeps the others' process neither from being ready nor from storing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_queue_is_named_and_keeps_no_process_from_being_ready() {
    let world = World::new(Kind::Distributed, 2, "").await;
    let rabbitmq = &world.shared.as_ref().unwrap().rabbitmq;
    rabbitmq.declare_plain("openclaw.v1.bot.bot0").await;
    let ingest = Process::start("ingest", world.path()).await;
    let log = ingest.log();
    assert!(
        log.lines()
            .any(|line| line.contains("ERROR") && line.contains("openclaw.v1.bot.bot0")),
        "{log}"
    );
    let pusher = world.pusher(&[&ingest], once());
    pusher.open_loop(50.0, world.workload(1).take(2)).await;
    let statuses = pusher.log(|log| log.totals().statuses.clone());
    assert_eq!(statuses, [(Some(200), 1), (Some(503), 1)].into());
}

/// Nothing that a healthy start is made of is an error, and each server is reported once it answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_start_logs_no_error_and_says_soon_that_every_server_answers() {
    for kind in [Kind::Distributed, Kind::Embedded] {
        let world = World::new(kind, 2, "").await;
        let mut processes = world.start(1).await;
        if kind == Kind::Distributed {
            processes.push(Process::start("run", world.path()).await);
        }
        let servers = match kind {
            Kind::Distributed => ["rabbitmq answers", "redis answers"],
            Kind::Embedded => ["sqlite answers", "memory answers"],
        };
        for process in &processes {
            eventually("every server is said to answer", Duration::from_secs(4), async || {
                servers.iter().all(|server| process.log().contains(server))
            })
            .await;
            let log = process.log();
            let wrong: Vec<_> = log
                .lines()
                .filter(|line| line.contains("ERROR") || line.contains("WARN"))
                .collect();
            assert!(wrong.is_empty(), "{}: {wrong:#?}", process.role);
        }
    }
}

/// The port is open before the broker is reached: what comes meanwhile is not refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_open_at_a_normal_start_accepts() {
    let world = World::new(Kind::Distributed, 1, "").await;
    // The way to the broker is long enough for a push to come first.
    let way = &world.shared.as_ref().unwrap().ways.amqp;
    way.set(Direction::Both, &Flow::slow(Duration::from_millis(5), Duration::ZERO));
    for role in ["ingest", "run"] {
        let process = Process::spawn(role, world.path()).await;
        let pusher = world.pusher(&[&process], once());
        pusher.open_loop(500.0, world.workload(1).take(5)).await;
        let statuses = pusher.log(|log| log.totals().statuses.clone());
        assert_eq!(statuses, [(Some(200), 5)].into(), "{role}");
    }
}

/// It ends at once, and says only that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_logs_nothing_but_its_reason() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let first = Process::start("run", world.path()).await;
    let other = World::new(Kind::Embedded, 1, "").await;
    let port = first.address.port().to_string();
    for _ in 0..5 {
        let output = openclaw(&[
            "run",
            "-c",
            other.path().to_str().unwrap(),
            "--port",
            &port,
            "--metrics-port",
            "0",
        ])
        .stdout(Stdio::null())
        .output()
        .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("--port") && !said.contains("ERROR"), "{said}");
    }
}

/// A row that nobody was woken for, as if the wake-up had been lost: another program writes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_nobody_was_woken_for_is_taken_up_in_fifteen_seconds() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let processes = world.start(1).await;
    let path = world.join("data/openclaw.db");
    let mut file = SqliteConnection::connect(&format!("sqlite://{}", path.display()))
        .await
        .unwrap();
    // A copy of a real row: one is left when a trigger keeps it.
    sqlx::query("CREATE TABLE kept AS SELECT bot, envelope FROM queue")
        .execute(&mut file)
        .await
        .unwrap();
    sqlx::query("CREATE TRIGGER keep AFTER INSERT ON queue BEGIN INSERT INTO kept VALUES (new.bot, new.envelope); END")
        .execute(&mut file)
        .await
        .unwrap();
    let pusher = world.pusher(&[&processes[0]], once());
    pusher.open_loop(50.0, world.workload(1).take(1)).await;
    world.answered(&pusher).await;
    sqlx::query("DROP TRIGGER keep").execute(&mut file).await.unwrap();
    let waiting = async |file: &mut SqliteConnection| {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue");
        count.fetch_one(file).await.unwrap()
    };
    eventually("the queue is empty", Duration::from_secs(5), async || {
        waiting(&mut file).await == 0
    })
    .await;
    let copied = sqlx::query("INSERT INTO queue (bot, envelope) SELECT bot, envelope FROM kept");
    assert_eq!(copied.execute(&mut file).await.unwrap().rows_affected(), 1);
    let begun = Instant::now();
    eventually("it is taken up", Duration::from_secs(15), async || {
        waiting(&mut file).await == 0
    })
    .await;
    assert!(begun.elapsed() > Duration::from_secs(1), "somebody was woken");
    let log = processes[0].log();
    assert!(log.contains("the consumer hears nothing"), "{log}");
}
