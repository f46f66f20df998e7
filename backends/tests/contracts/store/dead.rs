//! Dead letters, replay, retention.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::BotId;
use openclaw_common::envelope::Envelope;
use openclaw_common::store::{
    ActionOutcome, ActionState, Burial, DeadFilter, DeadLetter, Intent, Replay, Replayed, State, Step, UnknownChoice,
    Wait,
};
use openclaw_common::time::now_ms;

use super::world::{HOUR, World, arrival, bot, die, envelope, is_settled, key, outcome, plan, wait};

async fn letters(world: &World) -> Vec<DeadLetter> {
    world.store.dead_letters(&DeadFilter::default(), 100).await.unwrap()
}

async fn ids(world: &World) -> Vec<i64> {
    letters(world).await.iter().map(|letter| letter.id).collect()
}

/// An order with nothing special.
fn order(ids: Vec<i64>) -> Replay {
    Replay {
        ids,
        first_in: Duration::ZERO,
        spacing: Duration::ZERO,
        unknown: None,
        force: false,
        who: "anna".to_owned(),
    }
}

fn done(class: &str, count: u64, skipped: u64) -> Replayed {
    Replayed {
        done: HashMap::from([(class.to_owned(), count)]),
        skipped,
    }
}

pub(super) async fn a_death_writes_exactly_one_dead_letter(world: World) {
    let before = now_ms() - 1000;
    let row = world.start("om_1").await;
    assert!(world.step(&row, plan(1)).await);
    let tried = Wait {
        actions: vec![ActionOutcome {
            refused: true,
            tries: 2,
            ..outcome(0, ActionState::Planned)
        }],
        due_in: Duration::ZERO,
        attempt: 3,
        hold: false,
        failure: Some(("limited", Some(230_020), "the group is at its limit".to_owned())),
    };
    assert!(world.step(&row, Step::Wait(tried)).await);
    let row = world.take_due(1).await.remove(0);
    assert!(world.step(&row, Step::Try { index: 0 }).await);
    assert!(world.step(&row, die(vec![outcome(0, ActionState::Refused)])).await);
    let letters = letters(&world).await;
    let [letter] = letters.as_slice() else {
        panic!("{letters:?}")
    };
    assert_eq!(
        (&letter.key, &letter.bot, letter.chat.as_str()),
        (&key("om_1"), &bot(), "oc_1")
    );
    assert_eq!((letter.class.as_str(), letter.code), ("permanent", Some(230_002)));
    assert_eq!(letter.error, "the bot is not in the chat");
    assert_eq!((letter.attempts, letter.replay_generation), (4, 0));
    assert_eq!((letter.replayed_ms, letter.resolved_ms), (None, None));
    assert_eq!(letter.created_ms, row.envelope.received_ms);
    assert!(letter.died_ms > before && letter.died_ms >= letter.created_ms);
    assert_eq!(
        world
            .number("SELECT count(*) FROM actions WHERE state = 'refused' AND code = 230002")
            .await,
        1
    );
    // A handler that failed for good had its last try counted too.
    let row = world.start("om_2").await;
    assert!(world.step(&row, die(Vec::new())).await);
    assert_eq!(
        world.store.dead_letters(&DeadFilter::default(), 1).await.unwrap()[0].attempts,
        1
    );
}

