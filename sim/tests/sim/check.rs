//! The judge against bots that are honest, lossy, repetitive, disorderly and greedy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openclaw_sim::check::{Expectations, Report, check};
use openclaw_sim::event::{Event, Workload};
use openclaw_sim::ledger::Level;
use openclaw_sim::push::{PushOptions, Pusher};
use openclaw_sim::{Limits, Options};
use tokio_util::sync::CancellationToken;

use crate::support::{Running, open, receiver, recipient, status};

/// What a bot does with its `n`-th message (from 0, over all chats): the replies it sends, as (message to answer, uuid).
type Habit = fn(usize, &str) -> Vec<(String, String)>;

fn honest(_: usize, key: &str) -> Vec<(String, String)> {
    vec![(key.to_owned(), short(key))]
}

fn short(key: &str) -> String {
    key.chars().rev().take(40).collect()
}

/// Pushes `count` messages into `chats` chats, lets the bot reply before it accepts, and judges.
async fn judged(habit: Habit, count: usize, chats: u32, options: Options, expected: &Expectations) -> Report {
    let running = Arc::new(Running::start(options).await);
    let seen: Arc<Mutex<usize>> = Arc::default();
    let tokens: Arc<HashMap<String, String>> = Arc::new(
        [
            ("one".to_owned(), running.token("cli_one").await),
            ("two".to_owned(), running.token("cli_two").await),
        ]
        .into(),
    );
    let platform = running.clone();
    let (address, _guard) = receiver(move |bot, _, body| {
        let (platform, seen, tokens) = (platform.clone(), seen.clone(), tokens.clone());
        async move {
            let key = open(&body)["event"]["message"]["message_id"]
                .as_str()
                .unwrap()
                .to_owned();
            let number = {
                let mut seen = seen.lock().unwrap();
                *seen += 1;
                *seen - 1
            };
            for (to, uuid) in habit(number, &key) {
                platform.reply(&tokens[&bot], &to, "pong", Some(&uuid)).await.unwrap();
            }
            status(200)
        }
    })
    .await;
    let options = PushOptions {
        targets: vec![address],
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, Some(running.sim.clone()), CancellationToken::new()).unwrap();
    let workload = Workload::new(vec![recipient("one"), recipient("two")], chats, 0);
    pusher.closed_loop(4, workload.take(count)).await;
    let uuids = running.sim.forgotten_uuids();
    pusher.log(|log| running.sim.ledger(|ledger| check(log, ledger, uuids, expected)))
}

fn unlimited() -> Options {
    Options {
        limits: Limits::off(),
        ..Options::default()
    }
}

fn without_quota() -> Expectations {
    Expectations {
        quotas: Vec::new(),
        ..Expectations::default()
    }
}

#[tokio::test]
async fn an_honest_run_passes() {
    let report = judged(honest, 60, 5, unlimited(), &without_quota()).await;
    assert!(report.passed(), "{report}");
    assert_eq!((report.accepted, report.owed, report.visible), (60, 60, 60));
    assert!(report.to_string().ends_with("passed"));
}

#[tokio::test]
async fn planted_losses_are_found_and_named() {
    let lossy: Habit = |number, key| {
        if number % 10 == 3 {
            Vec::new()
        } else {
            honest(number, key)
        }
    };
    let report = judged(lossy, 60, 5, unlimited(), &without_quota()).await;
    assert_eq!(report.lost.len(), 6);
    assert!(!report.passed());
    assert!(report.doubled.is_empty() && report.disordered.is_empty(), "{report}");
    assert!(report.to_string().contains(&*report.lost[0].key));
}

#[tokio::test]
async fn excused_events_are_not_losses() {
    let silent: Habit = |_, _| Vec::new();
    let mut expected = without_quota();
    let report = judged(silent, 1, 1, unlimited(), &expected).await;
    assert_eq!(report.lost.len(), 1);
    expected.excused.insert(report.lost[0].key.clone());
    // The key is another run's: it excuses nothing here.
    assert!(!judged(silent, 1, 1, unlimited(), &expected).await.passed());
}

#[tokio::test]
async fn planted_doubles_are_found_though_their_uuids_differ() {
    let repetitive: Habit = |number, key| {
        let second = (key.to_owned(), format!("again-{number}"));
        if number % 20 == 0 {
            vec![honest(number, key).remove(0), second]
        } else {
            honest(number, key)
        }
    };
    let report = judged(repetitive, 60, 5, unlimited(), &without_quota()).await;
    assert_eq!(report.doubled.len(), 3);
    assert!(
        report
            .doubled
            .iter()
            .all(|doubled| doubled.visible == 2 && !doubled.by_uuid)
    );
    assert!(report.lost.is_empty() && !report.passed());
    // Two replies are right where two are owed.
    let twice: Habit = |number, key| {
        vec![
            honest(number, key).remove(0),
            (key.to_owned(), format!("again-{number}")),
        ]
    };
    let expected = Expectations {
        replies: 2,
        ..without_quota()
    };
    assert!(judged(twice, 20, 5, unlimited(), &expected).await.passed());
}

