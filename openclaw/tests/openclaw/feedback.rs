//! What the platform says about limits, and what follows: a tenant that is stopped, a bot that only fails, a chat that others
//! use too, a person and their chat, a month's budget.

use std::time::Duration;

use openclaw_sim::check::Expectations;
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::ledger::Level;
use openclaw_sim::push::PushOptions;
use openclaw_sim::{Api, Limits};
use serde_json::Value;
use testkit::eventually;

use super::pipeline::on_both_backends;

use world::{Kind, Process, World, openclaw};

const PATIENCE: Duration = Duration::from_secs(30);
/// Without the platform's own limits.
const UNHURRIED: &str = "quota: { bot: 40/s, chat: off, user: off, app: off";

on_both_backends!(
    a_used_up_month_stops_every_bot_of_the_tenant_until_an_operator_acts,
    a_bot_whose_sends_only_fail_tries_one_now_and_then,
    a_budget_is_given_up_in_order_and_nothing_is_lost,
    a_chat_that_refuses_is_paused_longer_each_time_and_no_other_is,
    replies_in_a_one_to_one_chat_keep_the_persons_limit,
    a_429_pauses_its_app_and_no_other_of_the_account,
);

/// Sends that reached the platform.
fn calls(world: &World) -> usize {
    world
        .sim
        .ledger(|ledger| ledger.calls().filter(|call| call.api != Api::Token).count())
}

/// When sends into chats with this name reached the platform, microseconds.
fn arrivals(world: &World, chat: &str) -> Vec<u64> {
    world.sim.ledger(|ledger| {
        let calls = ledger.calls().filter(|call| call.api != Api::Token);
        let there = calls.filter(|call| call.chat.as_deref() == Some(chat));
        there.map(|call| call.at_us).collect()
    })
}

