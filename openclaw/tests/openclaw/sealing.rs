//! A key ring on its way into a deployment that has run without one.

use std::time::Duration;

use openclaw_sim::check::Expectations;
use openclaw_sim::push::PushOptions;
use testkit::eventually;
use world::{Kind, Process, World, openclaw};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ring_is_introduced_without_losing_what_waits_in_the_clear() {
    let world = World::new(Kind::Distributed, 1, "").await;
    let node = std::fs::read_to_string(world.join("config.yaml")).unwrap();
    let ring = |more: &str| {
        let key = "0a".repeat(32);
        format!("{node}encryption: {{ keys: {{ a: \"{key}\" }}, active: a{more} }}\n")
    };
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    // More than the lanes hold: the rest lies in the waiting room when everything stops.
    pusher.open_loop(200.0, world.workload(2).take(60)).await;
    eventually("some events wait", Duration::from_secs(10), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) >= 5
    })
    .await;
    for process in processes {
        process.kill();
    }

    world.write("config.yaml", &ring(""));
    let refused = openclaw(&["worker", "-c", world.path().to_str().unwrap(), "--port", "0"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{text}");
    assert!(text.contains("`encryption.accept_plain_until`"), "{text}");

    world.write("config.yaml", &ring(", accept_plain_until: 2999-01-01T00:00:00Z"));
    let worker = Process::start("worker", world.path()).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    world.finished(60).await;
    assert!(worker.stop().await.success());
}

/// Who can write to the database moves a sealed body into another chat: nobody there is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_moved_to_another_chat_becomes_a_dead_letter_that_says_why() {
    let key = "0a".repeat(32);
    let extra = format!("encryption: {{ keys: {{ a: \"{key}\" }}, active: a }}\nquota: {{ bot: 1/s }}\n");
    let world = World::new(Kind::Distributed, 1, &extra).await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(200.0, world.workload(1).take(20)).await;
    eventually("events wait", Duration::from_secs(10), async || {
        let waiting: (i64,) = world.row("SELECT count(*) FROM events WHERE state = 'waiting'").await;
        waiting.0 > 5
    })
    .await;
    let moved: (i64,) = world
        .row(
            "WITH moved AS (UPDATE events SET chat = 'oc_elsewhere'
                 WHERE key = (SELECT key FROM events WHERE state = 'waiting' ORDER BY position DESC LIMIT 1) RETURNING 1)
             SELECT count(*) FROM moved",
        )
        .await;
    assert_eq!(moved.0, 1);
    eventually("the moved one is given up", Duration::from_secs(40), async || {
        world.rows().await.dead == 1
    })
    .await;
    let letter: (String, String) = world.row("SELECT class, error FROM dead_letters").await;
    assert_eq!(letter.0, "unreadable");
    assert!(letter.1.contains("does not open with key `a`"), "{}", letter.1);
    for process in processes {
        assert!(process.stop().await.success());
    }
}
