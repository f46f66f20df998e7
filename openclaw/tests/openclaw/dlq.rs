//! Dead letters as operators meet them: listed, replayed once each, dropped; and what is sent when nobody can tell.

use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use openclaw_sim::Limits;
use openclaw_sim::check::Expectations;
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::ledger::Level;
use openclaw_sim::push::{PushOptions, Pusher};
use serde_json::Value;
use testkit::eventually;

use super::pipeline::on_both_backends;
use world::{Kind, World};
use world::{Process, openclaw};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Fast and without the platform's own limits, so that only the replay's own rate can slow it down.
pub(super) const UNHURRIED: &str = "quota: { bot: 20/s, chat: off, user: off, app: off }\n";
/// One try, so that whatever goes wrong is the end of it.
const ONE_TRY: &str = "message: { retry_policy: { max_attempts: 1 } }\n";

on_both_backends!(
    what_died_is_listed_and_replayed_once,
    a_filter_names_what_is_dropped_and_what_is_left,
    what_nobody_can_tell_is_replayed_only_by_a_persons_choice,
    with_on_unknown_resend_it_is_sent_once_more_under_a_new_uuid,
    two_hundred_letters_replayed_twice_and_killed_midway_have_one_effect_each,
);

/// `openclaw dlq …` to its end: exit code, stdout, stderr.
pub(super) fn dlq(world: &World, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(world, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

pub(super) fn command(world: &World, arguments: &[&str]) -> std::process::Command {
    let mut all = vec!["dlq"];
    all.extend(arguments);
    all.extend(["-c", world.path().to_str().unwrap()]);
    openclaw(&all)
}

pub(super) fn spawn(world: &World, arguments: &[&str]) -> Child {
    let mut command = command(world, arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The objects that a command prints; it must end well.
pub(super) fn objects(world: &World, arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    let (code, stdout, stderr) = dlq(world, &arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn object(world: &World, arguments: &[&str]) -> Value {
    let mut objects = objects(world, arguments);
    assert_eq!(objects.len(), 1, "{objects:?}");
    objects.remove(0)
}

/// The figures of `replay` or `drop`: matched, done, skipped.
pub(super) fn figures(summary: &Value) -> [u64; 3] {
    ["matched", "done", "skipped"].map(|name| summary[name].as_u64().unwrap())
}

/// A world with processes, and the means to look at its dead letters on either backend.
pub(super) struct Ward {
    pub(super) world: World,
    kind: Kind,
    pub(super) processes: Vec<Process>,
    pub(super) pusher: Pusher,
}

impl Ward {
    pub(super) async fn new(kind: Kind, bots: usize, extra: &str) -> Self {
        let world = World::new(kind, bots, extra).await;
        let processes = world.start(1).await;
        let pusher = world.pusher(&[&processes[0]], PushOptions::default());
        Self {
            world,
            kind,
            processes,
            pusher,
        }
    }

    /// Pushes texts that all meet `fault`, waits until each has, and makes the platform well again. With the embedded
    /// backend nothing runs afterwards: the data folder has one process at a time.
    pub(super) async fn kill(&mut self, events: usize, fault: Fault) {
        self.kill_after(0, events, fault).await;
    }

    /// The same behind `rules` faults that are already in force.
    async fn kill_after(&mut self, rules: usize, events: usize, fault: Fault) {
        let id = self.world.sim.fault(Scope::default(), fault).unwrap();
        self.pusher.open_loop(500.0, self.world.workload(5).take(events)).await;
        let sim = self.world.sim.clone();
        eventually("every send has met its fault", PATIENCE, async || {
            sim.faults()[rules].fired == events as u64
        })
        .await;
        match self.kind {
            Kind::Embedded => self.stop().await,
            Kind::Distributed => {
                eventually("all are dead", PATIENCE, async || {
                    objects(&self.world, &["list"]).len() == events
                })
                .await;
            }
        }
        self.world.sim.clear_faults(Some(id));
        assert_eq!(objects(&self.world, &["list"]).len(), events);
    }

    async fn stop(&mut self) {
        for process in self.processes.drain(..) {
            assert!(process.stop().await.success());
        }
    }

    /// Lets the workers go on where they were stopped for a look.
    async fn go_on(&mut self) {
        if self.kind == Kind::Embedded {
            self.processes = self.world.start(1).await;
        }
    }

    /// No letter is open any more.
    async fn healed(&mut self) {
        if self.kind == Kind::Embedded {
            self.stop().await;
        }
        assert_eq!(objects(&self.world, &["list"]), Vec::<Value>::new());
    }
}

async fn what_died_is_listed_and_replayed_once(kind: Kind) {
    let mut ward = Ward::new(kind, 1, "").await;
    ward.kill(6, Fault::code(400, 230_001, "no\u{1b}[31m such thing")).await;
    let world = &ward.world;

    let letters = objects(world, &["list"]);
    let ids: Vec<i64> = letters.iter().map(|letter| letter["id"].as_i64().unwrap()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older), "newest first: {ids:?}");
    let letter = &letters[0];
    let names: Vec<&str> = letter.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "id",
        "bot",
        "event_key",
        "chat",
        "class",
        "code",
        "error",
        "attempts",
        "replay_gen",
        "created_at",
        "died_at",
        "replayed_at",
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(
        (
            &letter["bot"],
            &letter["class"],
            &letter["code"],
            &letter["attempts"],
            &letter["replay_gen"]
        ),
        (
            &"bot0".into(),
            &"permanent".into(),
            &230_001.into(),
            &1.into(),
            &0.into()
        )
    );
    assert_eq!(letter["replayed_at"], Value::Null);
    let died = letter["died_at"].as_str().unwrap();
    assert!(died.contains('T') && died.ends_with('Z'), "{died}");
    let (_, table, _) = dlq(world, &["list"]);
    assert_eq!(table.lines().count(), 7, "a header and six letters:\n{table}");
    assert!(table.contains("230001") && !table.contains('\u{1b}'), "{table}");

    let id = ids[0].to_string();
    let shown = object(world, &["show", "--id", &id]);
    let action = &shown["actions"][0];
    assert_eq!(
        (&action["kind"], &action["state"], &action["code"], &shown["state"]),
        (&"reply".into(), &"refused".into(), &230_001.into(), &"dead".into())
    );
    assert_eq!(shown.get("body"), None, "a message is shown only when asked for");
    let with_body = object(world, &["show", "--id", &id, "--body"]);
    assert!(with_body["body"].to_string().contains("xxxx") && with_body["plan"].to_string().contains("xxxx"));
    let (_, text, _) = dlq(world, &["show", "--id", &id]);
    assert!(text.contains("refused after 1 tries, code 230001"), "{text}");

    let counted = object(world, &["replay", "--dry-run"]);
    assert_eq!(figures(&counted), [6, 0, 0]);
    assert_eq!(counted["by_class"], serde_json::json!({ "permanent": 6 }));
    assert_eq!(objects(world, &["list"]).len(), 6, "a dry run changes nothing");

    let replayed = object(world, &["replay", "--rate", "3"]);
    assert_eq!(figures(&replayed), [6, 6, 0]);
    assert_eq!(replayed["by_class"], serde_json::json!({ "permanent": 6 }));
    let closed = objects(world, &["list", "--all"]);
    assert!(
        closed.iter().all(|letter| letter["replayed_at"].is_string()),
        "{closed:?}"
    );
    assert_eq!(
        figures(&object(world, &["replay"])),
        [0, 0, 0],
        "no match is no failure"
    );
    ward.go_on().await;
    ward.world.answered(&ward.pusher).await;
    ward.world.judge(&ward.pusher, &Expectations::default());
    ward.world.finished(6).await;
    ward.healed().await;
}

async fn a_filter_names_what_is_dropped_and_what_is_left(kind: Kind) {
    let mut ward = Ward::new(kind, 2, "").await;
    ward.kill(6, Fault::code(400, 230_001, "no")).await;
    let world = &ward.world;
    let figures_of = |arguments: &[&str]| figures(&object(world, arguments));
    assert_eq!(objects(world, &["list", "--bot", "bot0"]).len(), 3);
    for nothing in [
        ["--bot", "nobody"],
        ["--class", "stale"],
        ["--code", "1"],
        ["--since", "2999-01-01T00:00:00Z"],
        ["--id", "999999"],
    ] {
        assert_eq!(figures_of(&["drop", nothing[0], nothing[1]]), [0, 0, 0], "{nothing:?}");
    }
    let everything = ["--since", "1h", "--class", "permanent", "--code", "230001"];
    assert_eq!(
        figures_of(&[&["drop", "--dry-run"][..], &everything].concat()),
        [6, 0, 0]
    );
    let id = objects(world, &["list"])[0]["id"].to_string();
    assert_eq!(figures_of(&["drop", "--id", &id]), [1, 1, 0]);
    assert_eq!(
        figures_of(&["drop", "--bot", "bot0"])[1] + objects(world, &["list"]).len() as u64,
        5
    );
    assert_eq!(figures_of(&[&["drop"][..], &everything].concat())[2], 0);
    assert_eq!(objects(world, &["list"]), Vec::<Value>::new());
    assert_eq!(figures_of(&["replay"]), [0, 0, 0], "what is closed stays closed");
    for mistake in [
        ["--since", "yesterday"],
        ["--bot", "Bot 1"],
        ["--unknown", "maybe"],
        ["--rate", "0"],
    ] {
        assert_eq!(dlq(world, &["replay", mistake[0], mistake[1]]).0, 64, "{mistake:?}");
    }
}

async fn what_nobody_can_tell_is_replayed_only_by_a_persons_choice(kind: Kind) {
    let mut ward = Ward::new(kind, 1, ONE_TRY).await;
    // The first is visible, the second is not: the worker cannot tell them apart, a person can.
    let first = Scope {
        times: Some(1),
        ..Scope::default()
    };
    ward.world.sim.fault(first, Fault::commit_then_error(500)).unwrap();
    let second = Scope {
        times: Some(1),
        ..Scope::default()
    };
    ward.world.sim.fault(second, Fault::server_error(500)).unwrap();
    ward.pusher.open_loop(500.0, ward.world.workload(1).take(2)).await;
    let sim = ward.world.sim.clone();
    eventually("both sends have met their fault", PATIENCE, async || {
        sim.faults().iter().all(|rule| rule.fired == 1)
    })
    .await;
    if kind == Kind::Embedded {
        ward.stop().await;
    } else {
        eventually("both are dead", PATIENCE, async || {
            objects(&ward.world, &["list"]).len() == 2
        })
        .await;
    }
    let world = &ward.world;
    let letters = objects(world, &["list", "--class", "ambiguous"]);
    let [invisible, visible] = letters.as_slice() else {
        panic!("{letters:?}")
    };
    assert_eq!(figures(&object(world, &["replay"])), [2, 0, 2]);
    let id = visible["id"].to_string();
    assert_eq!(
        figures(&object(world, &["replay", "--id", &id, "--unknown", "drop"])),
        [1, 1, 0]
    );
    let id = invisible["id"].to_string();
    assert_eq!(
        figures(&object(world, &["replay", "--id", &id, "--unknown", "resend"])),
        [1, 1, 0]
    );
    ward.go_on().await;
    ward.world.answered(&ward.pusher).await;
    ward.world.judge(&ward.pusher, &Expectations::default());
    ward.world.finished(2).await;
    ward.healed().await;
}

async fn with_on_unknown_resend_it_is_sent_once_more_under_a_new_uuid(kind: Kind) {
    let policy = "message: { on_unknown: resend, retry_policy: { max_attempts: 2, backoff: 20ms, multiplier: 1 } }\n";
    let mut ward = Ward::new(kind, 1, policy).await;
    let twice = Scope {
        times: Some(2),
        ..Scope::default()
    };
    ward.world.sim.fault(twice, Fault::server_error(500)).unwrap();
    ward.pusher.open_loop(500.0, ward.world.workload(1).take(1)).await;
    ward.world.answered(&ward.pusher).await;
    let uuids = |ward: &Ward| -> Vec<Arc<str>> {
        let calls =
            |ledger: &openclaw_sim::ledger::Ledger| ledger.calls().filter_map(|call| call.uuid.clone()).collect();
        ward.world.sim.ledger(calls)
    };
    let sent = uuids(&ward);
    let [first, second, third] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert!(first == second && second != third, "{sent:?}");
    ward.world.judge(&ward.pusher, &Expectations::default());
    // Once more, not for ever: what stays unknown is parked.
    let always = ward
        .world
        .sim
        .fault(Scope::default(), Fault::server_error(500))
        .unwrap();
    ward.pusher.open_loop(500.0, ward.world.workload(1).take(1)).await;
    let sim = ward.world.sim.clone();
    eventually("two tries under each of two uuids", PATIENCE, async || {
        sim.faults().iter().any(|rule| rule.id == always && rule.fired == 4)
    })
    .await;
    if kind == Kind::Embedded {
        ward.stop().await;
    } else {
        eventually("it is dead", PATIENCE, async || {
            objects(&ward.world, &["list"]).len() == 1
        })
        .await;
    }
    assert_eq!(objects(&ward.world, &["list"])[0]["class"], "ambiguous");
    assert_eq!(uuids(&ward).len(), 7);
}

/// 200 letters of four bots. On servers: two replays at once, one killed in the middle and started again, under the eyes of
/// a worker. On one data folder, where there is one process at a time: killed, and started again twice.
async fn two_hundred_letters_replayed_twice_and_killed_midway_have_one_effect_each(kind: Kind) {
    let mut ward = Ward::new(kind, 4, UNHURRIED).await;
    ward.world.sim.set_limits(Limits::off());
    ward.kill(200, Fault::code(400, 230_001, "no")).await;
    let replay = ["replay", "--rate", "5", "--json"];
    let world = &ward.world;
    if kind == Kind::Embedded {
        let mut killed = spawn(world, &replay);
        tokio::time::sleep(Duration::from_millis(60)).await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        let left = objects(world, &["list"]).len() as u64;
        assert_eq!(figures(&object(world, &replay[..3])), [left, left, 0]);
        assert_eq!(figures(&object(world, &replay[..3])), [0, 0, 0]);
    } else {
        let (survivor, mut killed) = (spawn(world, &replay), spawn(world, &replay));
        eventually("the replays are under way", PATIENCE, async || {
            (80..=160).contains(&(200 - objects(world, &["list"]).len()))
        })
        .await;
        killed.kill().unwrap();
        killed.wait().unwrap();
        let again = spawn(world, &replay);
        for replay in [survivor, again] {
            let Output { status, stdout, stderr } = replay.wait_with_output().unwrap();
            assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
            let [matched, done, skipped] = figures(&serde_json::from_slice(&stdout).unwrap());
            assert_eq!(matched, done + skipped);
        }
    }
    ward.go_on().await;
    ward.world.answered(&ward.pusher).await;
    let expected = Expectations {
        order: false,
        quotas: vec![(Level::Bot, 20)],
        ..Expectations::default()
    };
    let report = ward.world.judge(&ward.pusher, &expected);
    assert_eq!((report.accepted, report.visible), (200, 200));
    if kind == Kind::Distributed {
        // 50 letters a bot at 5 a second, whoever replays them: the last is due 9.8 s after the first.
        for bot in &ward.world.bots {
            let at: Vec<u64> = ward.world.sim.ledger(|ledger| {
                let own = ledger
                    .messages()
                    .filter(|message| message.app == bot.credentials.app_id);
                own.map(|message| message.at_us).collect()
            });
            let took = Duration::from_micros(at.iter().max().unwrap() - at.iter().min().unwrap());
            assert!(took > Duration::from_millis(8500), "{}: {took:?}", bot.bot);
        }
    }
    ward.world.finished(200).await;
    ward.healed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_stops_when_most_of_the_first_ones_die_again() {
    let mut ward = Ward::new(Kind::Distributed, 1, UNHURRIED).await;
    ward.world.sim.set_limits(Limits::off());
    ward.kill(30, Fault::code(400, 230_001, "no")).await;
    ward.world
        .sim
        .fault(Scope::default(), Fault::code(400, 230_002, "not in the chat"))
        .unwrap();
    let (code, stdout, stderr) = dlq(&ward.world, &["replay", "--rate", "20", "--json"]);
    assert_eq!(code, 70, "{stderr}");
    assert!(
        stderr.contains("bot0: stopped") && stderr.contains("died again"),
        "{stderr}"
    );
    assert_eq!(figures(&serde_json::from_str(&stdout).unwrap()), [30, 20, 10]);
    eventually("what was replayed has died again", PATIENCE, async || {
        objects(&ward.world, &["list", "--code", "230002"]).len() == 20
    })
    .await;
    let untouched = objects(&ward.world, &["list", "--code", "230001"]);
    assert_eq!(untouched.len(), 10, "the rest was left alone");
    assert!(untouched.iter().all(|letter| letter["replay_gen"] == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_process_that_has_the_data_folder_is_named() {
    let world = World::new(Kind::Embedded, 1, "").await;
    let _running = Process::start("run", world.path()).await;
    for command in ["list", "show", "replay", "drop"] {
        let (code, stdout, stderr) = dlq(&world, &[command]);
        assert_eq!((code, stdout.as_str()), (64, ""), "{command}");
        assert!(stderr.contains("in use by process"), "{command}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_body_is_shown_in_the_clear_only_with_the_key_ring() {
    let key = String::from_utf8(openclaw(&["keys", "new"]).output().unwrap().stdout).unwrap();
    let encryption = format!("encryption: {{ keys: {{ a: \"{}\" }}, active: a }}\n", key.trim());
    let mut ward = Ward::new(Kind::Embedded, 1, &encryption).await;
    ward.kill(1, Fault::code(400, 230_001, "no")).await;
    let shown = object(&ward.world, &["show", "--body"]);
    assert!(shown["body"].to_string().contains("xxxx") && shown["plan"].to_string().contains("xxxx"));
    let config = std::fs::read_to_string(ward.world.join("config.yaml")).unwrap();
    ward.world.write("config.yaml", &config.replace(&encryption, ""));
    let (code, stdout, stderr) = dlq(&ward.world, &["show", "--body"]);
    assert_eq!((code, stdout.as_str()), (64, ""), "{stderr}");
    assert_eq!(objects(&ward.world, &["show"]).len(), 1, "everything else needs no key");
}

/// A refusal of the repeat says nothing about the first try, and after an hour the platform would show it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_after_an_ambiguous_try_is_not_replayed_blindly() {
    let retries = "message: { retry_policy: { backoff: 20ms, multiplier: 1 } }\n";
    let mut ward = Ward::new(Kind::Embedded, 1, retries).await;
    let once = Scope {
        times: Some(1),
        ..Scope::default()
    };
    ward.world.sim.fault(once, Fault::commit_then_error(500)).unwrap();
    ward.kill_after(1, 1, Fault::code(400, 230_002, "not in the chat"))
        .await;
    let shown = object(&ward.world, &["show"]);
    assert_eq!(
        (&shown["class"], &shown["actions"][0]["state"]),
        (&"permanent".into(), &"unknown".into())
    );
    assert!(
        shown["error"].as_str().unwrap().contains("may have become visible"),
        "{shown}"
    );
    assert_eq!(shown["attempts"], 2);
    assert_eq!(figures(&object(&ward.world, &["replay"])), [1, 0, 1]);
    assert_eq!(
        figures(&object(&ward.world, &["replay", "--unknown", "drop"])),
        [1, 1, 0]
    );
    ward.go_on().await;
    ward.healed().await;
    ward.world.judge(&ward.pusher, &Expectations::default());
}
