//! RabbitMQ, and the way to it: stopped, killed, cut, starved.

use std::time::{Duration, Instant};

use openclaw_sim::event::Workload;
use openclaw_sim::proxy::{Direction, Flow};
use openclaw_sim::push::Pusher;
use serde_json::json;
use testkit::eventually;

use super::{Audit, figure, lasts, once, patient, pushing, seconds, shared, shared_mut, world};
use world::Process;
use world::{Kind, World};

/// Recovery of everything after the broker is back (`docs/performance.md`), and some for a busy machine.
const RECOVERY: Duration = Duration::from_secs(8);

/// Pushes until one is accepted; how long that took.
async fn accepted_again(world: &World, pusher: &Pusher) -> Duration {
    let begun = Instant::now();
    let mut events = world.workload(1);
    eventually("events are accepted again", RECOVERY, async || {
        let event = events.next().unwrap();
        pusher.push_copies(&event, 1).await == [Some(200)]
    })
    .await;
    begun.elapsed()
}

/// The slowest of ten refusals while nothing can be stored.
async fn refused(world: &World, pusher: &Pusher, limit: Duration) -> Duration {
    let mut slowest = Duration::ZERO;
    for event in world.workload(10).take(10) {
        let begun = Instant::now();
        let statuses = pusher.push_copies(&event, 1).await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(statuses, [Some(503)]);
    }
    assert!(slowest < limit, "a refusal took {slowest:?}");
    slowest
}

/// 12 s instead of 30 s, with a broker of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_05_rabbitmq_stopped_and_started() {
    let mut world = World::with_broker(4, "").await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 10.0, world.workload(3).take(200));
    lasts(seconds(3.0)).await;
    shared_mut(&mut world).node.as_mut().unwrap().stop().await;
    let probe = world.pusher(&[&processes[0]], once());
    let slowest = refused(&world, &probe, seconds(1.6)).await;
    lasts(seconds(8.0)).await;
    shared_mut(&mut world).node.as_mut().unwrap().restart().await;
    let back = accepted_again(&world, &pusher).await;
    load.await.unwrap();
    world.answered(&pusher).await;
    let prefetches = shared(&world).rabbitmq.prefetches().await;
    assert!(
        prefetches.len() >= 4 && prefetches.iter().all(|prefetch| (1..=256).contains(prefetch)),
        "{prefetches:?}"
    );
    let report = Audit {
        unknown: 10,
        ..Audit::default()
    }
    .check(&world, &pusher, processes)
    .await;
    figure(
        "05",
        &format!(
            "slowest 503 {slowest:.1?}, accepted again {back:.1?} after the broker, {} events",
            report.accepted
        ),
    );
}

/// 2 kills, with a broker of its own. The queues are some seconds old: RabbitMQ 3.10 may not find the leader of a queue
/// again that it was killed within a second of declaring, and answers every consumer of it with a broken connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_06_rabbitmq_killed_with_unconfirmed_publishes() {
    let mut world = World::with_broker(8, "").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(50.0, world.workload(1).take(8)).await;
    lasts(seconds(8.0)).await;
    let load = pushing(&pusher, 300.0, world.workload(40).take(700));
    for _ in 0..2 {
        lasts(seconds(0.7)).await;
        shared_mut(&mut world).node.as_mut().unwrap().kill();
        lasts(seconds(1.0)).await;
        shared_mut(&mut world).node.as_mut().unwrap().restart().await;
    }
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, processes).await;
    assert_eq!(report.given_up, 0);
    let statuses = pusher.log(|log| log.totals().statuses.clone());
    figure(
        "06",
        &format!("{} events, attempts by status {statuses:?}", report.accepted),
    );
}

