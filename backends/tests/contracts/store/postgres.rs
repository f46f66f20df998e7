//! A PostgreSQL that is not migrated, cut off, or not there.

use std::time::{Duration, Instant};

use openclaw_backends::stores::postgres::Postgres;
use openclaw_common::config::Database;
use openclaw_common::secret::Secret;
use openclaw_common::store::{ActionState, Intent, State, Step, Store, StoreError};
use sqlx::{Connection, Executor, PgConnection};
use testkit::eventually;

use super::world::{World, arrival, bot, outcome, plan, room, taken, wait};

#[tokio::test]
async fn an_empty_database_says_what_to_run() {
    let world = World::empty_postgres().await;
    for error in [
        world.store.ready().await.unwrap_err(),
        world
            .store
            .begin(&[arrival("om_1", "oc_1", Intent::Start)])
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Schema { found: 0, .. }), "{error:?}");
        assert!(error.to_string().contains("run `openclaw migrate`"));
    }
}

#[tokio::test]
async fn a_store_can_be_opened_while_its_database_is_away_and_says_so_in_time() {
    // A listener that accepts and never speaks: worse than a refused connection.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    for address in [silent.local_addr().unwrap(), refused] {
        let url = Secret::new(format!("postgres://user:hunter2@{address}/openclaw"));
        let store = Postgres::connect(&url, &Database::default()).unwrap();
        let begun = Instant::now();
        for error in [store.ready().await.unwrap_err(), store.migrate().await.unwrap_err()] {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
            assert!(!error.to_string().contains("hunter2") && !format!("{store:?}").contains("hunter2"));
        }
        assert!(begun.elapsed() < Duration::from_secs(6));
    }
    let url = Secret::new("mysql://user:hunter2@localhost/openclaw");
    let error = Postgres::connect(&url, &Database::default()).unwrap_err();
    assert!(
        matches!(error, StoreError::Internal(_)) && !error.to_string().contains("hunter2"),
        "{error}"
    );
}

#[tokio::test]
async fn cut_connections_pass_and_the_store_goes_on() {
    let world = World::postgres().await;
    world.start("om_1").await;
    world.database().unwrap().cut_connections().await;
    eventually("the store goes on", Duration::from_secs(5), async || {
        match world.store.begin(&[arrival("om_2", "oc_1", Intent::Start)]).await {
            Ok(_) => true,
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                false
            }
        }
    })
    .await;
    world.again("om_1").await;
}

