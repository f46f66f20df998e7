//! A process dies right after each step of the case table in `ARCHITECTURE.md`; another one takes its place.
//!
//! The binary of the tests has fail points (`common/src/fail_point.rs`), the one that ships has none.

use std::os::unix::process::ExitStatusExt as _;

use openclaw_sim::Api;
use openclaw_sim::event::{Event, Kind as EventKind, Workload};
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::push::Pusher;
use testkit::eventually;

use super::audit::query;
use super::{Audit, figure, once, patient, pushing, seconds, shared, world};
use world::Process;
use world::{Kind, World};

const FAIL_POINT: &str = "OPENCLAW_FAIL_POINT";
const ABORTED: i32 = 6;

/// The crash, and a successor in the same place.
async fn crashed(process: &mut Process, point: &str) {
    let ended = process.ended(&format!("it crashes at {point}")).await;
    assert_eq!(
        ended.signal(),
        Some(ABORTED),
        "{ended}: not at {point}\n{}",
        process.log()
    );
    process.kill_and_replace().await;
}

/// Ingest dies at its third event.
async fn ingest_dies_at(point: &str) {
    let world = world(1).await;
    let armed = format!("{point}:3");
    let mut ingest = Process::start_with("ingest", world.path(), &[(FAIL_POINT, &armed)]).await;
    let worker = Process::start("worker", world.path()).await;
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 20.0, world.workload(3).take(12));
    crashed(&mut ingest, point).await;
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, vec![ingest, worker]).await;
    assert_eq!((report.accepted, report.visible), (12, 12));
}

/// The worker dies, at the third passage of `point` or as `armed` says; `fault` makes it come there.
async fn worker_dies_at(armed: &str, fault: Option<Fault>, extra: &str, load: usize, audit: Audit) {
    let world = World::new(Kind::Distributed, 1, extra).await;
    let ingest = Process::start("ingest", world.path()).await;
    let mut worker = Process::start_with("worker", world.path(), &[(FAIL_POINT, armed)]).await;
    if let Some(fault) = fault {
        let scope = Scope {
            times: Some(1),
            ..Scope::default()
        };
        world.sim.fault(scope, fault).unwrap();
    }
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 50.0, world.workload(if load > 12 { 1 } else { 3 }).take(load));
    crashed(&mut worker, armed).await;
    load.await.unwrap();
    audit.check(&world, &pusher, vec![ingest, worker]).await;
}

macro_rules! rows {
    ($($row:ident: $course:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $row() { $course.await; })*
    };
}

rows! {
    row_03_i0_request_read: ingest_dies_at("I0");
    row_03_i1_claim_set: ingest_dies_at("I1");
    row_03_i2_publish_sent: ingest_dies_at("I2");
    row_03_i3_confirm_received: ingest_dies_at("I3");
    row_03_i4_marked: ingest_dies_at("I4");
    row_03_i5_answer_lost: ingest_dies_at("I5");
    row_03_w0_delivered: worker_dies_at("W0:2", None, "", 12, Audit::default());
    row_03_t1_row_committed: worker_dies_at("T1:2", None, "", 12, Audit::default());
    row_03_w1_plan_committed: worker_dies_at("W1:3", None, "", 12, Audit::default());
    row_03_w2_about_to_send: worker_dies_at("W2:3", None, "", 12, Audit::default());
    row_03_w4_answer_received: worker_dies_at("W4:3", None, "", 12, Audit::default());
    row_03_w5_outcome_committed: worker_dies_at("W5:3", None, "", 12, Audit::default());
    row_03_w6_acknowledged: worker_dies_at("W6:3", None, "", 12, Audit::default());
    row_03_r1_waiting_committed: worker_dies_at("R1", Some(Fault::server_error(503)), LONG_RETRY, 12, Audit::unordered());
    row_03_r2_waiting_acknowledged: worker_dies_at("R2", Some(Fault::server_error(503)), LONG_RETRY, 12, Audit::unordered());
    row_03_r3_due_row_taken_up: worker_dies_at("R3", None, "", 40, Audit::default());
    row_03_d1_dead_committed: worker_dies_at("D1", Some(Fault::code(400, 230_002, "Bot is NOT in the chat")), "", 12, Audit { dead: 1, ..Audit::default() });
}

/// Longer than a lane waits, also with 10 % of jitter taken off: the row goes to the waiting room.
const LONG_RETRY: &str = "message: { retry_policy: { backoff: 12s, multiplier: 1 } }\n";

