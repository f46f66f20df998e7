//! Runs of many seconds that judge time: one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_sim::check::Expectations;
use openclaw_sim::event::{Event, Workload};
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::push::{PushOptions, Pusher};

use testkit::eventually;

use world::Process;
use world::{Kind, World};

/// 200 messages of one bot in 10 chats: at 5 a second the last is due 39 s after the first five. 97 % of that rate.
async fn a_backlog_drains_at_the_quota(workers: usize) {
    let world = World::new(Kind::Distributed, 1, "").await;
    let processes = world.start(workers).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(1000.0, world.workload(10).take(200)).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
    let mut arrivals: Vec<u64> = world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.at_us).collect());
    arrivals.sort_unstable();
    // The first five go at once: 195 more have had to wait for a window.
    let seconds = Duration::from_micros(arrivals[199] - arrivals[0]).as_secs_f64();
    let used = 195.0 / 5.0 / seconds;
    let windows: Vec<u64> = arrivals.windows(6).map(|six| (six[5] - six[0]) / 1000).collect();
    assert!(
        used >= 0.97,
        "{:.1} % of the quota were used; from each send to the fifth after it, ms: {windows:?}",
        used * 100.0
    );
    world.finished(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_drains_at_the_quota_with_one_worker() {
    a_backlog_drains_at_the_quota(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_drains_at_the_quota_with_three_workers() {
    a_backlog_drains_at_the_quota(3).await;
}

/// 5,000 events at 300/s for 20 bots in 200 chats: 50 s of the bots' quota.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_events_of_twenty_bots_are_answered_once_and_in_order() {
    let world = World::new(Kind::Distributed, 20, "").await;
    let processes = world.start(2).await;
    let pusher = world.pusher(
        &[&processes[0]],
        PushOptions {
            duplicates: 0.02,
            ..PushOptions::default()
        },
    );
    pusher.open_loop(300.0, world.workload(10).take(5000)).await;
    world.answered(&pusher).await;
    let report = world.judge(&pusher, &Expectations::default());
    assert_eq!((report.accepted, report.visible), (5000, 5000));
    world.finished(5000).await;
}

/// The same load; the worker with the bots, then ingest, die in the middle and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_worker_and_ingest_in_mid_load_loses_and_doubles_nothing() {
    let world = World::new(Kind::Distributed, 20, "").await;
    let mut ingest = Process::start("ingest", world.path()).await;
    let mut worker = Process::start("worker", world.path()).await;
    // The platform's first re-push comes after 15 s, here after 0.15 s.
    let options = PushOptions {
        time_scale: 100.0,
        ..PushOptions::default()
    };
    let pusher = world.pusher(&[&ingest], options);
    let load = Workload::new(world.bots.clone(), 10, 16).take(1500);
    let pushing = tokio::spawn({
        let pusher = pusher.clone();
        async move { pusher.open_loop(150.0, load).await }
    });
    let accepted = |events| pusher.log(|log| log.totals().accepted >= events);
    eventually("a part of the load is accepted", Duration::from_secs(20), async || {
        accepted(400)
    })
    .await;
    worker.kill_and_replace().await;
    eventually("more of the load is accepted", Duration::from_secs(20), async || {
        accepted(800)
    })
    .await;
    ingest.kill_and_replace().await;
    pushing.await.unwrap();
    world.answered(&pusher).await;
    let report = world.judge(&pusher, &Expectations::default());
    assert_eq!((report.accepted, report.given_up), (1500, 0));
    world.finished(1500).await;
}

/// 240 messages to 48 chats through a pool: its three bots share them, none sends more than its limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_three_bots_shares_the_traffic() {
    let world = super::send::world(Kind::Distributed, 3, "pools: { notify: [bot0, bot1, bot2] }\n").await;
    let processes = world.start(2).await;
    let caller = super::send::Caller::of(&processes[0]);
    for number in 0..240 {
        let chat = format!("oc_{}", number % 48);
        let body = super::send::text(("pool", "notify"), &chat, &number.to_string());
        caller.send(&body).await;
    }
    eventually("all are visible", Duration::from_secs(40), async || {
        super::send::visible(&world).len() == 240
    })
    .await;
    let mut arrivals: Vec<(u64, String)> = world.sim.ledger(|ledger| {
        let messages = ledger.messages();
        messages
            .map(|message| (message.at_us, message.app.to_string()))
            .collect()
    });
    arrivals.sort_unstable();
    for bot in 0..3 {
        let app = format!("cli_bot{bot}");
        let own: Vec<u64> = arrivals
            .iter()
            .filter(|(_, by)| *by == app)
            .map(|(at, _)| *at)
            .collect();
        assert!(
            own.windows(6).all(|six| six[5] - six[0] >= 1_000_000),
            "{app} sent more than five in a second: {own:?}"
        );
        // How fast that makes the three together is `./dev bench quota`'s to say.
        assert!(own.len() >= 60, "{app} sent {} of 240", own.len());
    }
}

