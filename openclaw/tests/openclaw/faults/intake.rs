//! What is pushed, and by whom: duplicates, re-pushes of days, keys that are lost, connections that say nothing.

use std::io::Write as _;
use std::net::TcpStream;

use openclaw_sim::event::Event;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use testkit::eventually;

use super::{Audit, figure, once, seconds, shared, world};
use world::{Process, openclaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_29_500_copies_at_once_to_three_ingests() {
    let world = world(1).await;
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Process::start_with("ingest", world.path(), &[("OPENCLAW_LOG__LEVEL", "debug")]).await);
    }
    let pusher = world.pusher(&processes.iter().collect::<Vec<_>>(), once());
    let event = Event::text(world.bots[0].clone(), "oc_copies", "ou_copies", "once, please");
    let statuses = pusher.push_copies(&event, 500).await;
    let accepted = statuses.iter().filter(|status| **status == Some(200)).count();
    assert!(accepted > 0, "{statuses:?}");
    let odd: Vec<_> = statuses
        .iter()
        .filter(|status| !matches!(status, Some(200 | 503)))
        .collect();
    assert!(odd.is_empty(), "{odd:?}");
    let copies = shared(&world).rabbitmq.depth("openclaw.v1.bot.bot0").await.unwrap();
    let unfiltered = processes
        .iter()
        .map(|process| process.log().matches("stored without the duplicate filter").count())
        .sum::<usize>();
    // A filter that does not answer within 50 ms (on a busy machine) is done without; even then a process stores it once.
    let most = 2.max(unfiltered.min(2) as u32 + 1);
    assert!(
        copies <= most,
        "{copies} copies in the queue, {unfiltered} stored without the filter"
    );
    processes.push(Process::start("worker", world.path()).await);
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.visible, 1);
    figure(
        "29",
        &format!(
            "{copies} copies in the queue ({unfiltered} stored without the filter), {accepted} of 500 answered 200, 1 visible"
        ),
    );
}

/// Each re-push comes after the filter has forgotten the event, as after 1 h and 6 h; the midnight between them lies in
/// the row's own times, which no key contains.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_30_pushed_again_after_hours_and_midnight() {
    let world = world(2).await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], once());
    let events: Vec<Event> = world.workload(3).take(12).collect();
    for event in &events {
        assert_eq!(pusher.push(event.clone()).await.unwrap().status, Some(200));
    }
    world.answered(&pusher).await;
    for hours in [0, 1, 6, 24] {
        shared(&world).redis.command(&["FLUSHALL"]).await;
        let _: (i64,) = super::audit::query(
            &world,
            "WITH aged AS (UPDATE events SET created_at = created_at - interval '6 hours', \
             received_at = received_at - interval '6 hours', finished_at = finished_at - interval '6 hours' RETURNING 1) \
             SELECT count(*) FROM aged",
        )
        .await;
        for event in &events {
            assert_eq!(pusher.push_copies(event, 1).await, [Some(200)], "after {hours} h");
        }
    }
    let audit = Audit {
        repeats: 4 * 12,
        ..Audit::default()
    };
    let report = audit.check(&world, &pusher, processes).await;
    assert_eq!(report.visible, 12);
    figure(
        "30",
        "12 events pushed 5 times each over 24 h of database time: 12 visible",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_key_set_lost() {
    let world = world(1).await;
    let node = std::fs::read_to_string(world.join("config.yaml")).unwrap();
    let encryption = "encryption: { keys: { old: \"${OPENCLAW_TEST_KEY}\" }, active: old }\n";
    world.write("config.yaml", &(node + encryption));
    let refused = |role: &str, key: Option<&str>| {
        let mut command = openclaw(&[role, "-c", world.path().to_str().unwrap(), "--port", "0"]);
        if let Some(key) = key {
            command.env("OPENCLAW_TEST_KEY", key);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{text}");
        text
    };
    for role in ["ingest", "worker"] {
        let text = refused(role, None);
        assert!(
            text.contains("OPENCLAW_TEST_KEY") && text.contains("encryption.keys"),
            "{text}"
        );
        let text = refused(role, Some("geheim-and-too-short"));
        assert!(
            text.contains("encryption.keys.old") && !text.contains("geheim"),
            "{text}"
        );
    }
    figure(
        "35",
        "both roles refuse to start without the key and with one that is none; exit 64",
    );
}

/// The configuration is in order, but not the one that the events in the database were sealed under.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_key_of_stored_events_lost() {
    let world = world(1).await;
    let node = std::fs::read_to_string(world.join("config.yaml")).unwrap();
    let ring = |keys: &str, active: &str| format!("{node}encryption: {{ keys: {{ {keys} }}, active: {active} }}\n");
    let (old, new) = (
        format!("old: \"{}\"", "0a".repeat(32)),
        format!("new: \"{}\"", "0b".repeat(32)),
    );
    world.write("config.yaml", &ring(&old, "old"));
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], super::patient());
    // More than the lanes hold: the rest lies in the waiting room when everything dies.
    pusher.open_loop(200.0, world.workload(2).take(60)).await;
    eventually("some events wait", seconds(10.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) >= 5
    })
    .await;
    for process in processes {
        process.kill();
    }
    let other = format!("old: \"{}\"", "0c".repeat(32));
    for (config, said) in [
        (node.clone(), "`encryption.keys.old` is missing"),
        (ring(&new, "new"), "`encryption.keys.old` is missing"),
        (ring(&other, "old"), "`encryption.keys.old` is not the key"),
    ] {
        world.write("config.yaml", &config);
        for role in ["worker", "run"] {
            let output = openclaw(&[role, "-c", world.path().to_str().unwrap(), "--port", "0"])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(64), "{text}");
            assert!(text.contains(said) && !text.contains("0a0a"), "{text}");
        }
    }
    // Back, beside the one that is active now.
    world.write("config.yaml", &ring(&format!("{old}, {new}"), "new"));
    let processes = world.start(1).await;
    let report = Audit::default().check(&world, &pusher, processes).await;
    figure(
        "35",
        &format!(
            "{} events wait for their key: refused without it and with another one; exit 64",
            report.accepted
        ),
    );
}

/// 1,000 idle connections, 100 that trickle their headers, 100 that trickle their body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_36_slow_and_idle_connections() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let world = world(4).await;
    let processes = world.start(1).await;
    let address = processes[0].address;
    let connect = |text: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut sockets = Vec::new();
    for _ in 0..2000 {
        sockets.push(connect(""));
    }
    for _ in 0..100 {
        sockets.push(connect("POST /webhook/bot0 HTTP/1.1\r\nhost: x\r\nx-slow: "));
        sockets.push(connect(
            "POST /webhook/bot0 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{",
        ));
    }
    let pusher = world.pusher(&[&processes[0]], once());
    let load = super::pushing(&pusher, 20.0, world.workload(5).take(160));
    for _ in 0..40 {
        super::lasts(seconds(0.2)).await;
        for stream in sockets.iter_mut().skip(2000) {
            // Cut by the server in the end: that is its right.
            stream.write_all(b"a").ok();
        }
    }
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let slowest = pusher.log(|log| log.attempt_latency().max());
    assert_eq!(report.given_up, 0);
    assert!(slowest < seconds(3.0), "{slowest:?}");
    figure(
        "36",
        &format!(
            "2,000 idle and 200 slow connections: slowest of {} events {slowest:.1?}",
            report.accepted
        ),
    );
}
