//! The broker's version changes under its data.
//!
//! Only Debian's RabbitMQ 3.10 can be had (no package registry carries another broker), so what is tested is what every
//! upgrade does, whatever the versions: the broker stops and starts on its data, and processes that know nothing of what was
//! declared declare all of it again, in another order. What a newer version would take offence at is judged by what is
//! declared.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use testkit::eventually;

use super::{Audit, figure, patient, seconds, shared, shared_mut};
use world::Process;
use world::World;

/// What means the same on every version from 3.10 to 4.3 (`docs/design/delivery.md` §2). A new one needs a look at all of them.
const PORTABLE: [&str; 7] = [
    "alternate-exchange",
    "x-dead-letter-exchange",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-overflow",
    "x-queue-type",
    "x-single-active-consumer",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_38_broker_upgraded_on_kept_data() {
    let mut world = World::with_broker(3, "").await;
    let version = shared(&world).rabbitmq.version().await;
    let mut ingest = Process::start("ingest", world.path()).await;
    let pusher = world.pusher(&[&ingest], patient());
    // Accepted before the upgrade, answered after it.
    pusher.open_loop(200.0, world.workload(4).take(60)).await;
    let before = shared(&world).rabbitmq.definitions().await;
    let arguments = arguments(&before);
    assert_eq!(arguments.iter().map(String::as_str).collect::<Vec<_>>(), PORTABLE);

    let node = shared_mut(&mut world).node.as_mut().unwrap();
    // What the manual of an upgrade begins with.
    node.ctl(&["enable_feature_flag", "all"]).await;
    node.stop().await;
    ingest.signal(Signal::KILL);
    node.restart().await;
    let worker = Process::start("worker", world.path()).await;
    ingest.kill_and_replace().await;
    pusher.open_loop(200.0, world.workload(4).take(60)).await;
    world.answered(&pusher).await;
    assert_eq!(shared(&world).rabbitmq.definitions().await, before);
    for log in [ingest.log(), worker.log()] {
        assert!(
            !log.contains("PRECONDITION_FAILED") && !log.contains("the broker refused"),
            "{log}"
        );
    }
    let report = Audit::default().check(&world, &pusher, vec![ingest, worker]).await;
    assert_eq!(report.accepted, 120);

    // A worker that finds nothing declares the same as an ingest that finds nothing.
    let other = super::world(3).await;
    let worker = Process::start("worker", other.path()).await;
    eventually("the worker has declared everything", seconds(10.0), async || {
        shared(&other).rabbitmq.definitions().await == before
    })
    .await;
    drop(worker);
    figure(
        "38",
        &format!(
            "RabbitMQ {version} (the only version to be had) restarted on its data with 60 events in it: declarations repeated \
             by fresh processes in another order match, {} arguments, all of 3.10 to 4.3; {} events",
            arguments.len(),
            report.accepted
        ),
    );
}

/// The names of the arguments in use. Everything is durable, of a kind that RabbitMQ 4 still has, and limits redelivery.
fn arguments(declared: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let all = |kind: &str| declared[kind].as_array().unwrap().clone();
    for queue in all("queues") {
        let arguments = queue["arguments"].as_object().unwrap();
        assert_eq!(
            (&queue["durable"], &queue["auto_delete"]),
            (&true.into(), &false.into()),
            "{queue}"
        );
        assert_eq!(arguments["x-queue-type"], "quorum", "{queue}");
        // 0 and -1 change their meaning with the version, and without one 4.x has 20.
        assert!(arguments["x-delivery-limit"].as_u64() > Some(0), "{queue}");
        names.extend(arguments.keys().cloned());
    }
    for exchange in all("exchanges") {
        assert_eq!(
            (&exchange["durable"], &exchange["auto_delete"]),
            (&true.into(), &false.into()),
            "{exchange}"
        );
        assert!(
            ["direct", "fanout"].contains(&exchange["type"].as_str().unwrap()),
            "{exchange}"
        );
        names.extend(exchange["arguments"].as_object().unwrap().keys().cloned());
    }
    names
}