/// The request is on the wire and carried out; no answer has come when the worker is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_w3_request_on_the_wire() {
    let world = world(1).await;
    let ingest = Process::start("ingest", world.path()).await;
    let mut worker = Process::start("worker", world.path()).await;
    let scope = Scope {
        skip: 2,
        times: Some(1),
        ..Scope::default()
    };
    world.sim.fault(scope, Fault::silent(true)).unwrap();
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 50.0, world.workload(3).take(12));
    eventually("a request is not answered", seconds(10.0), async || {
        world
            .sim
            .ledger(|ledger| ledger.calls().any(|call| call.fault.is_some()))
    })
    .await;
    worker.kill_and_replace().await;
    load.await.unwrap();
    Audit::default().check(&world, &pusher, vec![ingest, worker]).await;
    // The unanswered request itself, not just any: the kill may catch others whose outcome is not committed.
    let again = world.sim.ledger(|ledger| {
        let unanswered = ledger.calls().find(|call| call.fault.is_some()).unwrap().uuid.clone();
        ledger
            .calls()
            .filter(|call| call.uuid == unanswered && call.collapsed)
            .count()
    });
    assert_eq!(
        again, 1,
        "the unanswered request was to be sent again under its uuid, once"
    );
}

/// A load balancer passes the request of a node that died on to another one: that one takes the event within this request,
/// although the dead node's claim is still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_i1_the_other_node_takes_the_event_within_one_push() {
    let world = world(1).await;
    let mut first = Process::start_with("ingest", world.path(), &[(FAIL_POINT, "I1:1")]).await;
    let second = Process::start("ingest", world.path()).await;
    let event = world.workload(1).next().unwrap();
    let at_first = world.pusher(&[&first], once());
    assert_eq!(at_first.push_copies(&event, 1).await, [None]);
    crashed(&mut first, "I1:1").await;
    let pusher = world.pusher(&[&second], once());
    assert_eq!(pusher.push_copies(&event, 1).await, [Some(200)]);
    let worker = Process::start("worker", world.path()).await;
    Audit::default()
        .check(&world, &pusher, vec![first, second, worker])
        .await;
}

/// Redis loses the mark: the re-push passes the filter, the Store drops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_i6_mark_lost() {
    let world = world(1).await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let event = world.workload(1).next().unwrap();
    pusher.push(event.clone()).await.unwrap();
    shared(&world).redis.command(&["FLUSHALL"]).await;
    assert_eq!(pusher.push_copies(&event, 1).await, [Some(200)]);
    let audit = Audit {
        repeats: 1,
        ..Audit::default()
    };
    audit.check(&world, &pusher, processes).await;
}