pub(super) async fn a_burial_leaves_settled_events_alone(world: World) {
    let burial = |name: &str| Burial {
        envelope: Arc::new(envelope(name, "oc_1")),
        class: "delivery_limit",
        error: "the broker gave up".to_owned(),
    };
    let finished = world.start("om_done").await;
    assert!(world.step(&finished, Step::Finish(Vec::new())).await);
    let waits = world.start("om_waiting").await;
    assert!(world.step(&waits, wait(HOUR, false)).await);
    world.dead("om_dead", ActionState::Refused).await;
    let alive = world.planned("om_alive").await;
    let names = ["om_new", "om_done", "om_waiting", "om_dead", "om_alive", "om_new"];
    for _repeated in 0..2 {
        world.store.bury(&names.map(burial)).await.unwrap();
    }
    let mut found: Vec<(String, String)> = letters(&world)
        .await
        .into_iter()
        .map(|letter| (letter.key.key.to_string(), letter.class))
        .collect();
    found.sort();
    let expected = [
        ("om_alive", "delivery_limit"),
        ("om_dead", "permanent"),
        ("om_new", "delivery_limit"),
    ];
    assert_eq!(found, expected.map(|(key, class)| (key.to_owned(), class.to_owned())));
    assert!(
        !world.step(&alive, Step::Finish(Vec::new())).await,
        "its owner has lost it"
    );
    assert_eq!(
        (world.count(State::Done).await, world.count(State::Waiting).await),
        (1, 1)
    );
    // What was buried unseen can be replayed.
    let buried = DeadFilter {
        class: Some("delivery_limit".into()),
        ..DeadFilter::default()
    };
    let ids = world
        .store
        .dead_letters(&buried, 10)
        .await
        .unwrap()
        .iter()
        .map(|letter| letter.id)
        .collect();
    assert_eq!(
        world.store.replay(&order(ids)).await.unwrap(),
        done("delivery_limit", 2, 0)
    );
    assert_eq!(world.take_due(10).await.len(), 2);
    world.store.bury(&[]).await.unwrap();
}

pub(super) async fn dead_letters_are_found_by_every_filter(world: World) {
    let elsewhere = Envelope {
        bot: BotId::new("bot2").unwrap(),
        ..envelope("om_elsewhere", "oc_1")
    };
    let unreadable = Burial {
        envelope: Arc::new(elsewhere),
        class: "unreadable",
        error: "no JSON".to_owned(),
    };
    world.store.bury(&[unreadable]).await.unwrap();
    for name in ["om_1", "om_2", "om_3"] {
        world.dead(name, ActionState::Refused).await;
    }
    world.pass("dead_letters", "died_at", "om_1", HOUR).await;
    let all = letters(&world).await;
    assert!(all.is_sorted_by(|newer, older| newer.id > older.id), "newest first");
    let id_of = |name: &str| all.iter().find(|letter| *letter.key.key == *name).unwrap().id;
    assert_eq!(world.store.drop_dead(&[id_of("om_2")], "anna").await.unwrap(), 1);

    let any = DeadFilter::default;
    for (filter, expected) in [
        (any(), vec!["om_3", "om_1", "om_elsewhere"]),
        (
            DeadFilter { closed: true, ..any() },
            vec!["om_3", "om_2", "om_1", "om_elsewhere"],
        ),
        (
            DeadFilter {
                bot: Some(bot()),
                ..any()
            },
            vec!["om_3", "om_1"],
        ),
        (
            DeadFilter {
                class: Some("unreadable".into()),
                ..any()
            },
            vec!["om_elsewhere"],
        ),
        (
            DeadFilter {
                code: Some(230_002),
                ..any()
            },
            vec!["om_3", "om_1"],
        ),
        (DeadFilter { code: Some(1), ..any() }, vec![]),
        (
            DeadFilter {
                since_ms: Some(now_ms() - 60_000),
                bot: Some(bot()),
                ..any()
            },
            vec!["om_3"],
        ),
        (
            DeadFilter {
                id: Some(id_of("om_1")),
                ..any()
            },
            vec!["om_1"],
        ),
        (
            DeadFilter {
                id: Some(id_of("om_2")),
                ..any()
            },
            vec![],
        ),
        (
            DeadFilter {
                after: Some(id_of("om_1")),
                ..any()
            },
            vec!["om_3"],
        ),
    ] {
        let found: Vec<_> = world.store.dead_letters(&filter, 10).await.unwrap();
        let names: Vec<_> = found.iter().map(|letter| &*letter.key.key).collect();
        assert_eq!(names, expected, "{filter:?}");
        let counted: u64 = world.store.count_dead(&filter).await.unwrap().values().sum();
        assert_eq!(counted, expected.len() as u64, "{filter:?}");
    }
    assert_eq!(world.store.dead_letters(&any(), 2).await.unwrap().len(), 2);
    let by_class = world.store.count_dead(&any()).await.unwrap();
    assert_eq!(
        by_class,
        HashMap::from([("permanent".to_owned(), 2), ("unreadable".to_owned(), 1)])
    );
}