#[tokio::test]
async fn one_uuid_seen_twice_after_its_hour_is_found() {
    let again: Habit = |number, key| {
        if number == 1 {
            // The uuid's hour is 1 ms here.
            std::thread::sleep(Duration::from_millis(5));
        }
        vec![(key.to_owned(), "same".to_owned())]
    };
    let options = Options {
        time_scale: 3_600_000.0,
        ..unlimited()
    };
    let report = judged(again, 2, 1, options, &without_quota()).await;
    // Two bots, one message each: their uuids are apart.
    assert!(report.doubled.is_empty(), "{report}");
    let options = Options {
        time_scale: 3_600_000.0,
        ..unlimited()
    };
    let slow: Habit = |number, key| {
        std::thread::sleep(Duration::from_millis(5));
        vec![(key.to_owned(), if number < 4 { "same".to_owned() } else { short(key) })]
    };
    let report = judged(slow, 4, 1, options, &without_quota()).await;
    assert_eq!(
        report
            .doubled
            .iter()
            .map(|doubled| (doubled.visible, doubled.by_uuid))
            .collect::<Vec<_>>(),
        [(2, true); 2]
    );
}

#[tokio::test]
async fn a_planted_disorder_is_found() {
    // Each first message is answered only together with the second of its chat, after it.
    static HELD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let disorderly: Habit = |number, key| {
        let mut held = HELD.lock().unwrap();
        if number < 2 {
            held.push(key.to_owned());
            return Vec::new();
        }
        let mut replies = honest(number, key);
        if let Some(position) = held
            .iter()
            .position(|earlier| earlier.split('_').nth(4) == key.split('_').nth(4))
        {
            let earlier = held.remove(position);
            replies.push((earlier.clone(), short(&earlier)));
        }
        replies
    };
    let report = judged(disorderly, 40, 1, unlimited(), &without_quota()).await;
    assert_eq!(report.disordered.len(), 2, "{report}");
    assert!(report.lost.is_empty() && report.doubled.is_empty(), "{report}");
    assert!(!report.passed());
}

#[tokio::test]
async fn an_echo_of_another_message_is_found() {
    let expected = Expectations {
        echo: true,
        ..without_quota()
    };
    // These bots say "pong" to everything.
    let report = judged(honest, 3, 1, unlimited(), &expected).await;
    assert_eq!(report.garbled.len(), 3);
    assert!(!report.passed() && report.lost.is_empty(), "{report}");
    let running = Running::start(unlimited()).await;
    let token = running.token("cli_one").await;
    let (address, _guard) = receiver(|_, _, _| async { status(200) }).await;
    let options = PushOptions {
        targets: vec![address],
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, Some(running.sim.clone()), CancellationToken::new()).unwrap();
    let event = Event::text(recipient("one"), "oc_1", "ou_1", "what was \"said\"");
    pusher.push(event.clone()).await.unwrap();
    running
        .reply(&token, &event.key, "what was \"said\"", None)
        .await
        .unwrap();
    let report = pusher.log(|log| running.sim.ledger(|ledger| check(log, ledger, 0, &expected)));
    assert!(report.passed(), "{report}");
}

#[tokio::test]
async fn events_that_overlapped_may_be_answered_in_either_order() {
    let running = Running::start(unlimited()).await;
    let token = running.token("cli_one").await;
    let (address, _guard) = receiver(|_, _, _| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        status(200)
    })
    .await;
    let options = PushOptions {
        targets: vec![address],
        ordered: false,
        ..PushOptions::default()
    };
    let pusher = Pusher::new(options, Some(running.sim.clone()), CancellationToken::new()).unwrap();
    let events: Vec<_> = Workload::new(vec![recipient("one")], 1, 0).take(2).collect();
    tokio::join!(pusher.push(events[0].clone()), pusher.push(events[1].clone()));
    for event in events.iter().rev() {
        running
            .reply(&token, &event.key, "x", Some(&short(&event.key)))
            .await
            .unwrap();
    }
    let report = pusher.log(|log| running.sim.ledger(|ledger| check(log, ledger, 0, &without_quota())));
    assert!(report.passed(), "{report}");
}

#[tokio::test]
async fn a_planted_burst_is_over_quota_for_the_bot_and_the_chat() {
    let report = judged(honest, 40, 1, unlimited(), &Expectations::default()).await;
    let levels: Vec<Level> = report.over_quota.iter().map(|over| over.level).collect();
    assert!(
        levels.contains(&Level::Bot) && levels.contains(&Level::Chat),
        "{report}"
    );
    assert!(!report.passed());
    // The platform enforced it: what was refused counts against the bot, and the answers are missing.
    let report = judged(honest, 40, 1, Options::default(), &Expectations::default()).await;
    assert!(!report.over_quota.is_empty() && !report.lost.is_empty(), "{report}");
}

#[tokio::test]
async fn a_run_that_outgrew_the_ledger_is_judged_by_totals() {
    let small = || Options {
        keep: 20,
        ..unlimited()
    };
    let report = judged(honest, 60, 5, small(), &without_quota()).await;
    let part = report.incomplete.unwrap();
    assert_eq!((part.missing, part.extra, part.messages, part.uuids), (0, 0, 40, 0));
    assert!(report.passed(), "{report}");
    let lossy: Habit = |number, key| {
        if number % 10 == 3 {
            Vec::new()
        } else {
            honest(number, key)
        }
    };
    let report = judged(lossy, 60, 5, small(), &without_quota()).await;
    assert_eq!(report.incomplete.unwrap().missing, 6);
    assert!(!report.passed());
    let twice: Habit = |number, key| {
        vec![
            honest(number, key).remove(0),
            (key.to_owned(), format!("again-{number}")),
        ]
    };
    let report = judged(twice, 60, 5, small(), &without_quota()).await;
    assert_eq!(report.incomplete.unwrap().extra, 60);
    assert!(!report.passed());
}
