//! The platform's answers: lost, late, refusing.

use std::fs;
use std::path::PathBuf;

use openclaw_sim::Api;
use openclaw_sim::clock::monotonic_us;
use openclaw_sim::faults::{Fault, Scope};
use testkit::eventually;

use super::audit::query;
use super::{Audit, figure, patient, pushing, seconds, world};
use world::Process;
use world::{Kind, World};

/// One send in five is carried out and answered with an error, a reset, or garbage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_feishu_commits_and_then_fails() {
    let quick = "message: { retry_policy: { backoff: 20ms, multiplier: 1 } }\n";
    let world = World::new(Kind::Distributed, 6, quick).await;
    let processes = world.start(2).await;
    for fault in [
        Fault::commit_then_error(500),
        Fault::commit_then_reset(),
        Fault::garbage(true),
    ] {
        let scope = Scope {
            probability: Some(0.07),
            ..Scope::default()
        };
        world.sim.fault(scope, fault).unwrap();
    }
    let pusher = world.pusher(&[&processes[0]], patient());
    pushing(&pusher, 40.0, world.workload(5).take(300)).await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let fired: u64 = world.sim.faults().iter().map(|rule| rule.fired).sum();
    assert!(fired > 20, "only {fired} faults");
    figure(
        "23",
        &format!("{fired} of {} sends committed and then failed", report.visible + fired),
    );
}

/// The hour passes in the database: `first_try_at` is what the product goes by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_24_feishu_silent_beyond_the_uuids_life() {
    let world = world(1).await;
    let ingest = Process::start("ingest", world.path()).await;
    let worker = Process::start("worker", world.path()).await;
    world.sim.fault(Scope::default(), Fault::silent(true)).unwrap();
    let pusher = world.pusher(&[&ingest], patient());
    pusher.open_loop(20.0, world.workload(1).take(1)).await;
    let calls = || {
        world
            .sim
            .ledger(|ledger| ledger.calls().filter(|call| call.api != Api::Token).count())
    };
    eventually("the send is on the wire", seconds(10.0), async || calls() == 1).await;
    worker.kill();
    let _: (i64,) = query(
        &world,
        "WITH aged AS (UPDATE actions SET first_try_at = now() - interval '55 minutes' RETURNING 1) SELECT count(*) FROM aged",
    )
    .await;
    let worker = Process::start("worker", world.path()).await;
    let audit = Audit {
        dead: 1,
        ..Audit::default()
    };
    audit.check(&world, &pusher, vec![ingest, worker]).await;
    let (class,): (String,) = query(&world, "SELECT class FROM dead_letters").await;
    assert_eq!(
        (class.as_str(), calls()),
        ("ambiguous", 1),
        "resent, or called something else"
    );
    figure("24", "55 minutes in the database: `ambiguous`, not resent");
}

/// 3 s instead of 10 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_25_one_429_pauses_the_bot_on_all_workers() {
    let world = world(3).await;
    let processes = world.start(3).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 12.0, world.workload(5).take(150));
    eventually("answers come", seconds(15.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) > 10
    })
    .await;
    let app = world.bots[0].credentials.app_id.clone();
    let scope = Scope {
        app: Some(app.clone()),
        times: Some(1),
        ..Scope::default()
    };
    world.sim.fault(scope, Fault::rate_limited(seconds(3.0))).unwrap();
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let times: Vec<u64> = world.sim.ledger(|ledger| {
        let limited = ledger.calls().find(|call| call.fault.is_some()).unwrap().at_us;
        let calls = ledger.calls().filter(|call| call.app == app && call.api != Api::Token);
        // A request that was on the wire beside it may still arrive.
        calls
            .map(|call| call.at_us)
            .filter(|at_us| *at_us > limited + 200_000)
            .map(|at_us| at_us - limited)
            .collect()
    });
    let silence = times.iter().min().unwrap() / 1000;
    assert!(silence >= 2900, "the bot sent {silence} ms after its 429");
    let (attempts,): (i64,) = query(&world, "SELECT coalesce(sum(attempt), 0)::bigint FROM events").await;
    assert_eq!(attempts, 0, "a limit burned an attempt");
    figure(
        "25",
        &format!("reset 3 s: silent for {silence} ms, {} events", report.accepted),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_tokens_revoked() {
    let world = world(4).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 16.0, world.workload(8).take(200));
    eventually("answers come", seconds(15.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) > 30
    })
    .await;
    let revoked = monotonic_us();
    world.sim.revoke_tokens(None);
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let bought = world.sim.ledger(|ledger| {
        ledger
            .calls()
            .filter(|call| call.api == Api::Token && call.at_us > revoked)
            .count()
    });
    assert_eq!(bought, 4, "one token for each of four bots, not one for each lane");
    figure(
        "26",
        &format!("{bought} tokens bought for 4 bots, {} events", report.accepted),
    );
}

/// The library that shifts a process's clock: Debian's package `faketime`, which `./dev test faults` installs.
fn faketime() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut libraries = libraries.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists()).unwrap()
}

/// The worker's clock is an hour ahead, the other one's an hour behind (libfaketime).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_31_clocks_an_hour_off() {
    let world = world(4).await;
    let ingest = Process::start("ingest", world.path()).await;
    let library = faketime();
    let mut processes = vec![ingest];
    for offset in ["+1h", "-1h"] {
        let variables = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME", offset),
            // A machine's monotonic clock is never off by an hour: it counts from the boot.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        processes.push(Process::start_with("worker", world.path(), &variables).await);
    }
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 30.0, world.workload(5).take(300));
    // One hand-over between the two.
    eventually("answers come", seconds(15.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) > 60
    })
    .await;
    processes.remove(1).kill();
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    figure("31", &format!("{} events", report.accepted));
}
