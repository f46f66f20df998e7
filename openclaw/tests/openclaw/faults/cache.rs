//! Redis, and the way to it: gone, hanging, empty, full, far. The quota holds all the time.

use openclaw_sim::proxy::{Direction, Flow};
use openclaw_sim::push::Pusher;

use super::{Audit, figure, lasts, patient, pushing, seconds, shared, shared_mut, world};
use std::time::Duration;
use world::World;

/// Messages that became visible, a second and bot.
fn rate(world: &World) -> f64 {
    let times: Vec<u64> = world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.visible_us).collect());
    let span = Duration::from_micros(times.iter().max().unwrap() - times.iter().min().unwrap());
    times.len() as f64 / span.as_secs_f64() / world.bots.len() as f64
}

fn statuses(pusher: &Pusher) -> String {
    let totals = pusher.log(|log| log.totals().clone());
    let slowest = pusher.log(|log| log.attempt_latency().max());
    format!("attempts by status {:?}, slowest {slowest:.1?}", totals.statuses)
}

/// 15 s instead of 60 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_14_redis_stopped_and_started() {
    let mut world = world(2).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    // A backlog for the whole time: the limit is what is tested.
    let load = pushing(&pusher, 20.0, world.workload(5).take(250));
    lasts(seconds(4.0)).await;
    shared_mut(&mut world).redis.kill();
    let before = world.sim.ledger(|ledger| ledger.totals().replied);
    lasts(seconds(15.0)).await;
    let during = world.sim.ledger(|ledger| ledger.totals().replied) - before;
    assert!(during > 0, "no worker went on alone");
    shared_mut(&mut world).redis.restart().await;
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.given_up, 0);
    let refused = pusher.log(|log| log.totals().statuses.get(&Some(503)).copied().unwrap_or(0));
    assert_eq!(refused, 0, "ingest did not go on without its filter");
    figure(
        "14",
        &format!(
            "{during} answers of 2 bots in 15 s without Redis; {}",
            statuses(&pusher)
        ),
    );
}

/// 3 stalls of 3 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_redis_stalls() {
    let world = world(2).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 12.0, world.workload(5).take(220));
    for _ in 0..3 {
        lasts(seconds(2.5)).await;
        shared(&world).redis.pause();
        lasts(seconds(3.0)).await;
        shared(&world).redis.resume();
    }
    load.await.unwrap();
    Audit::default().check(&world, &pusher, processes).await;
    let slowest = pusher.log(|log| log.attempt_latency().max());
    assert!(slowest < seconds(2.5), "ingest took {slowest:?}");
    figure("15", &statuses(&pusher));
}

/// 5 times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_redis_forgets_in_mid_load() {
    let world = world(2).await;
    let processes = world.start(2).await;
    let options = openclaw_sim::push::PushOptions {
        duplicates: 0.5,
        ..patient()
    };
    let pusher = world.pusher(&[&processes[0]], options);
    let load = pushing(&pusher, 12.0, world.workload(5).take(220));
    for _ in 0..5 {
        lasts(seconds(2.0)).await;
        shared(&world).redis.command(&["FLUSHALL"]).await;
    }
    load.await.unwrap();
    Audit::default().check(&world, &pusher, processes).await;
    figure("16", &statuses(&pusher));
}

/// 10 s of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_redis_out_of_memory() {
    let world = world(2).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 12.0, world.workload(5).take(180));
    lasts(seconds(3.0)).await;
    shared(&world).redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let before = world.sim.ledger(|ledger| ledger.totals().replied);
    lasts(seconds(10.0)).await;
    let during = world.sim.ledger(|ledger| ledger.totals().replied) - before;
    assert!(during > 0, "no worker went on alone");
    shared(&world).redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    load.await.unwrap();
    Audit::default().check(&world, &pusher, processes).await;
    let refused = pusher.log(|log| log.totals().statuses.get(&Some(503)).copied().unwrap_or(0));
    assert_eq!(refused, 0, "ingest did not go on without its filter");
    figure(
        "17",
        &format!("{during} answers of 2 bots in 10 s; {}", statuses(&pusher)),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_redis_far_away() {
    let world = world(2).await;
    shared(&world)
        .ways
        .redis
        .set(Direction::Both, &Flow::slow(seconds(0.015), seconds(0.005)));
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(100.0, world.workload(5).take(160)).await;
    world.answered(&pusher).await;
    let rate = rate(&world);
    Audit::default().check(&world, &pusher, processes).await;
    figure(
        "18",
        &format!("round trips of 30 to 40 ms: {rate:.2} a second and bot of 5"),
    );
}
