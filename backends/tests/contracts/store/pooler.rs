//! PgBouncer before PostgreSQL: a statement's connection is not the last one's.

use openclaw_common::store::{ActionState, Intent, Step, Stop, StoreError};

use super::world::{HOUR, World, arrival, outcome, wait};
use super::{course, crowd, dead, schema, tenants, waiting};

/// Few connections to the server, so that calls meet what others left on them.
const FEW: &str = "default_pool_size = 3";
/// What PgBouncer needs to accept a client that asks for settings at its start. It drops them.
const IGNORES: &str = "ignore_startup_parameters = extra_float_digits,options";

async fn transaction_mode(settings: &[&str]) -> World {
    let world = World::pooled(&[&[FEW], settings].concat()).await;
    world.store.migrate().await.unwrap();
    world.store.ready().await.unwrap();
    world
}

/// Every statement of the store once or more, by several processes at once: none may meet another's statement.
async fn everything(world: &World) {
    let others: Vec<_> = (0..6).map(|_| world.other()).collect();
    let work = others.into_iter().enumerate().map(|(number, store)| async move {
        for turn in 0..20 {
            let arrivals: Vec<_> = (0..3)
                .map(|event| arrival(&format!("om_{number}_{turn}_{event}"), "oc_1", Intent::Hold))
                .collect();
            store.begin(&arrivals).await.unwrap();
            store.ready().await.unwrap();
            store.waiting(&[super::world::bot()]).await.unwrap();
            store.spent().await.unwrap();
            store.stopped_tenants().await.unwrap();
        }
    });
    futures_util::future::join_all(work).await;
    let row = world.planned("om_plan").await;
    assert!(
        world
            .step(&row, Step::Finish(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    let row = world.start("om_wait").await;
    assert!(world.step(&row, wait(HOUR, false)).await);
    let stop = Stop {
        tenant: "t".to_owned(),
        bot: "bot1".to_owned(),
        code: 99_991_403,
        error: String::new(),
    };
    assert!(world.store.stop_tenant(&stop).await.unwrap());
    assert_eq!(world.store.resume_tenants(&["t".to_owned()], "test").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_refuses_settings_serves_every_statement() {
    everything(&transaction_mode(&[]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_drops_settings_serves_every_statement() {
    everything(&transaction_mode(&[IGNORES]).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_serves_every_statement() {
    everything(&transaction_mode(&["pool_mode = session", "default_pool_size = 200"]).await).await;
}

/// The promises that take several statements, or several processes.
#[tokio::test(flavor = "multi_thread")]
async fn promises_of_many_statements_hold_behind_a_pooler() {
    course::a_plan_survives_its_worker(transaction_mode(&[]).await).await;
    crowd::opposed_batches_never_surface_a_deadlock(transaction_mode(&[]).await).await;
    crowd::whoever_takes_up_a_plan_sees_its_actions(transaction_mode(&[IGNORES]).await).await;
    dead::replays_run_at_the_same_time_have_one_effect(transaction_mode(&[]).await).await;
    tenants::calls_add_up_and_a_repeated_tally_counts_once(transaction_mode(&[]).await).await;
    waiting::two_workers_never_take_the_same_due_row(transaction_mode(&[]).await).await;
}

/// A session's lock would stay on the pooler's connection, and nobody could migrate again.
#[tokio::test(flavor = "multi_thread")]
async fn migrating_behind_a_pooler_leaves_nothing_locked() {
    let world = World::pooled(&[FEW]).await;
    schema::four_processes_may_migrate_at_once(world).await;
    let world = transaction_mode(&[IGNORES]).await;
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database \
                 WHERE locktype = 'advisory' AND datname = current_database()";
    assert_eq!(world.number(locks).await, 0);
    world.store.migrate().await.unwrap();
}

/// Timeouts are asked for at a connection's start, which a pooler drops: they hold all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_given_up_in_time_behind_a_pooler() {
    let world = transaction_mode(&[IGNORES]).await;
    super::postgres::a_locked_table_is_given_up(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_that_cannot_work_is_named_with_the_one_that_does() {
    let world = World::pooled(&["pool_mode = statement"]).await;
    for error in [
        world.store.ready().await.unwrap_err(),
        world.store.migrate().await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("`pool_mode = transaction`"), "{text}");
    }
}