/// Taking rows up and reading their actions are two statements. A server that goes between them is no reason to take others:
/// nobody would know of the first ones.
#[tokio::test]
async fn rows_are_not_taken_twice_when_their_server_goes_meanwhile() {
    const BLOCKED: &str = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let world = World::postgres().await;
    for (key, chat) in [("om_1", "oc_1"), ("om_2", "oc_2"), ("om_3", "oc_3")] {
        let row = taken(world.begin(vec![arrival(key, chat, Intent::Start)]).await.remove(0));
        assert!(world.step(&row, plan(1)).await);
        assert!(world.step(&row, wait(Duration::ZERO, false)).await);
    }
    let mut locking = PgConnection::connect(world.database().unwrap().url()).await.unwrap();
    locking
        .execute("BEGIN; LOCK TABLE actions IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let store = world.store.clone();
    let taking = tokio::spawn(async move { store.take_due(&bot(), room(&[], 1000, 1)).await });
    eventually("the second statement waits", Duration::from_secs(10), async || {
        world.number(&format!("SELECT count(*) {BLOCKED}")).await == 1
    })
    .await;
    world
        .execute(&format!("SELECT pg_terminate_backend(pid) {BLOCKED}"))
        .await;
    locking.execute("ROLLBACK").await.unwrap();
    let error = taking.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(world.count(State::Waiting).await, 2);
}

/// PostgreSQL has no statistics of a new table, and keeps the plans it made while the table was empty.
#[tokio::test]
async fn no_event_reads_the_whole_table_of_a_new_database() {
    let world = World::postgres().await;
    for number in 0..100 {
        let row = world.planned(&format!("om_{number}")).await;
        assert!(
            world
                .step(&row, Step::Finish(vec![outcome(0, ActionState::Sent)]))
                .await
        );
    }
    world.store.unfinished(&bot(), &[]).await.unwrap();
    let read = async |column: &str, tables: &str| {
        world
            .number(&format!(
                "SELECT sum({column})::bigint FROM pg_stat_user_{tables} WHERE relname IN ('events', 'actions')"
            ))
            .await
    };
    // Each connection tells its counts when it has been idle for a while.
    eventually("the counts are told", Duration::from_secs(20), async || {
        read("idx_scan", "tables").await >= 400
    })
    .await;
    assert_eq!(read("seq_tup_read", "tables").await, 0);
    // Five looks at an event and its action, with what is left of their earlier versions; all of an index would be 5,000.
    let entries = read("idx_tup_read", "indexes").await;
    assert!(entries < 2_000, "{entries} entries of indexes for 100 events");
}

/// Entries of indexes that are read for each row that is taken from the waiting room, where each of 100 chats has that many.
async fn entries_for_a_row(rows: usize, statistics: bool) -> i64 {
    const TAKEN: i64 = 8 * 64;
    let world = World::postgres().await;
    for number in 0..rows / 5 {
        let name = |chat: usize, row: usize| (format!("om_{chat}_{number}_{row}"), format!("oc_{chat}"));
        let parked = (0..500).map(|event| name(event % 100, event / 100));
        let parked = parked.map(|(key, chat)| arrival(&key, &chat, Intent::Park));
        world.begin(parked.collect()).await;
    }
    if statistics {
        world.execute("ANALYZE events").await;
    }
    let read = async |column: &str, tables: &str| {
        world
            .number(&format!(
                "SELECT sum({column})::bigint FROM pg_stat_user_{tables} WHERE relname = 'events'"
            ))
            .await
    };
    eventually("the counts of writing are told", Duration::from_secs(20), async || {
        read("n_tup_ins", "tables").await == 100 * rows as i64
    })
    .await;
    let (entries, written) = (read("idx_tup_read", "indexes").await, read("n_tup_upd", "tables").await);
    let other = world.other();
    for _ in 0..TAKEN / 64 {
        assert_eq!(other.take_due(&bot(), room(&[], 4, 64)).await.unwrap().len(), 64);
    }
    // Its connections tell their counts when they end.
    drop(other);
    eventually("the counts of taking are told", Duration::from_secs(20), async || {
        read("n_tup_upd", "tables").await >= written + TAKEN
    })
    .await;
    (read("idx_tup_read", "indexes").await - entries) / TAKEN
}

/// The plans must hold on a new table, of which PostgreSQL knows nothing, and on one that it has looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_into_the_waiting_room_reads_for_what_it_takes_and_not_for_what_waits() {
    for statistics in [false, true] {
        let few = entries_for_a_row(20, statistics).await;
        let many = entries_for_a_row(320, statistics).await;
        assert!(many < 40, "{many} entries of indexes for each row that is taken");
        assert!(
            many < few + few / 2,
            "{few} entries for a row, but {many} where sixteen times as many wait"
        );
    }
}

#[tokio::test]
async fn a_locked_table_is_given_up_in_time_and_leaves_the_pool_alive() {
    a_locked_table_is_given_up(&World::postgres().await).await;
}

pub(super) async fn a_locked_table_is_given_up(world: &World) {
    world.start("om_1").await;
    let mut locker = PgConnection::connect(world.database().unwrap().url()).await.unwrap();
    let mut lock = locker.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let begun = Instant::now();
    let error = world
        .store
        .begin(&[arrival("om_2", "oc_1", Intent::Start)])
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(8));
    lock.rollback().await.unwrap();
    world.start("om_2").await;
}
