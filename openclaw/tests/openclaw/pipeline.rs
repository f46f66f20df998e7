//! The whole way, on both backends: the same tests, the same judge.

use std::time::Duration;

use openclaw_sim::check::Expectations;
use openclaw_sim::event::{self, Event};
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::push::PushOptions;
use testkit::eventually;
use world::{Kind, World};

macro_rules! on_both_backends {
    ($($promise:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $promise() { super::$promise(super::Kind::Embedded).await; })*
        }
        mod distributed {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $promise() { super::$promise(super::Kind::Distributed).await; })*
        }
    };
}
pub(crate) use on_both_backends;

on_both_backends!(
    every_event_is_answered_once_and_in_order,
    events_of_every_kind_end_as_a_finished_row,
    a_send_that_fails_on_the_way_is_answered_once,
    a_long_backlog_of_one_chat_keeps_its_order,
    stopping_and_starting_again_loses_nothing,
);

async fn every_event_is_answered_once_and_in_order(kind: Kind) {
    let world = World::new(kind, 4, "").await;
    let processes = world.start(2).await;
    let pusher = world.pusher(
        &[&processes[0]],
        PushOptions {
            duplicates: 0.3,
            ..PushOptions::default()
        },
    );
    pusher.open_loop(60.0, world.workload(6).take(120)).await;
    world.answered(&pusher).await;
    let report = world.judge(&pusher, &Expectations::default());
    assert_eq!((report.accepted, report.visible), (120, 120));
    world.finished(120).await;
}

async fn events_of_every_kind_end_as_a_finished_row(kind: Kind) {
    let world = World::new(kind, 1, "security: { legacy_cards: true }\n").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let mut events = Event::of_every_kind(&world.bots[0], "oc_kinds", "ou_person");
    // A challenge is answered, not stored.
    events.retain(|event| !matches!(event.kind, event::Kind::Challenge { .. }));
    let count = events.len() as u64;
    for event in events {
        let pushed = pusher.push(event).await.unwrap();
        assert_eq!(pushed.status, Some(200), "{}", pushed.event_type);
    }
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    world.finished(count).await;
}

async fn a_send_that_fails_on_the_way_is_answered_once(kind: Kind) {
    let world = World::new(kind, 1, "message: { retry_policy: { backoff: 20ms, multiplier: 1 } }\n").await;
    let processes = world.start(1).await;
    for fault in [
        Fault::commit_then_error(500),
        Fault::commit_then_reset(),
        Fault::server_error(503),
        Fault::reset(),
        Fault::chat_limited(),
        Fault::rate_limited(Duration::from_millis(200)),
        Fault::token_revoked(),
        Fault::garbage(true),
    ] {
        let scope = Scope {
            times: Some(1),
            ..Scope::default()
        };
        world.sim.fault(scope, fault).unwrap();
    }
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(20.0, world.workload(4).take(12)).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    assert!(
        world.sim.faults().iter().all(|rule| rule.fired == 1),
        "{:?}",
        world.sim.faults()
    );
    world.finished(12).await;
}

/// More than a lane holds: the rest goes through the waiting room and back.
async fn a_long_backlog_of_one_chat_keeps_its_order(kind: Kind) {
    let world = World::new(kind, 1, "quota: { bot: 40/s, chat: 40/s, user: off, app: off }\n").await;
    world.sim.set_limits(openclaw_sim::Limits::off());
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(400.0, world.workload(1).take(120)).await;
    world.answered(&pusher).await;
    let quotas = Expectations {
        quotas: vec![(openclaw_sim::ledger::Level::Bot, 40)],
        ..Expectations::default()
    };
    world.judge(&pusher, &quotas);
    world.finished(120).await;
}

/// Its first try is refused while its worker stops already: it waits, and the others of its chat are found unfinished. On one
/// backend, because it takes long: a wait of up to 10 s would be spent in the lane.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_keeps_its_place_when_its_worker_stops() {
    let strict = "message: { order: strict, retry_policy: { backoff: 12s, max_backoff: 12s, multiplier: 1 } }\n";
    let world = World::new(Kind::Embedded, 1, strict).await;
    let mut processes = world.start(1).await;
    let once = Scope {
        times: Some(1),
        ..Scope::default()
    };
    let late = Fault {
        late: Duration::from_secs(1),
        ..Fault::server_error(503)
    };
    world.sim.fault(once, late).unwrap();
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(200.0, world.workload(1).take(4)).await;
    eventually("the first is on the wire", Duration::from_secs(5), async || {
        world.sim.faults()[0].fired == 1
    })
    .await;
    assert!(processes.pop().unwrap().stop().await.success());
    let _again = world::Process::start("run", world.path()).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    world.finished(4).await;
}

async fn stopping_and_starting_again_loses_nothing(kind: Kind) {
    let world = World::new(kind, 2, "").await;
    let mut processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(200.0, world.workload(3).take(40)).await;
    let last = processes.pop().unwrap();
    assert!(last.stop().await.success());
    let again = if kind == Kind::Embedded { "run" } else { "worker" };
    let _again = world::Process::start(again, world.path()).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    world.finished(40).await;
}