/// Limits are not what these tests are about: the bots' own are above the judge's usual ones.
fn unhurried() -> Expectations {
    Expectations {
        quotas: Vec::new(),
        ..Expectations::default()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "one call in a test, which has a deadline of its own"
)]
async fn readiness(process: &Process) -> Value {
    let answer = reqwest::get(format!("{}/readyz", process.url())).await.unwrap();
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn is_degraded(process: &Process) -> bool {
    let status = readiness(process).await;
    let degraded = status["degraded"].as_array().unwrap();
    status["ready"] == true && degraded.iter().any(|name| name == "feishu_quota")
}

/// What `openclaw quota …` prints, a line an object.
fn quota(world: &World, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["quota"];
    all.extend(arguments);
    all.extend(["--json", "-c", world.path().to_str().unwrap()]);
    let output = openclaw(&all).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Stops what has the embedded data folder, so that a command can look into it; with servers nothing has to stop.
async fn aside(kind: Kind, processes: &mut Vec<Process>) {
    if kind == Kind::Embedded {
        for process in processes.drain(..) {
            assert!(process.stop().await.success());
        }
    }
}

async fn again(kind: Kind, world: &World, processes: &mut Vec<Process>) {
    if kind == Kind::Embedded {
        *processes = world.start(1).await;
    }
}

async fn a_used_up_month_stops_every_bot_of_the_tenant_until_an_operator_acts(kind: Kind) {
    let account = format!("{UNHURRIED}, account: {{ name: team-a, limit: off }} }}\n");
    let world = World::new(kind, 3, &account).await;
    // One that is nobody's account: a tenant of its own.
    world.write("bot2/config.yaml", "quota: { account: null }\n");
    let mut processes = world.start(2).await;
    let used_up = |bot: usize| Scope {
        app: Some(world.bots[bot].credentials.app_id.clone()),
        ..Scope::default()
    };
    world.sim.fault(used_up(0), Fault::monthly_quota()).unwrap();
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    let events = |world: &World| world.workload(4).take(24);
    pusher.open_loop(100.0, events(&world)).await;
    let worker = processes.len() - 1;
    eventually("a tenant is stopped", PATIENCE, async || {
        is_degraded(&processes[worker]).await
    })
    .await;
    let calls_of = |bot: usize| {
        let app = &world.bots[bot].credentials.app_id;
        world.sim.ledger(|ledger| {
            let calls = ledger.calls().filter(|call| call.api != Api::Token);
            calls.filter(|call| call.app == *app).count()
        })
    };
    let of_the_third = |sends: usize| {
        let world = &world;
        async move {
            eventually("the other tenant is answered", PATIENCE, async || {
                let app = &world.bots[2].credentials.app_id;
                world
                    .sim
                    .ledger(|ledger| ledger.messages().filter(|message| message.app == *app).count())
                    == sends
            })
            .await;
        }
    };
    of_the_third(8).await;
    let stopped = (calls_of(0), calls_of(1));
    assert!(stopped.0 >= 1, "{stopped:?}");
    // Events are accepted as before, and wait; also over a crash of everything.
    pusher.open_loop(100.0, events(&world)).await;
    of_the_third(16).await;
    for process in &mut processes {
        process.kill_and_replace().await;
    }
    eventually("the stop outlives the crash", PATIENCE, async || {
        is_degraded(processes.last().unwrap()).await
    })
    .await;
    pusher.open_loop(100.0, events(&world)).await;
    of_the_third(24).await;
    assert_eq!(
        (calls_of(0), calls_of(1)),
        stopped,
        "something was sent for a stopped tenant"
    );
    world.sim.clear_faults(None);
    aside(kind, &mut processes).await;
    let shown = quota(&world, &["show", "--bot", "bot1"]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(
        (&shown[0]["tenant"], &shown[0]["stopped"]["code"]),
        (&"team-a".into(), &99_991_403.into())
    );
    let resumed = quota(&world, &["resume", "--bot", "bot1"]);
    assert_eq!((&resumed[0]["matched"], &resumed[0]["done"]), (&1.into(), &1.into()));
    again(kind, &world, &mut processes).await;
    world.answered(&pusher).await;
    let report = world.judge(&pusher, &unhurried());
    assert_eq!((report.accepted, report.visible), (72, 72));
    world.finished(72).await;
    let last = processes.last().unwrap();
    eventually("nobody is stopped any more", PATIENCE, async || {
        !is_degraded(last).await
    })
    .await;
}

async fn a_bot_whose_sends_only_fail_tries_one_now_and_then(kind: Kind) {
    // Without the breaker an event had used up its attempts in a quarter of a second.
    let retry =
        format!("{UNHURRIED} }}\nmessage: {{ retry_policy: {{ max_attempts: 12, backoff: 20ms, multiplier: 1 }} }}\n");
    let world = World::new(kind, 2, &retry).await;
    let mut processes = world.start(1).await;
    let app = world.bots[0].credentials.app_id.clone();
    let scope = Scope {
        app: Some(app.clone()),
        ..Scope::default()
    };
    world
        .sim
        .fault(scope, Fault::code(400, 11_232, "overall limit"))
        .unwrap();
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(100.0, world.workload(4).take(40)).await;
    let failed = || -> Vec<u64> {
        world.sim.ledger(|ledger| {
            let calls = ledger.calls().filter(|call| call.api != Api::Token && call.app == app);
            calls.map(|call| call.at_us).collect()
        })
    };
    // Three probes: after one second, two more, and four more.
    eventually("probes go out", PATIENCE, async || {
        let times = failed();
        times
            .last()
            .zip(times.first())
            .is_some_and(|(last, first)| last - first > 6_500_000)
    })
    .await;
    let times = failed();
    assert!(times.len() <= 10 + 4 + 4, "{} tries in 7 s: {times:?}", times.len());
    let log = processes.last().unwrap().log();
    assert_eq!(log.matches("only fail").count(), 1, "{log}");
    let other = &world.bots[1].credentials.app_id;
    let answered = world
        .sim
        .ledger(|ledger| ledger.messages().filter(|message| message.app == *other).count());
    assert_eq!(answered, 20, "the other bot's breaker is its own");
    world.sim.clear_faults(None);
    world.answered(&pusher).await;
    world.judge(&pusher, &unhurried());
    let log = processes.last().unwrap().log();
    assert_eq!(log.matches("succeed again").count(), 1, "{log}");
    world.finished(40).await;
    aside(kind, &mut processes).await;
}

async fn a_budget_is_given_up_in_order_and_nothing_is_lost(kind: Kind) {
    let budget = |calls: u32| format!("{UNHURRIED}, budget: {{ calls: {calls} }} }}\n");
    let world = World::new(kind, 2, "").await;
    // As two bots of one account: they share the month.
    let bots = |calls: u32| {
        for bot in ["bot0", "bot1"] {
            let account = budget(calls).replace("budget:", "account: { name: team-a, limit: off }, budget:");
            world.write(&format!("{bot}/config.yaml"), &account);
        }
    };
    bots(40);
    world.sim.set_limits(Limits::off());
    let mut processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(50.0, world.workload(3).take(60)).await;
    eventually("the budget is spent", PATIENCE, async || {
        processes
            .last()
            .unwrap()
            .log()
            .contains("sends of kind notify and reply wait")
    })
    .await;
    // What was past the gate while the last call was counted.
    let spent = calls(&world);
    assert!((40..=46).contains(&spent), "{spent} calls of a budget of 40");
    let log = processes.last().unwrap().log();
    for percent in ["50 %", "80 %", "95 %"] {
        assert_eq!(
            log.matches(&format!("has used {percent}")).count(),
            1,
            "{percent}: {log}"
        );
    }
    aside(kind, &mut processes).await;
    eventually("every call is counted", PATIENCE, async || {
        quota(&world, &["show"])[0]["used"].as_u64() == Some(calls(&world) as u64)
    })
    .await;
    let shown = quota(&world, &["show"]);
    assert_eq!(shown[0]["calls"]["reply"].as_u64(), Some(spent as u64), "{shown:?}");
    assert_eq!(shown[0]["waiting"], serde_json::json!(["notify", "reply"]), "{shown:?}");
    assert_eq!(shown[0]["budget"], 40, "{shown:?}");
    again(kind, &world, &mut processes).await;
    assert_eq!(calls(&world), spent, "sent without a budget");
    // The operator buys more; no restart.
    bots(1000);
    world.answered(&pusher).await;
    let report = world.judge(&pusher, &unhurried());
    assert_eq!((report.accepted, report.visible), (60, 60));
    world.finished(60).await;
    aside(kind, &mut processes).await;
    eventually("every call is counted", PATIENCE, async || {
        quota(&world, &["show"])[0]["used"].as_u64() == Some(calls(&world) as u64)
    })
    .await;
}

async fn a_chat_that_refuses_is_paused_longer_each_time_and_no_other_is(kind: Kind) {
    let world = World::new(kind, 1, &format!("{UNHURRIED} }}\n").replace("chat: off", "chat: 5/s")).await;
    let processes = world.start(1).await;
    let chat = "oc_bot0_0";
    let scope = Scope {
        chat: Some(chat.into()),
        times: Some(3),
        ..Scope::default()
    };
    world.sim.fault(scope, Fault::chat_limited()).unwrap();
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(40.0, world.workload(2).take(20)).await;
    world.answered(&pusher).await;
    let times = arrivals(&world, chat);
    let waits: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    assert!(waits[0] >= 1000 && waits[1] >= 2000 && waits[2] >= 4000, "{waits:?}");
    // Others share it, so far as anybody can tell: what is left of 5 after three refusals is 1 a second.
    let after: Vec<&u64> = waits[3..6].iter().collect();
    assert!(after.iter().all(|wait| **wait >= 950), "{waits:?}");
    let other = span_ms(&arrivals(&world, "oc_bot0_1"));
    assert!(other < 4000, "the other chat took {other} ms");
    world.judge(&pusher, &unhurried());
    world.finished(20).await;
}

fn span_ms(times: &[u64]) -> u64 {
    times
        .last()
        .zip(times.first())
        .map_or(0, |(last, first)| (last - first) / 1000)
}

async fn replies_in_a_one_to_one_chat_keep_the_persons_limit(kind: Kind) {
    // The chat's own limit is off: only who knows that it is a person's keeps the platform's five a second.
    let world = World::new(kind, 1, "quota: { bot: 40/s, chat: off, user: 5/s, app: off }\n").await;
    let processes = world.start(1).await;
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(100.0, world.workload(2).in_p2p_chats().take(40)).await;
    world.answered(&pusher).await;
    let quotas = Expectations {
        quotas: vec![(Level::User, 5)],
        ..Expectations::default()
    };
    world.judge(&pusher, &quotas);
    assert_eq!(calls(&world), 40, "the platform refused some");
    world.finished(40).await;
}

async fn a_429_pauses_its_app_and_no_other_of_the_account(kind: Kind) {
    let shared = "quota: { bot: 40/s, chat: off, user: off, account: { name: team-a, limit: 80/s } }\n";
    let world = World::new(kind, 2, shared).await;
    let processes = world.start(1).await;
    let limited = world.bots[0].credentials.app_id.clone();
    let scope = Scope {
        app: Some(limited.clone()),
        times: Some(1),
        ..Scope::default()
    };
    let reset = Duration::from_secs(3);
    world.sim.fault(scope, Fault::rate_limited(reset)).unwrap();
    world.sim.set_limits(Limits::off());
    let pusher = world.pusher(&[&processes[0]], PushOptions::default());
    pusher.open_loop(100.0, world.workload(4).take(80)).await;
    world.answered(&pusher).await;
    let (refused, own, others) = world.sim.ledger(|ledger| {
        let calls = || ledger.calls().filter(|call| call.api != Api::Token);
        let refused = calls()
            .find(|call| call.fault.is_some())
            .map(|call| call.at_us)
            .unwrap();
        let after = |app: bool| {
            let of_app = calls().filter(|call| (call.app == limited) == app);
            of_app
                .map(|call| call.at_us.saturating_sub(refused) / 1000)
                .collect::<Vec<_>>()
        };
        (refused, after(true), after(false))
    });
    // What was on the wire beside the refused one may still arrive.
    let early = own.iter().filter(|after| (200..2900).contains(*after)).count();
    assert_eq!(
        early, 0,
        "the limited app sent within its pause, from {refused} on: {own:?}"
    );
    let latest = others.iter().max().unwrap();
    assert!(*latest < 2900, "the account's other bot waited, too: {others:?}");
    world.judge(&pusher, &unhurried());
    world.finished(80).await;
}
