//! A pool of bots: one address, the member that is in the chat and free first, nobody's limit broken, nothing doubled.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use openclaw_sim::event::{Event, Kind as EventKind};
use openclaw_sim::push::PushOptions;
use serde_json::Value;
use testkit::eventually;

use super::pipeline::on_both_backends;
use super::send::{Caller, PATIENCE, text, visible, world};
use world::{Kind, Process, World, openclaw};

const POOL: &str = "pools: { notify: [bot0, bot1, bot2] }\n";
/// A refusal that used an attempt would be the end.
const ONE_TRY: &str = "pools: { notify: [bot0, bot1, bot2] }\nmessage: { retry_policy: { max_attempts: 1 } }\n";
const NOT_IN_CHAT: i64 = 230_002;

on_both_backends!(
    a_send_goes_out_through_the_member_that_is_in_the_chat,
    events_of_the_members_say_who_is_in_a_chat,
    a_crash_after_the_choice_doubles_nothing,
    a_pools_members_change_without_a_restart,
    one_chat_gets_its_own_limit_through_three_bots,
);

/// By which app each visible text came.
fn senders(world: &World) -> Vec<String> {
    world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.app.to_string()).collect())
}

fn refusals(world: &World) -> usize {
    world
        .sim
        .ledger(|ledger| ledger.calls().filter(|call| call.code == NOT_IN_CHAT).count())
}

async fn are_visible(world: &World, count: usize) {
    eventually(&format!("{count} messages are visible"), PATIENCE, async || {
        visible(world).len() >= count
    })
    .await;
}

async fn a_send_goes_out_through_the_member_that_is_in_the_chat(kind: Kind) {
    let world = world(kind, 3, ONE_TRY).await;
    for app in ["cli_bot0", "cli_bot1"] {
        world.sim.set_member(app, "oc_1", false);
    }
    let mut processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    for number in 0..4 {
        caller
            .send(&text(("pool", "notify"), "oc_1", &number.to_string()))
            .await;
    }
    are_visible(&world, 4).await;
    assert_eq!(visible(&world), ["0", "1", "2", "3"]);
    assert!(
        senders(&world).iter().all(|app| app == "cli_bot2"),
        "{:?}",
        senders(&world)
    );
    assert!(refusals(&world) <= 2, "who is not in the chat is tried once");
    // A pool takes no events.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
    let pushed = client
        .post(format!("{}/webhook/notify", processes[0].url()))
        .body("{}")
        .send();
    assert_eq!(pushed.await.unwrap().status(), 404);

    world.sim.set_member("cli_bot2", "oc_1", false);
    caller.send(&text(("pool", "notify"), "oc_1", "nobody")).await;
    eventually("it is given up", PATIENCE, async || {
        processes
            .iter()
            .any(|process| process.log().contains("class=\"permanent\""))
    })
    .await;
    if kind == Kind::Embedded {
        assert!(processes.pop().unwrap().stop().await.success());
    }
    let command = ["dlq", "show", "--json", "-c", world.path().to_str().unwrap()];
    let Output { stdout, .. } = openclaw(&command).output().unwrap();
    let letter: Value = serde_json::from_slice(&stdout).unwrap();
    let error = letter["error"].as_str().unwrap();
    for bot in ["bot0", "bot1", "bot2"] {
        assert!(error.contains(bot), "{error}");
    }
    assert_eq!(
        (&letter["class"], &letter["code"]),
        (&"permanent".into(), &NOT_IN_CHAT.into())
    );
    assert!(letter["actions"][0]["sender"].is_string(), "{letter}");
}

async fn events_of_the_members_say_who_is_in_a_chat(kind: Kind) {
    let world = world(kind, 3, ONE_TRY).await;
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    for bot in &world.bots[..2] {
        world.sim.set_member(&bot.credentials.app_id, "oc_1", false);
        pusher
            .push(Event::new(bot.clone(), EventKind::BotDeleted, "oc_1", "ou_1"))
            .await
            .unwrap();
    }
    world.finished(2).await;
    if kind == Kind::Embedded {
        // Events of one chat are answered in order, and these bots answer this one.
        for bot in &world.bots[..2] {
            pusher
                .push(Event::text(bot.clone(), "oc_1", "ou_1", "?"))
                .await
                .unwrap();
        }
        eventually("both events are behind them", PATIENCE, async || refusals(&world) == 2).await;
    }
    let before = refusals(&world);
    for number in 0..6 {
        caller
            .send(&text(("pool", "notify"), "oc_1", &number.to_string()))
            .await;
    }
    are_visible(&world, 6).await;
    assert_eq!(refusals(&world), before, "a bot that was put out is not asked");
    assert!(senders(&world).iter().all(|app| app == "cli_bot2"));
}