pub(super) async fn a_replay_tries_again_what_was_not_sent(world: World) {
    let row = world.start("om_1").await;
    assert!(world.step(&row, plan(3)).await);
    let outcomes = vec![outcome(0, ActionState::Sent), outcome(1, ActionState::Refused)];
    assert!(world.step(&row, die(outcomes)).await);
    for name in ["om_2", "om_3"] {
        world.dead(name, ActionState::Refused).await;
    }
    let mut ids = ids(&world).await;
    ids.reverse();
    let spaced = Replay {
        first_in: HOUR,
        spacing: HOUR,
        ..order(vec![ids[2], ids[0], ids[0], ids[1], 999_999])
    };
    assert_eq!(world.store.replay(&spaced).await.unwrap(), done("permanent", 3, 1));
    assert_eq!(world.count(State::Waiting).await, 3);
    // One after the other, in the order asked for.
    for (name, turn) in [("om_3", 1), ("om_1", 2), ("om_2", 3)] {
        let next = world.store.next_due(&[bot()]).await.unwrap()[&bot()];
        assert!(
            next <= turn * HOUR && next > turn * HOUR - Duration::from_secs(60),
            "{name}: {next:?}"
        );
        world.pass("events", "due_at", name, turn * HOUR).await;
        let row = world.take_due(10).await.remove(0);
        assert_eq!(*row.envelope.key.key, *name);
        assert_eq!((row.attempt, row.replay_generation, row.handler_starts), (0, 1, 0));
        if name == "om_1" {
            let states: Vec<_> = row.actions.iter().map(|action| action.state).collect();
            assert_eq!(states, [ActionState::Sent, ActionState::Planned, ActionState::Planned]);
            assert!(row.actions[1].refused_before && !row.actions[2].refused_before);
            assert_eq!(row.actions[1].uuid, "uuid-1", "no copy exists, so the uuid stays");
        }
        assert!(world.step(&row, Step::Finish(Vec::new())).await);
    }
    assert_eq!(
        world
            .number("SELECT count(*) FROM audit WHERE who = 'anna' AND what = 'replay' AND count = 3")
            .await,
        1
    );
    assert!(letters(&world).await.is_empty());
    let closed = world
        .store
        .dead_letters(
            &DeadFilter {
                closed: true,
                ..DeadFilter::default()
            },
            10,
        )
        .await
        .unwrap();
    assert!(
        closed
            .iter()
            .all(|letter| letter.replayed_ms.is_some() && letter.resolved_ms.is_some())
    );
    assert_eq!(
        world.store.replay(&spaced).await.unwrap(),
        Replayed {
            done: HashMap::new(),
            skipped: 4
        }
    );
}

pub(super) async fn events_with_unknown_actions_need_a_choice(world: World) {
    for name in ["om_1", "om_2"] {
        world.dead(name, ActionState::Unknown).await;
    }
    let ids = ids(&world).await;
    let nothing = Replayed {
        done: HashMap::new(),
        skipped: 2,
    };
    assert_eq!(world.store.replay(&order(ids.clone())).await.unwrap(), nothing);
    let resend = Replay {
        unknown: Some(UnknownChoice::Resend),
        ..order(vec![ids[0]])
    };
    assert_eq!(world.store.replay(&resend).await.unwrap(), done("permanent", 1, 0));
    let row = world.take_due(10).await.remove(0);
    let action = &row.actions[0];
    assert_eq!(
        (action.state, action.first_tried_ms_ago, action.refused_before),
        (ActionState::Planned, None, false)
    );
    let uuid = openclaw_common::action_uuid::action_uuid(&row.envelope.key, 0, "reply", 1);
    assert_eq!(action.uuid, uuid, "a new uuid, or Feishu would suppress the copy");

    let drop = Replay {
        unknown: Some(UnknownChoice::Drop),
        ..order(vec![ids[1]])
    };
    assert_eq!(world.store.replay(&drop).await.unwrap(), done("permanent", 1, 0));
    let row = world.take_due(10).await.remove(0);
    assert_eq!(
        (row.actions[0].state, row.actions[0].message_id.as_deref()),
        (ActionState::Sent, None)
    );
}

