//! Processes that are killed, frozen and replaced.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::eventually;

use super::{Audit, figure, lasts, patient, pushing, seconds, shared, world};
use world::Process;

/// 12 kills instead of 100.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_01_ingest_killed_again_and_again() {
    let world = world(8).await;
    let mut ingests = vec![
        Process::start("ingest", world.path()).await,
        Process::start("ingest", world.path()).await,
    ];
    let worker = Process::start("worker", world.path()).await;
    let pusher = world.pusher(&[&ingests[0], &ingests[1]], patient());
    let load = pushing(&pusher, 30.0, world.workload(5).take(600));
    let mut slowest = Duration::ZERO;
    for kill in 0..12 {
        lasts(seconds(0.3 + 0.1 * f64::from(kill % 7))).await;
        let begun = Instant::now();
        ingests[kill as usize % 2].kill_and_replace().await;
        slowest = slowest.max(begun.elapsed());
    }
    load.await.unwrap();
    ingests.push(worker);
    let report = Audit::default().check(&world, &pusher, ingests).await;
    assert_eq!((report.accepted, report.given_up), (600, 0));
    assert!(slowest < seconds(5.0), "a killed ingest was back after {slowest:?}");
    figure(
        "01",
        &format!("12 kills, slowest start {slowest:.1?}, {} events", report.accepted),
    );
}

/// 10 kills instead of 100, each worker living for about three seconds. The dead stay members for five: a bot whose primary
/// and standby are both dead has nobody attached, so no delivery that stayed out can make anybody active before that, and a
/// new primary may be killed in its turn. Where a standby is attached the next test holds its second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_02_worker_killed_again_and_again() {
    let world = world(8).await;
    let ingest = Process::start("ingest", world.path()).await;
    let mut workers = vec![
        Process::start("worker", world.path()).await,
        Process::start("worker", world.path()).await,
    ];
    let pusher = world.pusher(&[&ingest], patient());
    // A backlog for every bot during the whole time, so that a pause is a pause of the worker.
    let load = pushing(&pusher, 200.0, world.workload(5).take(8 * 5 * 25));
    for kill in 0..10 {
        lasts(seconds(1.2 + 0.1 * f64::from(kill % 7))).await;
        workers[kill as usize % 2].kill_and_replace().await;
    }
    load.await.unwrap();
    world.answered(&pusher).await;
    let pause = world.longest_pause();
    workers.push(ingest);
    let report = Audit::default().check(&world, &pusher, workers).await;
    assert!(pause < seconds(20.0), "a bot fell silent for {pause:?}");
    figure(
        "02",
        &format!(
            "10 kills, longest silence of a bot with a backlog {pause:.1?}, {} events",
            report.accepted
        ),
    );
}

/// One kill, when all that is left of the backlog lies in the waiting room: the broker has no event to give to the standby.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_02_one_worker_killed_the_other_is_active() {
    let world = world(1).await;
    let processes = world.start(2).await;
    let rabbitmq = &shared(&world).rabbitmq;
    // Two each of the bot, of what has no queue, and of what the broker gave up on.
    eventually("the standby is attached", seconds(15.0), async || {
        rabbitmq.prefetches().await.len() == 6
    })
    .await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(200.0, world.workload(3).take(90)).await;
    // More than three lanes hold: what these eight each came with is acknowledged.
    eventually("only the waiting room is left", seconds(20.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) >= 40
    })
    .await;
    let is_active = |process: &Process| process.log().contains("serving bot=bot0");
    let mut left = Vec::new();
    let mut active = None;
    for process in processes {
        if process.role == "worker" && is_active(&process) {
            assert!(active.replace(process).is_none(), "two workers serve one bot");
        } else {
            left.push(process);
        }
    }
    active.unwrap().kill();
    let begun = Instant::now();
    eventually("the other is active", seconds(15.0), async || {
        left.iter().any(is_active)
    })
    .await;
    let idle = begun.elapsed();
    let report = Audit::default().check(&world, &pusher, left).await;
    assert!(idle < seconds(1.0), "the other worker was active after {idle:?}");
    figure(
        "02",
        &format!("the other worker active after {idle:.2?}, {} events", report.accepted),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_04_worker_frozen_for_45_seconds() {
    let world = world(6).await;
    let ingest = Process::start("ingest", world.path()).await;
    let frozen = Process::start("worker", world.path()).await;
    let other = Process::start("worker", world.path()).await;
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 6.0, world.workload(3).take(6 * 60));
    lasts(seconds(5.0)).await;
    frozen.signal(Signal::STOP);
    lasts(seconds(45.0)).await;
    frozen.signal(Signal::CONT);
    load.await.unwrap();
    world.answered(&pusher).await;
    let pause = world.longest_pause();
    let report = Audit::default()
        .check(&world, &pusher, vec![ingest, frozen, other])
        .await;
    assert!(pause < seconds(27.0), "a bot fell silent for {pause:?}");
    figure(
        "04",
        &format!("longest silence of a bot {pause:.1?}, {} events", report.accepted),
    );
}

/// A backlog of 200 for one bot while each of three workers is replaced in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_32_rolling_restart_keeps_every_chats_order() {
    let world = world(1).await;
    let ingest = Process::start("ingest", world.path()).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        workers.push(Process::start("worker", world.path()).await);
    }
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 200.0, world.workload(10).take(200));
    let mut slowest = Duration::ZERO;
    for old in std::mem::take(&mut workers) {
        lasts(seconds(5.0)).await;
        workers.push(Process::start("worker", world.path()).await);
        let begun = Instant::now();
        assert!(old.stop().await.success());
        slowest = slowest.max(begun.elapsed());
    }
    load.await.unwrap();
    world.answered(&pusher).await;
    let pause = world.longest_pause();
    workers.push(ingest);
    let report = Audit::default().check(&world, &pusher, workers).await;
    assert_eq!(report.accepted, 200);
    assert!(slowest < seconds(25.0), "a worker drained for {slowest:?}");
    let repeats = world.sim.ledger(|ledger| ledger.totals().collapsed);
    assert_eq!(repeats, 0, "finished work was sent again");
    figure(
        "32",
        &format!("slowest drain {slowest:.1?}, longest silence of the bot {pause:.1?}"),
    );
}
