//! The waiting room, and taking over a bot.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use openclaw_common::bot::BotId;
use openclaw_common::store::{ActionState, Begun, Intent, State, Step, Store, Wait};

use super::world::{HOUR, World, arrival, bot, change, is_settled, keys, outcome, plan, room, taken, wait};

/// New events that wait: (key, chat, due in, hold), in order of delivery.
async fn waiting(world: &World, rows: &[(&str, &str, Duration, bool)]) {
    let arrivals = rows
        .iter()
        .map(|(key, chat, ..)| arrival(key, chat, Intent::Hold))
        .collect();
    let taken: Vec<_> = world.begin(arrivals).await.into_iter().map(taken).collect();
    let changes: Vec<_> = taken
        .iter()
        .zip(rows)
        .map(|(row, (.., due, hold))| change(row, wait(*due, *hold)))
        .collect();
    assert!(
        world
            .store
            .apply(&changes)
            .await
            .unwrap()
            .into_iter()
            .all(|applied| applied)
    );
}

const NOW: Duration = Duration::ZERO;

pub(super) async fn nothing_is_taken_before_it_is_due(world: World) {
    let other = BotId::new("bot2").unwrap();
    assert!(world.store.next_due(&[bot(), other.clone()]).await.unwrap().is_empty());
    waiting(
        &world,
        &[("om_1", "oc_1", HOUR, false), ("om_2", "oc_1", 2 * HOUR, false)],
    )
    .await;
    assert!(world.take_due(10).await.is_empty());
    let next = world.store.next_due(&[other.clone(), bot()]).await.unwrap();
    assert_eq!(next.len(), 1, "a bot with nothing waiting is left out");
    assert!(
        next[&bot()] <= HOUR && next[&bot()] > HOUR - Duration::from_secs(60),
        "{next:?}"
    );
    world.pass("events", "due_at", "om_1", HOUR).await;
    assert_eq!(world.store.next_due(&[bot()]).await.unwrap()[&bot()], NOW);
    assert!(
        world
            .store
            .take_due(&other, room(&[], 10, 10))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(keys(&world.take_due(10).await), ["om_1"]);
    assert!(world.take_due(10).await.is_empty(), "it is ours now");
    assert_eq!(
        (world.count(State::Received).await, world.count(State::Waiting).await),
        (1, 1)
    );
}

pub(super) async fn due_rows_come_in_order_of_position_within_the_limits(world: World) {
    // Keys sort against their positions.
    waiting(
        &world,
        &[
            ("om_9", "oc_a", NOW, false),
            ("om_8", "oc_b", NOW, false),
            ("om_7", "oc_a", NOW, false),
            ("om_6", "oc_a", NOW, false),
            ("om_5", "oc_full", NOW, false),
            ("om_4", "oc_c", NOW, false),
            ("om_3", "oc_c", HOUR, false),
            ("om_2", "oc_b", NOW, false),
        ],
    )
    .await;
    let full: [Arc<str>; 2] = ["oc_full".into(), "oc_unheard_of".into()];
    let take = async |per_chat, limit| {
        keys(
            &world
                .store
                .take_due(&bot(), room(&full, per_chat, limit))
                .await
                .unwrap(),
        )
    };
    assert!(take(0, 10).await.is_empty() && take(10, 0).await.is_empty());
    assert_eq!(take(2, 3).await, ["om_9", "om_8", "om_7"]);
    assert_eq!(take(1, 2).await, ["om_6", "om_4"]);
    assert_eq!(take(5, 5).await, ["om_2"]);
    assert_eq!(keys(&world.take_due(5).await), ["om_5"]);
}

pub(super) async fn a_full_chat_with_a_long_queue_holds_up_no_other(world: World) {
    let parked: Vec<_> = (0..3000)
        .map(|number| arrival(&format!("om_{number}"), "oc_long", Intent::Park))
        .collect();
    world.begin(parked).await;
    waiting(&world, &[("om_other", "oc_other", NOW, false)]).await;
    let full: [Arc<str>; 1] = ["oc_long".into()];
    assert_eq!(
        keys(&world.store.take_due(&bot(), room(&full, 8, 100)).await.unwrap()),
        ["om_other"]
    );
    assert_eq!(
        keys(&world.store.take_due(&bot(), room(&[], 2, 100)).await.unwrap()),
        ["om_0", "om_1"]
    );
    let unfinished = world.store.unfinished(&bot(), &[]).await.unwrap();
    assert_eq!(unfinished.held[&*full[0]].rows, 2998);
}

pub(super) async fn a_holding_row_that_is_not_due_keeps_later_ones_of_its_chat(world: World) {
    waiting(
        &world,
        &[
            ("om_1", "oc_strict", NOW, false),
            ("om_2", "oc_strict", HOUR, true),
            ("om_3", "oc_strict", NOW, true),
            ("om_4", "oc_relaxed", HOUR, false),
            ("om_5", "oc_relaxed", NOW, false),
        ],
    )
    .await;
    assert_eq!(keys(&world.take_due(10).await), ["om_1", "om_5"]);
    world.pass("events", "due_at", "om_2", HOUR).await;
    let rows = world.take_due(10).await;
    assert_eq!(keys(&rows), ["om_2", "om_3"]);
    assert!(rows.iter().all(|row| row.held));
}

pub(super) async fn a_parked_event_waits_and_is_taken_up_as_it_was(world: World) {
    let first = arrival("om_1", "oc_1", Intent::Park);
    assert!(matches!(
        world.begin(vec![first.clone()]).await[0],
        Begun::Settled { parked: true }
    ));
    assert!(
        is_settled(&world.begin(vec![arrival("om_1", "oc_1", Intent::Park)]).await[0]),
        "not parked by this call"
    );
    let row = world.take_due(1).await.remove(0);
    assert_eq!(row.envelope, first.envelope);
    assert!(row.held && row.plan.is_none() && !row.new);
    assert_eq!((row.handler_starts, row.attempt), (0, 0));
    // A row that is being worked on is not parked again by a second copy.
    let again = taken(world.begin(vec![arrival("om_1", "oc_1", Intent::Park)]).await.remove(0));
    assert_eq!(again.position, row.position);
}

pub(super) async fn a_due_row_with_a_plan_comes_back_with_its_actions(world: World) {
    let row = world.start("om_1").await;
    assert!(world.step(&row, plan(2)).await);
    let failure = Some(("transient", Some(99_991_663), "the token expired".to_owned()));
    let sent = vec![outcome(0, ActionState::Sent)];
    let step = Step::Wait(Wait {
        actions: sent,
        due_in: NOW,
        attempt: 4,
        hold: false,
        failure,
    });
    assert!(world.step(&row, step).await);
    let recorded = "SELECT count(*) FROM events WHERE last_class = 'transient' AND last_code = 99991663
                    AND last_error = 'the token expired' AND attempt = 4";
    assert_eq!(world.number(recorded).await, 1);
    let row = world.take_due(1).await.remove(0);
    assert_eq!(row.attempt, 4);
    assert!(row.plan.is_some() && !row.held);
    let states: Vec<_> = row.actions.iter().map(|action| action.state).collect();
    assert_eq!(states, [ActionState::Sent, ActionState::Planned]);
    assert_eq!(world.count(State::Planned).await, 1);
    assert!(
        world
            .step(&row, Step::Finish(vec![outcome(1, ActionState::Sent)]))
            .await
    );
}

pub(super) async fn two_workers_never_take_the_same_due_row(world: World) {
    let parked = (0..400).map(|number| arrival(&format!("om_{number}"), &format!("oc_{}", number % 7), Intent::Park));
    world.begin(parked.collect()).await;
    let workers: Vec<_> = [world.store.clone(), world.other(), world.other()]
        .into_iter()
        .map(|store: Arc<dyn Store>| {
            tokio::spawn(async move {
                let mut mine = Vec::new();
                loop {
                    let rows = store.take_due(&bot(), room(&[], 5, 20)).await.unwrap();
                    if rows.is_empty() {
                        return mine;
                    }
                    mine.extend(keys(&rows));
                }
            })
        })
        .collect();
    let mut taken = Vec::new();
    for worker in workers {
        taken.extend(worker.await.unwrap());
    }
    // One that found nothing lost a race for every row it wanted: what is left is still there for the next look.
    loop {
        let rest = world.take_due(100).await;
        if rest.is_empty() {
            break;
        }
        taken.extend(keys(&rest));
    }
    assert_eq!(taken.len(), 400);
    assert_eq!(taken.iter().collect::<HashSet<_>>().len(), 400);
}

pub(super) async fn unfinished_rows_come_in_order_with_raised_fences(world: World) {
    let batch = ["om_9", "om_1", "om_5", "om_3"]
        .map(|key| arrival(key, "oc_1", Intent::Hold))
        .to_vec();
    let rows: Vec<_> = world.begin(batch).await.into_iter().map(taken).collect();
    assert!(world.step(&rows[1], Step::Finish(Vec::new())).await);
    assert!(world.step(&rows[2], plan(1)).await);
    assert!(world.step(&rows[3], wait(HOUR, true)).await);
    waiting(
        &world,
        &[("om_free", "oc_1", HOUR, false), ("om_held", "oc_2", NOW, true)],
    )
    .await;
    let unfinished = world.store.unfinished(&bot(), &[]).await.unwrap();
    assert_eq!(keys(&unfinished.rows), ["om_9", "om_5"]);
    assert_eq!(unfinished.rows[1].actions.len(), 1);
    let held: HashSet<_> = unfinished
        .held
        .iter()
        .map(|(chat, count)| (chat.to_string(), count.rows))
        .collect();
    assert_eq!(held, HashSet::from([("oc_1".to_owned(), 1), ("oc_2".to_owned(), 1)]));
    assert_eq!(unfinished.held["oc_1"].first, Some(rows[3].position));
    assert!(!world.step(&rows[0], Step::Start).await, "the former owner has lost it");
    assert!(world.step(&unfinished.rows[0], Step::Start).await);
    let nobody = world.store.unfinished(&BotId::new("bot2").unwrap(), &[]).await.unwrap();
    assert!(nobody.rows.is_empty() && nobody.held.is_empty());
}

pub(super) async fn only_rows_long_past_their_time_are_overdue(world: World) {
    waiting(
        &world,
        &[
            ("om_1", "oc_1", NOW, false),
            ("om_2", "oc_1", NOW, false),
            ("om_3", "oc_1", HOUR, false),
        ],
    )
    .await;
    let patience = Duration::from_secs(300);
    assert!(world.store.overdue(patience).await.unwrap().is_empty());
    for name in ["om_1", "om_2"] {
        world.pass("events", "due_at", name, 2 * patience).await;
    }
    assert_eq!(world.store.overdue(patience).await.unwrap(), [(bot(), 2)]);
}
