//! An event's way from delivery to its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openclaw_common::bot::BotId;
use openclaw_common::config::Encryption;
use openclaw_common::envelope::{Envelope, EventKey, Origin, SEND};
use openclaw_common::seal::{self, KeyRing, Part};
use openclaw_common::secret::Secret;
use openclaw_common::store::{
    ActionOutcome, ActionRow, ActionState, Arrival, Begun, Change, Intent, NewAction, State, Step, Wait,
};

use super::world::{HOUR, World, arrival, bot, change, envelope, is_settled, key, outcome, plan, plan_of, taken, wait};

pub(super) async fn an_event_goes_from_delivery_to_done(world: World) {
    let row = world.start("om_1").await;
    assert!(row.new && row.fence == 1 && row.handler_starts == 1 && row.attempt == 0 && row.plan.is_none());
    assert_eq!(world.count(State::Received).await, 1);
    assert!(world.step(&row, plan(2)).await);
    assert_eq!(world.count(State::Planned).await, 1);
    assert!(
        world
            .step(&row, Step::Progress(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    assert!(world.step(&row, Step::Try { index: 1 }).await);
    assert!(
        world
            .step(&row, Step::Finish(vec![outcome(1, ActionState::Sent)]))
            .await
    );
    assert_eq!(world.count(State::Done).await, 1);
    let sent = "SELECT count(*) FROM actions WHERE state = 'sent' AND code = 0 AND sent_at IS NOT NULL
                AND tries = 1 AND first_try_at IS NOT NULL AND message_id = 'om_sent_' || idx AND target = 'oc_1'";
    assert_eq!(world.number(sent).await, 2);
    assert_eq!(
        world
            .number("SELECT count(*) FROM events WHERE state = 'done' AND finished_at >= created_at")
            .await,
        1
    );
}

pub(super) async fn every_field_of_the_first_copy_comes_back(world: World) {
    let first = Envelope {
        // Its type does not say what it is: it was pushed.
        event_type: SEND.into(),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        body: Bytes::from((0..=255).collect::<Vec<u8>>()),
        ..envelope("om_1", "oc_群")
    };
    let arrivals = [Arrival {
        envelope: Arc::new(first.clone()),
        intent: Intent::Hold,
    }];
    assert_eq!(
        *taken(world.store.begin(&arrivals).await.unwrap().remove(0)).envelope,
        first
    );
    // A re-push differs in detail: the first copy counts.
    let again = taken(
        world
            .begin(vec![arrival("om_1", "oc_other", Intent::Start)])
            .await
            .remove(0),
    );
    assert_eq!(*again.envelope, first);
    let empty = Envelope {
        origin: Origin::Send,
        created_ms: 0,
        tenant: "".into(),
        body: Bytes::new(),
        ..envelope("om_2", "oc_1")
    };
    world
        .begin(vec![Arrival {
            envelope: Arc::new(empty.clone()),
            intent: Intent::Hold,
        }])
        .await;
    assert_eq!(*world.again("om_2").await.envelope, empty);
}

pub(super) async fn a_plan_survives_its_worker(world: World) {
    let first = world.start("om_1").await;
    assert!(world.step(&first, plan(3)).await);
    assert!(
        world
            .step(&first, Step::Progress(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    let row = world.again("om_1").await;
    assert!(!row.new && row.fence > first.fence && row.position == first.position && row.handler_starts == 0);
    assert_eq!(row.plan.as_deref(), Some(&b"\x00the plan\xff"[..]));
    let [sent, second, third] = row.actions.as_slice() else {
        panic!("{:?}", row.actions)
    };
    assert_eq!(
        (sent.state, sent.message_id.as_deref()),
        (ActionState::Sent, Some("om_sent_0"))
    );
    for (index, action) in [(1, second), (2, third)] {
        let untried = ActionRow {
            index,
            state: ActionState::Planned,
            first_tried_ms_ago: None,
            refused_before: false,
            uuid: format!("uuid-{index}"),
            message_id: None,
            sender: None,
        };
        assert_eq!(*action, untried);
    }
}

pub(super) async fn an_event_without_a_plan_may_finish(world: World) {
    let row = world.start("om_1").await;
    assert!(world.step(&row, Step::Finish(Vec::new())).await);
    assert_eq!(world.count(State::Done).await, 1);
    assert_eq!(world.number("SELECT count(*) FROM actions").await, 0);
}

pub(super) async fn positions_follow_the_order_of_delivery_across_batches(world: World) {
    // Keys that sort against their order of delivery, and a batch larger than any block of positions.
    let name = |number: usize| format!("om_{:05}", 99_999 - number);
    let mut positions = Vec::new();
    let mut number = 0;
    for size in [3, 2500, 1, 40] {
        let batch = (number..number + size)
            .map(|number| arrival(&name(number), "oc_1", Intent::Hold))
            .collect();
        number += size;
        positions.extend(world.begin(batch).await.into_iter().map(|begun| taken(begun).position));
    }
    assert_eq!(positions.len(), number);
    assert!(positions.is_sorted_by(|earlier, later| earlier < later));
    // A redelivery keeps its place.
    assert_eq!(world.again(&name(1)).await.position, positions[1]);
}

pub(super) async fn a_second_copy_in_one_batch_is_settled(world: World) {
    let batch = ["om_1", "om_2", "om_1"].map(|key| arrival(key, "oc_1", Intent::Start));
    let mut answers = world.begin(batch.to_vec()).await;
    assert!(is_settled(&answers[2]));
    let row = taken(answers.remove(0));
    assert!(
        world.step(&row, Step::Finish(Vec::new())).await,
        "the first copy's fence holds"
    );
    let parked = ["om_3", "om_3"].map(|key| arrival(key, "oc_1", Intent::Park));
    let answers = world.begin(parked.to_vec()).await;
    assert!(matches!(answers[0], Begun::Settled { parked: true }));
    assert!(is_settled(&answers[1]));
    assert_eq!(world.number("SELECT count(*) FROM events").await, 3);
}

pub(super) async fn the_first_try_is_timed_once_by_the_database(world: World) {
    let first = world.start("om_1").await;
    assert!(world.step(&first, plan(2)).await);
    let row = world.again("om_1").await;
    let ago = row.actions[0]
        .first_tried_ms_ago
        .expect("the plan's first action counts as tried");
    assert!((0..60_000).contains(&ago), "{ago} ms");
    assert_eq!(row.actions[1].first_tried_ms_ago, None);
    world.pass("actions", "first_try_at", "om_1", HOUR).await;
    assert!(world.step(&row, Step::Try { index: 0 }).await);
    assert!(world.step(&row, Step::Try { index: 1 }).await);
    let row = world.again("om_1").await;
    assert!(
        row.actions[0].first_tried_ms_ago.unwrap() >= 3_600_000,
        "a later try is not the first"
    );
    assert!(row.actions[1].first_tried_ms_ago.unwrap() < 60_000);
    assert_eq!(
        world
            .number("SELECT count(*) FROM actions WHERE idx = 0 AND tries = 2")
            .await,
        1
    );
}

pub(super) async fn a_refusal_counts_until_the_next_try_begins(world: World) {
    let row = world.planned("om_1").await;
    let refused = ActionOutcome {
        refused: true,
        code: Some(99_991_400),
        ..outcome(0, ActionState::Planned)
    };
    assert!(world.step(&row, Step::Progress(vec![refused])).await);
    let row = world.again("om_1").await;
    assert!(row.actions[0].refused_before);
    assert!(world.step(&row, Step::Try { index: 0 }).await);
    let row = world.again("om_1").await;
    assert!(!row.actions[0].refused_before, "the new try's outcome is open");
}

pub(super) async fn what_is_sent_stays_sent(world: World) {
    let row = world.planned("om_1").await;
    assert!(
        world
            .step(&row, Step::Progress(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    let wait = Wait {
        actions: vec![outcome(0, ActionState::Unknown)],
        due_in: Duration::ZERO,
        attempt: 1,
        hold: false,
        failure: None,
    };
    assert!(world.step(&row, Step::Wait(wait)).await);
    let row = world.take_due(1).await.remove(0);
    assert_eq!(row.actions[0].state, ActionState::Sent);
    assert_eq!(row.actions[0].message_id.as_deref(), Some("om_sent_0"));
}

pub(super) async fn only_handler_starts_that_ended_badly_add_up(world: World) {
    let held = taken(world.begin(vec![arrival("om_1", "oc_1", Intent::Hold)]).await.remove(0));
    assert_eq!(held.handler_starts, 0);
    assert!(world.step(&held, Step::Start).await);
    // Its worker died; the next delivery is not a start by itself, whatever its intent.
    let row = taken(
        world
            .begin(vec![arrival("om_1", "oc_1", Intent::Start)])
            .await
            .remove(0),
    );
    assert_eq!(row.handler_starts, 1);
    assert!(world.step(&row, Step::Start).await);
    let row = world.again("om_1").await;
    assert_eq!(row.handler_starts, 2);
    // Waiting its turn says nothing about the handler.
    assert!(world.step(&row, super::world::wait(Duration::ZERO, true)).await);
    let row = world.take_due(1).await.remove(0);
    assert_eq!(row.handler_starts, 2);
    // A handler that failed in good order killed nobody.
    let failure = Some(("handler", None, "the upstream did not answer".to_owned()));
    let failed = Wait {
        actions: Vec::new(),
        due_in: Duration::ZERO,
        attempt: 1,
        hold: false,
        failure,
    };
    assert!(world.step(&row, Step::Wait(failed)).await);
    let row = world.take_due(1).await.remove(0);
    assert_eq!((row.handler_starts, row.attempt), (0, 1));
    // Nor did one that failed and is asked again in its lane. Repeated, as after a lost answer, it is the same failure.
    assert!(world.step(&row, Step::Start).await);
    for _ in 0..2 {
        let error = "the upstream did not answer".to_owned();
        assert!(world.step(&row, Step::Fail { attempt: 2, error }).await);
    }
    let row = world.again("om_1").await;
    assert_eq!((row.handler_starts, row.attempt), (0, 2));
    assert!(world.step(&row, Step::Start).await);
    assert!(world.step(&row, plan(1)).await);
    let error = "too late".to_owned();
    assert!(
        !world.step(&row, Step::Fail { attempt: 3, error }).await,
        "it has a plan"
    );
    assert_eq!(world.again("om_1").await.handler_starts, 0);
}

pub(super) async fn age_counts_from_acceptance_and_is_never_negative(world: World) {
    let now = openclaw_common::time::now_ms();
    for (name, received_ms, age) in [
        ("om_old", now - 3_600_000, 3_600_000..3_660_000),
        ("om_fast_clock", now + 3_600_000, 0..60_000),
        ("om_broken_clock", i64::MAX, 0..60_000),
    ] {
        let envelope = Arc::new(Envelope {
            received_ms,
            ..envelope(name, "oc_1")
        });
        let row = taken(
            world
                .begin(vec![Arrival {
                    envelope,
                    intent: Intent::Hold,
                }])
                .await
                .remove(0),
        );
        assert!(age.contains(&row.age_ms), "{name}: {} ms", row.age_ms);
    }
}

pub(super) async fn odd_text_harms_no_other_event_of_its_batch(world: World) {
    let odd = "a\0b'\"\\\u{202e}😀";
    let arrivals = vec![arrival("om_1", "oc_1", Intent::Start), arrival(odd, odd, Intent::Start)];
    let rows: Vec<_> = world.begin(arrivals).await.into_iter().map(taken).collect();
    assert_eq!(rows[1].envelope.key, key(odd));
    let target = NewAction {
        kind: "reply",
        target: odd.to_owned(),
        uuid: "uuid-0".to_owned(),
        tried: true,
    };
    let step = Step::Plan {
        plan: Bytes::from_static(b"p"),
        actions: vec![target],
    };
    let sent = ActionOutcome {
        message_id: Some(odd.to_owned()),
        ..outcome(0, ActionState::Sent)
    };
    let changes: Vec<Change> = rows
        .iter()
        .flat_map(|row| {
            let death = Step::Die {
                actions: vec![sent.clone()],
                class: "permanent",
                code: None,
                error: odd.to_owned(),
            };
            [change(row, step.clone()), change(row, death)]
        })
        .collect();
    assert_eq!(world.store.apply(&changes).await.unwrap(), [true; 4]);
    // It is still the same event when it comes again.
    assert!(is_settled(
        &world.begin(vec![arrival(odd, odd, Intent::Start)]).await[0]
    ));
    assert_eq!(world.count(State::Dead).await, 2);
}

pub(super) async fn a_renewed_action_has_a_new_uuid_and_a_new_hour(world: World) {
    let row = world.start("om_1").await;
    let renew = |uuid: &str| Step::Renew {
        index: 0,
        uuid: uuid.to_owned(),
    };
    assert!(!world.step(&row, renew("too early")).await, "there is no plan yet");
    assert!(world.step(&row, plan(2)).await);
    world.pass("actions", "first_try_at", "om_1", HOUR).await;
    assert!(world.step(&row, renew("renewed")).await);
    let again = world.again("om_1").await;
    let action = &again.actions[0];
    assert_eq!(
        (action.uuid.as_str(), action.state, action.refused_before),
        ("renewed", ActionState::Planned, false)
    );
    assert!(action.first_tried_ms_ago.unwrap() < 60_000, "{action:?}");
    assert_eq!(again.actions[1].uuid, "uuid-1", "the other action is not concerned");
    assert_eq!(
        world
            .number("SELECT CAST(tries AS bigint) FROM actions WHERE idx = 0")
            .await,
        2
    );
    // Whoever has lost the event renews nothing.
    assert!(!world.step(&row, renew("by a former owner")).await);
    assert!(
        world
            .step(&again, Step::Progress(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    world.step(&again, renew("after it was sent")).await;
    assert_eq!(
        world.again("om_1").await.actions[0].uuid,
        "renewed",
        "what is sent stays as it was sent"
    );
}

pub(super) async fn a_chosen_sender_is_there_for_whoever_comes_next(world: World) {
    let row = world.start("om_1").await;
    let choose = |sender: &str| Step::Choose {
        index: 1,
        sender: sender.to_owned(),
    };
    assert!(!world.step(&row, choose("too-early")).await, "there is no plan yet");
    assert!(world.step(&row, plan(2)).await);
    assert!(world.step(&row, choose("bot1")).await);
    let again = world.again("om_1").await;
    let sender = |row: &openclaw_common::store::Row, index: usize| row.actions[index].sender.clone();
    assert_eq!((sender(&again, 0), sender(&again, 1)), (None, Some("bot1".to_owned())));
    assert!(
        again.actions[1].first_tried_ms_ago.is_some() && !again.actions[1].refused_before,
        "a choice is a try"
    );
    let refused = ActionOutcome {
        refused: true,
        ..outcome(1, ActionState::Planned)
    };
    assert!(world.step(&again, Step::Progress(vec![refused])).await);
    assert!(world.step(&again, choose("bot2")).await);
    assert!(!world.step(&row, choose("by-a-former-owner")).await);
    assert_eq!(sender(&world.again("om_1").await, 1), Some("bot2".to_owned()));
    let seen = world.store.inspect(&key("om_1")).await.unwrap().unwrap();
    assert_eq!(seen.actions[1].sender.as_deref(), Some("bot2"));
}

pub(super) async fn looking_at_an_event_takes_nothing_up(world: World) {
    let row = world.planned("om_1").await;
    let waits = world.start("om_2").await;
    assert!(world.step(&waits, wait(HOUR, false)).await);
    let standings = world
        .store
        .standing(&[key("om_1"), key("om_2"), key("om_nobody")])
        .await
        .unwrap();
    assert_eq!(standings.len(), 2);
    let (first, second) = (standings[&key("om_1")], standings[&key("om_2")]);
    assert_eq!(
        (first.state, first.attempt, first.replay_generation, first.due_in),
        (State::Planned, 0, 0, None)
    );
    assert_eq!((second.state, second.attempt), (State::Waiting, 1));
    assert!(
        second
            .due_in
            .is_some_and(|due_in| due_in <= HOUR && due_in + HOUR / 60 > HOUR)
    );

    let seen = world.store.inspect(&key("om_1")).await.unwrap().unwrap();
    assert_eq!(
        *seen.envelope, *row.envelope,
        "also the body of a row that nobody took up again"
    );
    assert_eq!(
        (seen.state, seen.plan.as_deref()),
        (State::Planned, Some(&b"\x00the plan\xff"[..]))
    );
    let [action] = seen.actions.as_slice() else {
        panic!("{:?}", seen.actions)
    };
    assert_eq!(
        (action.index, action.kind.as_str(), action.target.as_str()),
        (0, "reply", "oc_1")
    );
    assert_eq!(
        (action.uuid.as_str(), action.state, action.tries),
        ("uuid-0", ActionState::Planned, 1)
    );
    assert!(action.first_tried_ms.is_some() && action.sent_ms.is_none());
    assert!(world.store.inspect(&key("om_nobody")).await.unwrap().is_none());
    assert!(
        world
            .step(&row, Step::Finish(vec![outcome(0, ActionState::Sent)]))
            .await,
        "its owner has kept it"
    );
    let sent = world.store.inspect(&key("om_1")).await.unwrap().unwrap();
    assert_eq!(sent.actions[0].message_id.as_deref(), Some("om_sent_0"));
    assert!(sent.actions[0].sent_ms.is_some());
}

pub(super) async fn of_what_is_left_to_do_a_few_parts_are_given_for_each_manner(world: World) {
    let seal = |id: &str, name: &str, part: Part, body: &'static str| {
        let keys = [(id.to_owned(), Secret::new("0a".repeat(32)))].into();
        let ring = KeyRing::new(&Encryption {
            keys,
            active: id.to_owned(),
            accept_plain_until_ms: None,
        });
        ring.unwrap().seal(&envelope(name, "oc_1"), part, body.into()).unwrap()
    };
    let mut arrivals: Vec<_> = ["held_1", "held_2", "held_3", "held_4"]
        .map(|name| (name, "a", Intent::Hold))
        .into();
    arrivals.extend([("waits", "bb", Intent::Park), ("ends", "c", Intent::Hold)]);
    let arrivals = arrivals.into_iter().map(|(name, id, intent)| {
        let body = seal(id, name, Part::Body, "{}");
        let envelope = Arc::new(Envelope {
            body,
            ..envelope(name, "oc_1")
        });
        Arrival { envelope, intent }
    });
    world.begin(arrivals.collect()).await;
    let planned = world.start("in_the_clear").await;
    let step = plan_of(&seal("d", "in_the_clear", Part::Plan, "plan"), 1);
    assert!(world.step(&planned, step).await);
    assert!(world.step(&world.again("ends").await, Step::Finish(Vec::new())).await);
    let bots = [bot(), BotId::new("bot2").unwrap()];
    let parts = world.store.parts(&bots).await.unwrap();
    let mut manners: Vec<_> = parts.iter().map(|part| seal::manner(&part.bytes)).collect();
    manners.sort_unstable();
    let (a, bb, d) = (b"\xf5\x02\x01a", b"\xf5\x02\x02bb", b"\xf5\x02\x01d");
    assert_eq!(
        manners,
        [None, Some(&a[..]), Some(a), Some(a), Some(d), Some(&bb[..])],
        "the body of `in_the_clear` is among them"
    );
    let plan = parts.iter().find(|part| seal::manner(&part.bytes) == Some(d)).unwrap();
    assert_eq!((plan.part, plan.bytes.len()), (Part::Plan, 3 + 1 + 16 + 12 + 4 + 16));
    let expected = envelope("in_the_clear", "oc_1");
    let event = &plan.event;
    assert_eq!(
        (
            event.origin,
            &event.key,
            &event.bot,
            &event.event_type,
            &event.chat,
            &event.tenant
        ),
        (
            expected.origin,
            &expected.key,
            &expected.bot,
            &expected.event_type,
            &expected.chat,
            &expected.tenant
        )
    );
    assert!(world.store.parts(&bots[1..]).await.unwrap().is_empty());
}

/// An event that was answered with this message.
async fn answered_with(world: &World, key: &str, message_id: &str) {
    let row = world.planned(key).await;
    let sent = ActionOutcome {
        message_id: Some(message_id.to_owned()),
        ..outcome(0, ActionState::Sent)
    };
    assert!(world.step(&row, Step::Finish(vec![sent])).await);
}

pub(super) async fn a_message_that_we_sent_is_never_handled(world: World) {
    answered_with(&world, "om_1", "om_ours").await;
    // Whichever app it is pushed to, in whichever course it would have had, beside what people wrote.
    for (number, intent) in [Intent::Start, Intent::Hold, Intent::Park].into_iter().enumerate() {
        let pushed = |app: &str, key: &str| Arrival {
            envelope: Arc::new(Envelope {
                key: EventKey::new(app, key),
                ..envelope(key, "oc_1")
            }),
            intent,
        };
        let (app, theirs) = (format!("cli_other{number}"), format!("om_theirs{number}"));
        let ours = pushed(&app, "om_ours");
        let batch = vec![
            pushed(&app, &theirs),
            ours.clone(),
            pushed(&app, "om_our"),
            ours.clone(),
        ];
        let begun = world.begin(batch).await;
        assert!(matches!(begun[1], Begun::Ours), "{begun:?}");
        assert!(is_settled(&begun[3]), "{begun:?}");
        for theirs in [&begun[0], &begun[2]] {
            let is_course = match intent {
                Intent::Park => matches!(theirs, Begun::Settled { parked: true }),
                _ => matches!(theirs, Begun::Taken(_)),
            };
            assert!(is_course, "{theirs:?}");
        }
        assert!(
            is_settled(&world.begin(vec![ours]).await[0]),
            "also when it comes again"
        );
    }
    let rows = "SELECT count(*) FROM events WHERE key = 'om_ours' AND state = 'done' AND finished_at IS NOT NULL AND due_at IS NULL";
    assert_eq!(world.number(rows).await, 3);
    assert!(world.store.is_ours(&key("om_ours")).await.unwrap());
    assert!(!world.store.is_ours(&key("om_1")).await.unwrap());
    // An event of another type is no message, whatever its key.
    let menu = Envelope {
        event_type: "application.bot.menu_v6".into(),
        key: EventKey::new("cli_menu", "om_ours"),
        ..envelope("om_ours", "oc_1")
    };
    let arrival = Arrival {
        envelope: Arc::new(menu),
        intent: Intent::Start,
    };
    assert!(matches!(world.begin(vec![arrival]).await[0], Begun::Taken(_)));
}

pub(super) async fn a_plan_for_a_message_that_turns_out_to_be_ours_is_refused(world: World) {
    // Pushed before the send was answered.
    let early = world.start("om_ours").await;
    answered_with(&world, "om_1", "om_ours").await;
    let theirs = world.start("om_theirs").await;
    let changes = [change(&early, plan(1)), change(&theirs, plan(1))];
    assert_eq!(world.store.apply(&changes).await.unwrap(), [false, true]);
    assert!(world.store.is_ours(&early.envelope.key).await.unwrap());
    assert_eq!(
        world.number("SELECT count(*) FROM actions WHERE key = 'om_ours'").await,
        0
    );
    assert!(
        world.step(&early, Step::Finish(Vec::new())).await,
        "it ends without one"
    );
    // A plan whose answer was lost counts as applied, as ever.
    assert!(world.step(&theirs, plan(1)).await);
}