async fn a_crash_after_the_choice_doubles_nothing(kind: Kind) {
    // C1: chosen, nothing sent. W4: Feishu has answered, nobody has noted it.
    for point in ["C1:2", "W4:2"] {
        let world = world(kind, 3, POOL).await;
        let role = if kind == Kind::Embedded { "run" } else { "worker" };
        let ingest = match kind {
            Kind::Embedded => None,
            Kind::Distributed => Some(Process::start("ingest", world.path()).await),
        };
        let mut crashing = Process::start_with(role, world.path(), &[("OPENCLAW_FAIL_POINT", point)]).await;
        let caller = Caller::of(ingest.as_ref().unwrap_or(&crashing));
        let mut sent = BTreeSet::new();
        caller.send(&text(("pool", "notify"), "oc_0", "0")).await;
        sent.insert("0".to_owned());
        are_visible(&world, 1).await;
        caller.send(&text(("pool", "notify"), "oc_1", "1")).await;
        sent.insert("1".to_owned());
        crashing.ended("it crashes").await;
        crashing.kill_and_replace().await;
        let caller = Caller::of(ingest.as_ref().unwrap_or(&crashing));
        caller.send(&text(("pool", "notify"), "oc_2", "2")).await;
        sent.insert("2".to_owned());
        are_visible(&world, 3).await;
        world.finished(3).await;
        let texts = visible(&world);
        assert_eq!(texts.len(), 3, "{point}: {texts:?}");
        assert_eq!(texts.into_iter().collect::<BTreeSet<_>>(), sent);
        if point.starts_with("W4") {
            let collapsed = world
                .sim
                .ledger(|ledger| ledger.calls().filter(|call| call.collapsed).count());
            assert_eq!(collapsed, 1, "the same member repeated it under the same uuid");
        }
    }
}

async fn a_pools_members_change_without_a_restart(kind: Kind) {
    let world = world(kind, 3, "pools: { notify: [bot0] }\n").await;
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    caller.send(&text(("pool", "notify"), "oc_1", "before")).await;
    are_visible(&world, 1).await;
    let node = fs::read_to_string(world.join("config.yaml")).unwrap();
    world.write("config.yaml", &node.replace("[bot0]", "[bot1, bot2]"));
    let mut sent = 1;
    eventually("another member sends", PATIENCE, async || {
        caller.send(&text(("pool", "notify"), "oc_1", "after")).await;
        sent += 1;
        are_visible(&world, sent).await;
        senders(&world).last().is_some_and(|app| app != "cli_bot0")
    })
    .await;
    assert_eq!(senders(&world)[0], "cli_bot0");
    // A pool of its own, and none any more.
    world.write("config.yaml", &node.replace("notify: [bot0]", "alarm: [bot0]"));
    eventually("the pool has gone and another has come", PATIENCE, async || {
        let gone = caller.post(&text(("pool", "notify"), "oc_1", "x"), None).await.0 == 404;
        gone && caller.post(&text(("pool", "alarm"), "oc_1", "alarm"), None).await.0 == 202
    })
    .await;
    eventually("the new pool sends", PATIENCE, async || {
        visible(&world).iter().any(|text| text == "alarm")
    })
    .await;
}

async fn one_chat_gets_its_own_limit_through_three_bots(kind: Kind) {
    let world = world(kind, 3, POOL).await;
    let processes = world.start(1).await;
    let caller = Caller::of(&processes[0]);
    for number in 0..18 {
        caller
            .send(&text(("pool", "notify"), "oc_1", &number.to_string()))
            .await;
    }
    are_visible(&world, 18).await;
    let arrivals: Vec<u64> = world
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.at_us).collect());
    assert!(
        arrivals.windows(6).all(|six| six[5] - six[0] >= 1_000_000),
        "{arrivals:?}"
    );
    let refused = world
        .sim
        .ledger(|ledger| ledger.calls().filter(|call| call.code != 0).count());
    assert_eq!(refused, 0, "Feishu had to refuse something");
}