/// 5 times. The broker closes politely here, so up to one window of a bot may be overtaken: the order is not judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_07_forced_amqp_close() {
    let world = world(6).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 60.0, world.workload(4).take(600));
    let rabbitmq = &shared(&world).rabbitmq;
    let mut closed = 0;
    for _ in 0..5 {
        lasts(seconds(2.0)).await;
        eventually("there is a connection to close", RECOVERY, async || {
            let now = rabbitmq.close_connections().await;
            closed += now;
            now > 0
        })
        .await;
    }
    load.await.unwrap();
    world.answered(&pusher).await;
    for process in &processes {
        let log = process.log();
        let errors = log.lines().filter(|line| line.contains("ERROR")).count();
        // Each access line of a refusal is one; an error loop would be thousands.
        assert!(errors < 700, "{errors} errors:\n{log}");
        assert!(
            !log.contains("PRECONDITION_FAILED"),
            "a delivery was acknowledged twice or too late:\n{log}"
        );
    }
    let report = Audit::unordered().check(&world, &pusher, processes).await;
    figure(
        "07",
        &format!("{closed} connections closed, {} events", report.accepted),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_08_amqp_black_hole() {
    let world = world(4).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    let load = pushing(&pusher, 8.0, world.workload(3).take(8 * 30));
    lasts(seconds(2.0)).await;
    let way = &shared(&world).ways.amqp;
    let connections = way.connections();
    way.set(Direction::Both, &Flow::black_hole());
    let probe = world.pusher(&[&processes[0]], once());
    let begun = Instant::now();
    let slowest = refused(&world, &probe, seconds(1.8)).await;
    // lapin gives a silent broker up after twice the heartbeat of 10 s.
    let limit = seconds(25.0).saturating_sub(begun.elapsed());
    eventually("the link is given up", limit, async || {
        way.connections() >= connections + 2
    })
    .await;
    let gave_up = begun.elapsed();
    way.restore().unwrap();
    let back = accepted_again(&world, &pusher).await;
    load.await.unwrap();
    let report = Audit {
        unknown: 10,
        ..Audit::default()
    }
    .check(&world, &pusher, processes)
    .await;
    figure(
        "08",
        &format!(
            "slowest 503 {slowest:.1?}, links given up after {gave_up:.1?}, accepted again after {back:.1?}, {} events",
            report.accepted
        ),
    );
}

async fn an_alarm(row: &str, alarm: &[&str], over: &[&str]) {
    let world = World::with_broker(2, "").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    // 20 s of both bots' quota: consumers have work during the whole alarm.
    pusher.open_loop(200.0, world.workload(5).take(200)).await;
    let node = shared(&world).node.as_ref().unwrap();
    node.ctl(alarm).await;
    let probe = world.pusher(&[&processes[0]], once());
    eventually("ingest learns of the alarm", seconds(5.0), async || {
        let event = world.workload(1).next().unwrap();
        probe.push_copies(&event, 1).await == [Some(503)]
    })
    .await;
    let slowest = refused(&world, &probe, seconds(0.5)).await;
    let answered = || world.sim.ledger(|ledger| ledger.totals().replied);
    let before = answered();
    lasts(seconds(6.0)).await;
    let during = answered() - before;
    assert!(during >= 40, "only {during} answers in 6 s of the alarm");
    // Acknowledgements flow: what was answered is no longer in the queues.
    node.ctl(over).await;
    let back = accepted_again(&world, &pusher).await;
    let audit = Audit {
        // The probes between the alarm and the word of it.
        unknown: 3,
        ..Audit::default()
    };
    let report = audit.check(&world, &pusher, processes).await;
    figure(
        row,
        &format!(
            "503 in at most {slowest:.1?}, {during} answers in 6 s of the alarm, accepted again after {back:.1?}, {} events",
            report.accepted
        ),
    );
}

/// 10 s instead of 60 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_09_memory_alarm() {
    let over = ["set_vm_memory_high_watermark", "absolute", "2GB"];
    an_alarm("09", &["set_vm_memory_high_watermark", "0.00001"], &over).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_10_disk_alarm() {
    an_alarm(
        "10",
        &["set_disk_free_limit", "100000GB"],
        &["set_disk_free_limit", "50MB"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_bot_queue_deleted_while_consumed() {
    let world = world(2).await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(20.0, world.workload(2).take(10)).await;
    world.answered(&pusher).await;
    let ends = || {
        processes
            .iter()
            .map(|process| process.log().matches("another one is attached").count())
            .sum::<usize>()
    };
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        // What was in the queue would be lost with it: it is empty. Pushes follow at once, so that the queue is declared anew
        // within milliseconds: on RabbitMQ 3.10 the old consumer must not live on as that one's.
        let (begun, before) = (Instant::now(), ends());
        shared(&world).rabbitmq.delete_queue("openclaw.v1.bot.bot0").await;
        pusher.open_loop(200.0, world.workload(20).take(20)).await;
        eventually("the consumer notices", seconds(15.0), async || ends() > before).await;
        world.answered(&pusher).await;
        slowest = slowest.max(begun.elapsed());
    }
    // An event that waited in `unrouted` may be overtaken by one that found the new queue.
    let report = Audit::unordered().check(&world, &pusher, processes).await;
    figure(
        "11",
        &format!("3 deletions mended within {slowest:.1?}, {} events", report.accepted),
    );
}

/// The broker forgets the consumer of one bot and says nothing: no cancel, no error, the connection stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_consumer_forgotten_by_the_broker() {
    let world = World::with_broker(3, "").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(20.0, world.workload(2).take(9)).await;
    world.answered(&pusher).await;
    let rabbitmq = &shared(&world).rabbitmq;
    let vhost = rabbitmq.amqp_url().rsplit_once('/').unwrap().1;
    let forget = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"openclaw.v1.bot.bot1\">>)), \
         Leader = amqqueue:get_pid(Q), \
         {{ok, {{_, Consumers}}, _}} = ra:local_query(Leader, fun rabbit_fifo:query_consumers/1), \
         [{{ok, _, _}} = ra:process_command(Leader, rabbit_fifo:make_checkout({{Tag, Pid}}, cancel, #{{}})) \
          || {{Tag, Pid}} <- maps:keys(Consumers)]."
    );
    shared(&world).node.as_ref().unwrap().ctl(&["eval", &forget]).await;
    let begun = Instant::now();
    pusher.open_loop(100.0, world.workload(2).take(9)).await;
    world.answered(&pusher).await;
    let silent = begun.elapsed();
    assert!(silent < seconds(15.0), "a bot was silent for {silent:.1?}");
    let log = processes[1].log();
    let replaced: Vec<_> = log
        .lines()
        .filter(|line| line.contains("another one is attached"))
        .collect();
    assert!(
        replaced.len() == 1 && replaced[0].contains("bot1") && replaced[0].contains("hears nothing"),
        "{replaced:?}"
    );
    let report = Audit::default().check(&world, &pusher, processes).await;
    figure(
        "11",
        &format!(
            "a forgotten consumer replaced after {silent:.1?}, {} events",
            report.accepted
        ),
    );
}

/// Declared with other properties, as after a careless deletion: every attempt is refused, and each costs the broker a channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_bot_queue_refused_until_it_is_deleted() {
    let world = world(1).await;
    let rabbitmq = &shared(&world).rabbitmq;
    rabbitmq.declare_plain("openclaw.v1.bot.bot0").await;
    let processes = world.start(1).await;
    let refused = async |times: usize| {
        eventually("the queue is refused", seconds(20.0), async || {
            let logs = processes.iter().map(Process::log);
            logs.map(|log| log.matches("cannot attach to the bot's queue").count())
                .sum::<usize>()
                >= times
        })
        .await;
        Instant::now()
    };
    let begun = refused(1).await;
    let pause = (refused(4).await - begun) / 3;
    assert!(pause > seconds(0.45), "declared again after {pause:?}");
    rabbitmq.delete_queue("openclaw.v1.bot.bot0").await;
    let pusher = world.pusher(&[&processes[0]], patient());
    pusher.open_loop(50.0, world.workload(2).take(10)).await;
    let report = Audit::default().check(&world, &pusher, processes).await;
    figure(
        "11",
        &format!(
            "a refused queue is declared again every {pause:.1?}, {} events after its deletion",
            report.accepted
        ),
    );
}