/// The archiver dies so often before or after its commit; then one lives.
async fn archiver_dies_at(point: &str, times: u32) {
    let world = world(1).await;
    let ingest = Process::start("ingest", world.path()).await;
    assert!(
        shared(&world)
            .rabbitmq
            .publish("openclaw.v1.dead", "", "no event")
            .await
    );
    for _ in 0..times {
        let mut worker = Process::spawn_with("worker", world.path(), 0, &[(FAIL_POINT, point)]).await;
        let ended = worker.ended(&format!("the archiver crashes at {point}")).await;
        assert_eq!(ended.signal(), Some(ABORTED), "{ended}\n{}", worker.log());
    }
    let worker = Process::start("worker", world.path()).await;
    // An archiver that has just begun says so before its commit; stopping lets it finish.
    eventually("the message is archived", seconds(20.0), async || {
        worker.log().contains("message given up")
    })
    .await;
    eventually("the message is a dead letter", seconds(20.0), async || {
        query::<(i64,)>(&world, "SELECT count(*) FROM dead_letters").await == (1,)
    })
    .await;
    // Its acknowledgement follows the commit at once.
    super::lasts(seconds(0.5)).await;
    assert!(worker.stop().await.success());
    eventually("the queue is empty", seconds(10.0), async || {
        shared(&world).rabbitmq.depth("openclaw.v1.dead").await == Some(0)
    })
    .await;
    assert_eq!(query::<(i64,)>(&world, "SELECT count(*) FROM dead_letters").await, (1,));
    drop(ingest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_d2_archived() {
    archiver_dies_at("D2", 1).await;
}

/// RabbitMQ 4 drops after 20 deliveries where no limit is declared; this broker's version is in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_37_archiver_crashes_30_times_on_one_message() {
    archiver_dies_at("D0", 30).await;
    figure("37", "30 crashes of the archiver, then 1 dead letter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_27_handler_panics_and_talks_too_much() {
    let world = World::new(
        Kind::Distributed,
        2,
        "message: { retry_policy: { max_attempts: 3, backoff: 100ms, multiplier: 1 } }\n",
    )
    .await;
    let reply = "{text}".repeat(40);
    world.write(
        "bot1/config.yaml",
        &format!("handler: {{ kind: rules, rules: [ {{ prefix: big, reply: \"{reply}\" }} ] }}\n"),
    );
    let panics = Event::text(world.bots[0].clone(), "oc_bot0_0", "ou_1", "panic");
    let big = Event::text(
        world.bots[1].clone(),
        "oc_bot1_big",
        "ou_1",
        format!("big{}", "x".repeat(256 * 1024)),
    );
    let armed = format!("handler@{}!panic", panics.key);
    let ingest = Process::start("ingest", world.path()).await;
    let worker = Process::start_with("worker", world.path(), &[(FAIL_POINT, &armed)]).await;
    let pusher = world.pusher(&[&ingest], patient());
    let mut audit = Audit::unordered();
    audit.dead = 2;
    for event in [panics, big] {
        audit.expected.excused.insert(event.key.clone());
        pusher.push(event).await.unwrap();
    }
    let others = Workload::new(vec![world.bots[0].clone()], 5, 16).take(20);
    pusher.open_loop(20.0, others).await;
    audit.check(&world, &pusher, vec![ingest, worker]).await;
    let (attempts,): (i32,) = query(
        &world,
        "SELECT attempts::integer FROM dead_letters WHERE class = 'handler'",
    )
    .await;
    assert!(attempts >= 2, "{attempts} attempts of the handler");
    let (refused,): (i64,) = query(&world, "SELECT count(*) FROM dead_letters WHERE class = 'permanent'").await;
    assert_eq!(refused, 1, "the platform refuses 10 MB");
    figure(
        "27",
        &format!("a panic: {attempts} attempts, then `handler`; 10 MB: `permanent`; 20 others answered"),
    );
}

/// Three events of a chat, the handler of the first fails once, and no order is asked for: whoever leaves memory is passed.
async fn handler_fails_once(backoff: &str) -> (World, Pusher, Vec<Process>) {
    let extra = format!("message: {{ order: relaxed, retry_policy: {{ backoff: {backoff}, multiplier: 1 }} }}\n");
    let world = World::new(Kind::Distributed, 1, &extra).await;
    let ingest = Process::start("ingest", world.path()).await;
    let worker = Process::start_with("worker", world.path(), &[(FAIL_POINT, "handler:1!panic")]).await;
    let pusher = world.pusher(&[&ingest], patient());
    pusher.open_loop(50.0, world.workload(1).take(3)).await;
    (world, pusher, vec![ingest, worker])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_27_handler_fails_and_its_event_keeps_its_place_for_ten_seconds() {
    let (world, pusher, processes) = handler_fails_once("2s").await;
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.accepted, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_27_handler_fails_and_its_event_waits_longer_in_the_store() {
    let (world, pusher, processes) = handler_fails_once("25m").await;
    eventually("the others are answered", seconds(10.0), async || {
        world.sim.ledger(|ledger| ledger.totals().replied) == 2
    })
    .await;
    let (attempt, starts): (i32, i32) = query(
        &world,
        "UPDATE events SET due_at = now() WHERE state = 'waiting' AND due_at > now() + interval '20 minutes'
         RETURNING attempt, handler_starts",
    )
    .await;
    assert_eq!((attempt, starts), (1, 0));
    let report = Audit::unordered().check(&world, &pusher, processes).await;
    assert_eq!(report.accepted, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_28_poison_that_aborts_the_process() {
    let world = world(1).await;
    let bot = world.bots[0].clone();
    let kind = EventKind::Text {
        text: "poison".to_owned(),
    };
    let poison = Event::new(bot.clone(), kind, "oc_poison", "ou_1");
    let armed = format!("handler@{}", poison.key);
    let ingest = Process::start("ingest", world.path()).await;
    let pusher = world.pusher(&[&ingest], patient());
    let mut audit = Audit::unordered();
    audit.dead = 1;
    audit.expected.excused.insert(poison.key.clone());
    let innocents: Vec<Event> = world.workload(6).take(20).collect();
    for event in innocents.iter().take(10) {
        pusher.push(event.clone()).await.unwrap();
    }
    pusher.push(poison).await.unwrap();
    for event in innocents.iter().skip(10) {
        pusher.push(event.clone()).await.unwrap();
    }
    let mut crashes = 0;
    let mut worker = Process::spawn_with("worker", world.path(), 0, &[(FAIL_POINT, &armed)]).await;
    eventually("the poison is a dead letter", seconds(60.0), async || {
        if worker.is_gone() {
            crashes += 1;
            worker = Process::spawn_with("worker", world.path(), 0, &[(FAIL_POINT, &armed)]).await;
        }
        query::<(i64,)>(&world, "SELECT count(*) FROM dead_letters WHERE class = 'poison'").await == (1,)
    })
    .await;
    assert!(crashes <= 3, "{crashes} crashes");
    audit.check(&world, &pusher, vec![ingest, worker]).await;
    let calls = world
        .sim
        .ledger(|ledger| ledger.calls().filter(|call| call.api == Api::Reply).count());
    figure(
        "28",
        &format!("{crashes} crashes, then `poison`; 20 innocents answered with {calls} calls"),
    );
}