pub(super) async fn replays_run_at_the_same_time_have_one_effect(world: World) {
    for number in 0..130 {
        world.dead(&format!("om_{number:03}"), ActionState::Refused).await;
    }
    let ids: Vec<i64> = world
        .store
        .dead_letters(&DeadFilter::default(), 1000)
        .await
        .unwrap()
        .iter()
        .map(|letter| letter.id)
        .collect();
    let mut backwards = ids.clone();
    backwards.reverse();
    let (one, other) = (world.store.clone(), world.other());
    let (first, second) = (order(ids), order(backwards));
    let (first, second) = tokio::join!(one.replay(&first), other.replay(&second));
    let (first, second) = (first.unwrap(), second.unwrap());
    let sum = |replayed: &Replayed| replayed.done.values().sum::<u64>();
    assert_eq!(sum(&first) + sum(&second), 130);
    assert_eq!(first.skipped + second.skipped, 130);
    assert_eq!(world.number("SELECT CAST(sum(count) AS bigint) FROM audit").await, 130);
    assert_eq!(
        world
            .number("SELECT count(*) FROM events WHERE state = 'waiting' AND replay_gen = 1")
            .await,
        130
    );
}

pub(super) async fn more_than_three_replays_need_force(world: World) {
    world.dead("om_1", ActionState::Refused).await;
    for generation in 1..=4 {
        let ids = ids(&world).await;
        let replayed = world.store.replay(&order(ids.clone())).await.unwrap();
        if generation == 4 {
            assert_eq!(replayed.skipped, 1);
            let forced = Replay {
                force: true,
                ..order(ids)
            };
            assert_eq!(world.store.replay(&forced).await.unwrap(), done("permanent", 1, 0));
        } else {
            assert_eq!(replayed, done("permanent", 1, 0));
        }
        let row = world.take_due(1).await.remove(0);
        assert_eq!(row.replay_generation, generation);
        assert!(world.step(&row, die(Vec::new())).await);
    }
}

pub(super) async fn a_second_death_is_a_second_letter(world: World) {
    world.dead("om_1", ActionState::Refused).await;
    let first = ids(&world).await;
    world.store.replay(&order(first.clone())).await.unwrap();
    let row = world.take_due(1).await.remove(0);
    assert!(world.step(&row, die(vec![outcome(0, ActionState::Refused)])).await);
    let open = letters(&world).await;
    assert_eq!(open.len(), 1);
    assert!(open[0].id > first[0] && open[0].replay_generation == 1);
    // The closed letter of the same event is no way to replay it.
    assert_eq!(world.store.replay(&order(first)).await.unwrap().skipped, 1);
}

pub(super) async fn a_dropped_letter_is_closed_for_good(world: World) {
    world.dead("om_1", ActionState::Refused).await;
    let ids = ids(&world).await;
    assert_eq!(world.store.drop_dead(&ids, "anna").await.unwrap(), 1);
    assert_eq!(world.store.drop_dead(&ids, "anna").await.unwrap(), 0);
    assert!(letters(&world).await.is_empty());
    assert_eq!(world.store.replay(&order(ids)).await.unwrap().skipped, 1);
    assert_eq!(world.count(State::Dead).await, 1);
    assert!(
        is_settled(&world.begin(vec![arrival("om_1", "oc_1", Intent::Start)]).await[0]),
        "a re-push finds it dead"
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM audit WHERE who = 'anna' AND what = 'drop' AND count = 1")
            .await,
        1
    );
}

