//! PostgreSQL, and the way to it: gone, cut, locked, crowded.

use sqlx::Connection as _;

use super::audit::query;
use super::{Audit, figure, lasts, patient, pushing, seconds, shared, world};
use openclaw_sim::clock::monotonic_us;

/// 15 s instead of 60 s: connections reset, new ones refused, as with `pg_ctl stop -m immediate`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_postgres_gone() {
    let world = world(4).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 30.0, world.workload(5).take(600));
    lasts(seconds(4.0)).await;
    shared(&world).ways.database.cut();
    let lost = monotonic_us();
    lasts(seconds(15.0)).await;
    let back = monotonic_us();
    shared(&world).ways.database.restore().unwrap();
    load.await.unwrap();
    let after_loss: Vec<u64> = world.sim.ledger(|ledger| {
        let calls = ledger.calls().filter(|call| call.at_us > lost && call.at_us < back);
        calls.map(|call| (call.at_us - lost) / 1000).collect()
    });
    let last = after_loss.iter().max().copied().unwrap_or(0);
    assert!(last < 1500, "sends began after the loss, at these ms: {after_loss:?}");
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.given_up, 0, "ingest needs no database");
    let refused = pusher.log(|log| log.totals().statuses.get(&Some(503)).copied().unwrap_or(0));
    assert_eq!(refused, 0, "ingest needs no database");
    figure(
        "19",
        &format!(
            "{} sends after the loss, the last {last} ms after it; {} events",
            after_loss.len(),
            report.accepted
        ),
    );
}

/// 8 times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_postgres_backends_terminated() {
    let world = world(8).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 40.0, world.workload(5).take(480));
    for _ in 0..8 {
        lasts(seconds(1.3)).await;
        shared(&world).database.cut_connections().await;
    }
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let calls = world.sim.ledger(|ledger| ledger.totals().calls);
    figure("20", &format!("{} events, {calls} calls", report.accepted));
}

/// 12 s instead of 20 s, well beyond the statement timeout of 5 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_events_table_locked() {
    let world = world(4).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 15.0, world.workload(5).take(300));
    lasts(seconds(3.0)).await;
    let mut locking = sqlx::PgConnection::connect(shared(&world).database.url())
        .await
        .unwrap();
    let mut transaction = locking.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *transaction)
        .await
        .unwrap();
    lasts(seconds(12.0)).await;
    transaction.rollback().await.unwrap();
    locking.close().await.unwrap();
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.given_up, 0);
    figure("21", &format!("{} events", report.accepted));
}

/// Four workers, 20 bots, one table: the database counts its deadlocks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_opposed_batches_of_four_workers() {
    let world = world(20).await;
    let processes = world.start(4).await;
    let options = openclaw_sim::push::PushOptions {
        duplicates: 0.3,
        ..patient()
    };
    let pusher = world.pusher(&[&processes[0]], options);
    let load = pushing(&pusher, 150.0, world.workload(5).take(1500));
    lasts(seconds(3.0)).await;
    // Redelivery of what is held: the same rows are taken up by other workers, in other batches.
    shared(&world).ways.amqp.reset_connections();
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    let (deadlocks,): (i64,) = query(
        &world,
        "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    )
    .await;
    assert_eq!(deadlocks, 0);
    figure("22", &format!("{} events, {deadlocks} deadlocks", report.accepted));
}