/// 25 messages of the workload at 4 a second, within their bot's quota; from each push to its answer's arrival, sorted.
async fn answer_times(world: &World, pusher: &Pusher, workload: &mut Workload) -> Vec<Duration> {
    let before = pusher.log(|log| log.events().len());
    pusher.open_loop(4.0, workload.by_ref().take(25)).await;
    let asked: Vec<_> = pusher.log(|log| {
        let events = log.events().skip(before);
        events.map(|event| (event.key.clone(), event.begun_us)).collect()
    });
    let mut times = Vec::new();
    eventually("every message is answered", Duration::from_secs(20), async || {
        times = world.sim.ledger(|ledger| {
            let time = |(key, begun): &(Arc<str>, u64)| {
                let answer = ledger
                    .messages()
                    .find(|message| message.reply_to.as_ref() == Some(key))?;
                Some(Duration::from_micros(answer.at_us.saturating_sub(*begun)))
            };
            asked.iter().filter_map(time).collect()
        });
        times.len() == asked.len()
    })
    .await;
    times.sort_unstable();
    times
}

/// 3,000 messages in 300 chats wait for one bot, ten minutes of its quota; another bot's answers take as long as before.
async fn a_bot_with_a_long_backlog_slows_no_other(kind: Kind) {
    let world = World::new(kind, 2, "").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let mut quiet = Workload::new(vec![world.bots[1].clone()], 10, 16);
    let alone = answer_times(&world, &pusher, &mut quiet).await;
    let noisy = Workload::new(vec![world.bots[0].clone()], 300, 16).take(3000);
    pusher.open_loop(1500.0, noisy).await;
    let beside = answer_times(&world, &pusher, &mut quiet).await;
    // The ninth tenth, and as much again as a busy machine may add.
    let (alone, beside) = (alone[22], beside[22]);
    assert!(
        beside <= alone.mul_f64(1.2) + Duration::from_millis(50),
        "{beside:?} beside the backlog, {alone:?} alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_with_a_long_backlog_slows_no_other_when_distributed() {
    a_bot_with_a_long_backlog_slows_no_other(Kind::Distributed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_with_a_long_backlog_slows_no_other_when_embedded() {
    a_bot_with_a_long_backlog_slows_no_other(Kind::Embedded).await;
}

/// 1,000 messages in 40 chats that may be answered once a minute each, so that after the first of each nothing ends and no place
/// becomes free. Another chat's message, which came last, does not wait for that: what the slow chats hold is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_chats_hold_up_no_other_chat_of_their_bot() {
    let world = World::new(
        Kind::Distributed,
        1,
        "quota: { bot: 1000/s, chat: 1/m, user: off, app: off }\n",
    )
    .await;
    world.sim.set_limits(openclaw_sim::Limits::off());
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(1500.0, world.workload(40).take(1000)).await;
    let begun = Instant::now();
    let other = Event::text(world.bots[0].clone(), "oc_other", "ou_other", "and me?");
    let key = pusher.push(other).await.unwrap().key;
    eventually("the other chat is answered", Duration::from_secs(20), async || {
        world
            .sim
            .ledger(|ledger| ledger.messages().any(|message| message.reply_to.as_ref() == Some(&key)))
    })
    .await;
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(8), "it was answered after {waited:?}");
    let (twice,): (i64,) = world.row("SELECT count(*) FROM events WHERE fence > 2").await;
    assert_eq!(twice, 0, "what was taken back from there stays in memory");
}

/// A backlog of chats that nothing holds up is answered from memory as the broker hands it out. Each event that makes way
/// for others, into the Store and back, costs the database as much again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_that_moves_stays_with_the_broker() {
    let world = World::new(
        Kind::Distributed,
        1,
        "quota: { bot: 10000/s, chat: off, user: off, app: off }\n",
    )
    .await;
    world.sim.set_limits(openclaw_sim::Limits::off());
    let ingest = Process::start("ingest", world.path()).await;
    let pusher = world.pusher(&[&ingest], PushOptions::default());
    pusher.open_loop(1500.0, world.workload(100).take(2000)).await;
    let _worker = Process::start("worker", world.path()).await;
    world.answered(&pusher).await;
    world.finished(2000).await;
    let (moved,): (i64,) = world.row("SELECT count(*) FROM events WHERE fence > 1").await;
    assert!(moved < 200, "{moved} of 2,000 went through the waiting room");
}

/// A backlog that moves at 30/s, because every answer of the platform takes more than a second: whatever makes a machine slow,
/// nobody has told these chats to wait. To move their events into the Store and back would only be more work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_that_moves_slowly_stays_with_the_broker_too() {
    let world = World::new(
        Kind::Distributed,
        1,
        "quota: { bot: 10000/s, chat: off, user: off, app: off }\n",
    )
    .await;
    world.sim.set_limits(openclaw_sim::Limits::off());
    world
        .sim
        .fault(Scope::default(), Fault::slow(Duration::from_millis(1300)))
        .unwrap();
    let ingest = Process::start("ingest", world.path()).await;
    let pusher = world.pusher(&[&ingest], PushOptions::default());
    pusher.open_loop(1500.0, world.workload(40).take(400)).await;
    let _worker = Process::start("worker", world.path()).await;
    world.answered(&pusher).await;
    world.finished(400).await;
    let (moved,): (i64,) = world.row("SELECT count(*) FROM events WHERE fence > 1").await;
    assert_eq!(moved, 0, "of 400 events went through the waiting room");
}