pub(super) async fn purging_removes_old_ends_and_nothing_else(world: World) {
    for name in ["om_old_1", "om_old_2", "om_young"] {
        let row = world.planned(name).await;
        assert!(
            world
                .step(&row, Step::Finish(vec![outcome(0, ActionState::Sent)]))
                .await
        );
    }
    world.dead("om_old_dead", ActionState::Refused).await;
    world.planned("om_alive").await;
    let waits = world.start("om_waiting").await;
    assert!(world.step(&waits, wait(HOUR, false)).await);
    for name in ["om_old_1", "om_old_2", "om_old_dead", "om_alive", "om_waiting"] {
        world.pass("events", "finished_at", name, 3 * HOUR).await;
        world.pass("events", "created_at", name, 3 * HOUR).await;
    }
    assert_eq!(world.store.purge(2 * HOUR, 2).await.unwrap(), 2, "at most so many");
    assert_eq!(world.store.purge(2 * HOUR, 10).await.unwrap(), 1);
    assert_eq!(world.store.purge(2 * HOUR, 10).await.unwrap(), 0);
    let left = "SELECT count(*) FROM events WHERE key IN ('om_young', 'om_alive', 'om_waiting')";
    assert_eq!(
        (
            world.number("SELECT count(*) FROM events").await,
            world.number(left).await
        ),
        (3, 3)
    );
    assert_eq!(world.number("SELECT count(*) FROM actions").await, 2);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);
}

pub(super) async fn several_replays_share_one_schedule(world: World) {
    for name in ["om_1", "om_2", "om_3", "om_4"] {
        world.dead(name, ActionState::Refused).await;
    }
    let mut ids = ids(&world).await;
    ids.reverse();
    let spaced = |ids: &[i64]| Replay {
        spacing: HOUR,
        ..order(ids.to_vec())
    };
    // One after the other by two callers at once, then by a third.
    let (other, first, second) = (world.other(), spaced(&ids[..1]), spaced(&ids[1..3]));
    let (one, two) = tokio::join!(world.store.replay(&first), other.replay(&second));
    assert_eq!((one.unwrap().skipped, two.unwrap().skipped), (0, 0));
    world.store.replay(&spaced(&ids[3..])).await.unwrap();
    let keys = ["om_1", "om_2", "om_3", "om_4"].map(key);
    let standings = world.store.standing(&keys).await.unwrap();
    let mut due: Vec<Duration> = standings.values().filter_map(|standing| standing.due_in).collect();
    due.sort();
    for (turn, due) in (0..4).zip(due) {
        let expected = turn * HOUR;
        assert!(
            due <= expected && due + Duration::from_secs(60) > expected,
            "{turn}: {due:?}"
        );
    }
    assert!(
        standings[&keys[3]].due_in > Some(2 * HOUR),
        "the last comes last: {standings:?}"
    );
}

pub(super) async fn pages_go_in_either_order(world: World) {
    for number in 0..5 {
        world.dead(&format!("om_{number}"), ActionState::Refused).await;
    }
    let newest_first = ids(&world).await;
    let page = async |oldest_first: bool, after: Option<i64>, before: Option<i64>| -> Vec<i64> {
        let filter = DeadFilter {
            oldest_first,
            after,
            before,
            ..DeadFilter::default()
        };
        let letters = world.store.dead_letters(&filter, 2).await.unwrap();
        letters.iter().map(|letter| letter.id).collect()
    };
    assert_eq!(page(false, None, None).await, newest_first[..2]);
    assert_eq!(page(false, None, Some(newest_first[1])).await, newest_first[2..4]);
    assert_eq!(page(true, None, None).await, [newest_first[4], newest_first[3]]);
    assert_eq!(
        page(true, Some(newest_first[3]), Some(newest_first[1])).await,
        [newest_first[2]]
    );
}
