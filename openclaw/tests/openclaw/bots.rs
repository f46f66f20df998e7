//! Bots come, change and go while everything runs.

use std::fs;
use std::time::Duration;

use openclaw_sim::check::Expectations;
use openclaw_sim::event::{Event, Workload};
use openclaw_sim::push::PushOptions;
use testkit::eventually;

use world::Process;
use world::{Kind, World};

const PATIENCE: Duration = Duration::from_secs(10);
/// One attempt each: a refusal is an answer here, not something to wait for.
fn once() -> PushOptions {
    PushOptions {
        timetable: Vec::new(),
        ..PushOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_added_while_running_is_served() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let process = Process::start("run", world.path()).await;
    let pusher = world.pusher(&[&process], once());
    let late = world.add_bot("late");
    eventually("the new bot is taken in", PATIENCE, async || {
        let event = Event::text(late.clone(), "oc_late", "ou_late", "hello");
        pusher.push(event).await.unwrap().status == Some(200)
    })
    .await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_bot_takes_nothing_in_keeps_its_queue_and_goes_on_when_it_returns() {
    let world = World::new(Kind::Embedded, 2, "").await;
    let process = Process::start("run", world.path()).await;
    let pusher = world.pusher(&[&process], once());
    let bot = world.bots[1].clone();
    // A backlog of six seconds: most of it is still there when the bot goes.
    pusher
        .open_loop(500.0, Workload::new(vec![bot.clone()], 3, 16).take(30))
        .await;
    let credentials = world.join("bot1/credentials.yaml");
    let text = fs::read_to_string(&credentials).unwrap();
    fs::remove_dir_all(world.join("bot1")).unwrap();
    eventually("intake stops", PATIENCE, async || {
        let event = Event::text(bot.clone(), "oc_gone", "ou_gone", "anybody there?");
        pusher.push_copies(&event, 1).await == [Some(404)]
    })
    .await;
    let answered = world.sim.ledger(|ledger| ledger.totals().replied);
    assert!(answered < 25, "the backlog was over before the bot went");
    world.write("bot1/credentials.yaml", &text);
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_new_file_keeps_the_old_bot_and_says_so() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let process = Process::start("run", world.path()).await;
    world.write("bot0/config.yaml", "handler: { kind: parrot }\n");
    eventually("the mistake is named", PATIENCE, async || {
        process
            .log()
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("handler.kind"))
    })
    .await;
    let pusher = world.pusher(&[&process], once());
    pusher.open_loop(50.0, world.workload(2).take(4)).await;
    world.answered(&pusher).await;
    world.judge(&pusher, &Expectations::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_handler_answers_the_next_event() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let process = Process::start("run", world.path()).await;
    let pusher = world.pusher(&[&process], once());
    world.write(
        "bot0/config.yaml",
        "handler: { kind: rules, rules: [ { prefix: hi, reply: \"hello there\" } ] }\n",
    );
    eventually("the rules answer", PATIENCE, async || {
        let event = Event::text(world.bots[0].clone(), "oc_1", "ou_1", "hi");
        pusher.push(event).await.unwrap();
        world
            .sim
            .ledger(|ledger| ledger.messages().any(|message| message.content.contains("hello there")))
    })
    .await;
}