/// A bot that ingest knows and no worker, whose queue is gone: its events park in `unrouted`, the other bot's do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_12_unroutable_among_64_in_flight() {
    let world = world(2).await;
    let workers = tempfile::tempdir().unwrap();
    copy(&world.join("config.yaml"), &workers.path().join("config.yaml"));
    copy(
        &world.join("bot0/credentials.yaml"),
        &workers.path().join("bot0/credentials.yaml"),
    );
    let ingest = Process::start("ingest", world.path()).await;
    let worker = Process::start("worker", world.path()).await;
    let pusher = world.pusher(&[&ingest], once());
    pusher.open_loop(50.0, world.workload(1).take(2)).await;
    world.answered(&pusher).await;
    assert!(worker.stop().await.success());
    shared(&world).rabbitmq.delete_queue("openclaw.v1.bot.bot1").await;
    let worker = Process::start("worker", workers.path()).await;
    pusher.closed_loop(64, world.workload(64).take(128)).await;
    let statuses = pusher.log(|log| log.totals().statuses.clone());
    assert_eq!(statuses, [(Some(200), 130)].into(), "a publish was reported wrongly");
    copy(
        &world.join("bot1/credentials.yaml"),
        &workers.path().join("bot1/credentials.yaml"),
    );
    let audit = Audit::unordered();
    let report = audit.check(&world, &pusher, vec![ingest, worker]).await;
    figure("12", &format!("{} events, statuses {statuses:?}", report.accepted));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_13_queue_full_in_the_broker() {
    let world = world(1).await;
    let ingest = Process::start("ingest", world.path()).await;
    let rabbitmq = &shared(&world).rabbitmq;
    rabbitmq
        .set_policy("full", "^openclaw.v1.bot.", json!({ "max-length": 10 }))
        .await;
    let pusher = world.pusher(&[&ingest], patient());
    let load = pushing(&pusher, 100.0, world.workload(30).take(60));
    let refused = |pusher: &Pusher| pusher.log(|log| log.totals().statuses.get(&Some(503)).copied().unwrap_or(0));
    eventually("events are refused", seconds(10.0), async || refused(&pusher) >= 20).await;
    let worker = Process::start("worker", world.path()).await;
    load.await.unwrap();
    let report = Audit::default().check(&world, &pusher, vec![ingest, worker]).await;
    assert_eq!(report.given_up, 0);
    figure(
        "13",
        &format!("{} refusals, {} events", refused(&pusher), report.accepted),
    );
}

