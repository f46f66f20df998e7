//! A database that moves to another server behind its address, that hides behind a pooler, or that says nothing any more.

use std::time::{Duration, Instant};

use openclaw_sim::check::Expectations;
use openclaw_sim::event::Event;
use openclaw_sim::proxy::{Direction, Flow};
use openclaw_sim::push::{PushOptions, Pusher};
use sqlx::Connection as _;
use testkit::eventually;
use world::{Kind, Process, Shared, World};

/// From the promotion to the first answer.
const TAKEN_OVER: Duration = Duration::from_secs(5);

/// A stop may take so long, whatever the database does.
const STOPPED: Duration = Duration::from_secs(15);

fn shared(world: &World) -> &Shared {
    world.shared.as_ref().unwrap()
}

fn replied(world: &World) -> u64 {
    world.sim.ledger(|ledger| ledger.totals().replied)
}

/// What `/readyz` says.
#[expect(
    clippy::disallowed_methods,
    reason = "one call in a test, which has a deadline of its own"
)]
async fn readiness(process: &Process) -> (u16, String) {
    let answer = reqwest::get(format!("{}/readyz", process.url())).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn push(pusher: &Pusher, events: &[Event]) {
    pusher.open_loop(40.0, events.iter().cloned()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_follows_a_database_that_fails_over_behind_its_address() {
    let world = World::with_postgres(3, "").await;
    let shared = shared(&world);
    let primary = shared.postgres.as_ref().unwrap();
    let standby = primary.standby().await;
    let processes = world.start(1).await;
    let (ingest, worker) = (&processes[0], &processes[1]);
    let pusher = world.pusher(&[ingest], PushOptions::default());
    let events: Vec<_> = world.workload(5).take(60).collect();
    push(&pusher, &events[..30]).await;
    world.answered(&pusher).await;

    primary.stand_down().await;
    // Every connection still answers.
    eventually(
        "a worker that cannot write is not ready",
        Duration::from_secs(3),
        async || readiness(worker).await.0 == 503,
    )
    .await;
    assert!(readiness(worker).await.1.contains("postgresql"));
    assert_eq!(readiness(ingest).await.0, 200, "ingest needs no database");
    push(&pusher, &events[30..]).await;
    let before = replied(&world);
    assert_eq!(before, 30, "nothing is sent that cannot be recorded");

    // The address leads to the standby before that is promoted: it answers, and may not write.
    shared.ways.database.redirect(standby.address());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(readiness(worker).await.0, 503);
    standby.promote().await;
    let promoted = Instant::now();
    eventually("answers go on after the promotion", TAKEN_OVER, async || {
        replied(&world) > before
    })
    .await;
    eventually("the worker is ready again", TAKEN_OVER, async || {
        readiness(worker).await.0 == 200
    })
    .await;
    assert!(promoted.elapsed() < TAKEN_OVER, "it took {:?}", promoted.elapsed());
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    assert!(worker.log().contains("read-only"), "{}", worker.log());
    for process in processes {
        assert!(process.stop().await.success());
    }
}

/// A worker that is started while its address leads to a standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_begins_at_a_standby_waits_and_says_so() {
    let world = World::with_postgres(1, "").await;
    let standby = shared(&world).postgres.as_ref().unwrap().standby().await;
    shared(&world).ways.database.redirect(standby.address());
    let worker = Process::spawn("worker", world.path()).await;
    eventually("the worker says why it waits", Duration::from_secs(5), async || {
        worker.log().contains("read-only")
    })
    .await;
    assert_eq!(readiness(&worker).await.0, 503);
    standby.promote().await;
    worker.ready().await;
    assert!(worker.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_answer_behind_a_pooler_in_transaction_mode_and_stop_in_time() {
    let ignored = "ignore_startup_parameters = extra_float_digits,options";
    for settings in [["default_pool_size = 3", ""], ["default_pool_size = 3", ignored]] {
        let world = World::with_bouncer(4, &settings).await;
        let processes = world.start(2).await;
        let pusher = world.pusher(&[&processes[0]], PushOptions::default());
        let events: Vec<_> = world.workload(5).take(60).collect();
        push(&pusher, &events).await;
        world.answered(&pusher).await;
        world.judge(&pusher, &Expectations::default());
        world.finished(60).await;
        for process in processes {
            stops_in_time(process).await;
        }
    }
}

/// How a worker's database falls silent.
#[derive(Clone, Copy, Debug)]
enum Silence {
    /// Packets are lost on the way.
    BlackHole,
    /// The server is there and does not go on.
    Hangs,
    /// Somebody holds a lock on the table.
    Locked,
    /// Nobody listens.
    Refused,
}

/// Each event is in the worker's hands when the database falls silent, so there is something to be written at the stop.
async fn a_worker_stops(silence: Silence) {
    let world = World::new(Kind::Distributed, 2, "").await;
    let mut processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let events: Vec<_> = world.workload(5).take(40).collect();
    push(&pusher, &events[..10]).await;
    world.answered(&pusher).await;
    let way = &shared(&world).ways.database;
    let mut lock = sqlx::PgConnection::connect(shared(&world).database.url())
        .await
        .unwrap();
    let mut transaction = lock.begin().await.unwrap();
    match silence {
        Silence::BlackHole => way.set(Direction::Both, &Flow::black_hole()),
        Silence::Hangs => way.set(Direction::Down, &Flow::stall()),
        Silence::Refused => way.cut(),
        Silence::Locked => {
            let locked = sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE");
            locked.execute(&mut *transaction).await.unwrap();
        }
    }
    push(&pusher, &events[10..]).await;
    stops_in_time(processes.pop().unwrap()).await;
    transaction.rollback().await.unwrap();
    lock.close().await.unwrap();
    way.restore().unwrap();
    // The next worker finds all of it.
    let next = Process::start("worker", world.path()).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    assert!(next.stop().await.success());
}

async fn stops_in_time(process: Process) {
    let (role, begun) = (process.role.clone(), Instant::now());
    assert!(process.stop().await.success());
    assert!(begun.elapsed() < STOPPED, "{role} stopped after {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_packets_to_the_database_are_lost() {
    a_worker_stops(Silence::BlackHole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_the_database_hangs() {
    a_worker_stops(Silence::Hangs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_a_table_is_locked() {
    a_worker_stops(Silence::Locked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_stops_in_time_while_nobody_listens() {
    a_worker_stops(Silence::Refused).await;
}