/// The load goes through the same ingest while a second world's kind stands by: nothing here needs the embedded queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_34_bot_removed_with_a_backlog() {
    let world = World::new(Kind::Distributed, 2, "").await;
    let processes = world.start(2).await;
    let pusher = world.pusher(&[&processes[0]], once());
    let bot = world.bots[1].clone();
    pusher
        .open_loop(200.0, Workload::new(vec![bot.clone()], 3, 16).take(50))
        .await;
    let text = std::fs::read_to_string(world.join("bot1/credentials.yaml")).unwrap();
    std::fs::remove_dir_all(world.join("bot1")).unwrap();
    eventually("intake stops", RECOVERY, async || {
        let event = Workload::new(vec![bot.clone()], 1, 16).next().unwrap();
        pusher.push_copies(&event, 1).await == [Some(404)]
    })
    .await;
    lasts(seconds(3.0)).await;
    let answered = world.sim.ledger(|ledger| ledger.totals().replied);
    assert!(answered < 40, "the backlog was over before the bot went");
    lasts(seconds(2.0)).await;
    let later = world.sim.ledger(|ledger| ledger.totals().replied);
    assert_eq!(answered, later, "a removed bot was served");
    let queue = "openclaw.v1.bot.bot1";
    let kept = shared(&world).rabbitmq.depth(queue).await;
    assert!(kept.is_some(), "its queue is gone");
    world.write("bot1/credentials.yaml", &text);
    let report = Audit::default().check(&world, &pusher, processes).await;
    figure(
        "34",
        &format!(
            "{answered} of 50 answered before, {kept:?} ready in its queue meanwhile, {} in all",
            report.accepted
        ),
    );
}
