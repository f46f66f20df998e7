//! Ownership: who may change an event, and what a repeated call does.

use std::time::Duration;

use openclaw_common::store::{ActionState, DeadFilter, Intent, State, Step};

use super::world::{HOUR, World, arrival, change, die, is_settled, outcome, plan, plan_of, taken, wait};

/// Every step there is, for an event of one action.
fn every_step() -> Vec<Step> {
    vec![
        Step::Start,
        plan(1),
        Step::Try { index: 0 },
        Step::Progress(vec![outcome(0, ActionState::Sent)]),
        Step::Finish(vec![outcome(0, ActionState::Sent)]),
        wait(HOUR, true),
        die(vec![outcome(0, ActionState::Refused)]),
    ]
}

/// All that is stored of the only event and its action, as one number: it changes when anything does.
async fn fingerprint(world: &World) -> [i64; 4] {
    [
        world
            .number(
                "SELECT fence * 1000000 + handler_starts * 10000 + attempt * 100 + length(state) * 10
                        + (CASE WHEN plan IS NULL THEN 0 ELSE 1 END) FROM events WHERE key = 'om_1'",
            )
            .await,
        world.number("SELECT count(*) FROM actions").await,
        world
            .number("SELECT coalesce(sum(tries * 100 + length(state)), 0) FROM actions")
            .await,
        world.number("SELECT count(*) FROM dead_letters").await,
    ]
}

pub(super) async fn of_two_owners_only_the_later_one_can_change_anything(world: World) {
    let old = world.start("om_1").await;
    let new = taken(
        world
            .begin(vec![arrival("om_1", "oc_1", Intent::Start)])
            .await
            .remove(0),
    );
    assert!(!new.new && new.fence > old.fence);
    for planned in [false, true] {
        if planned {
            assert!(world.step(&new, plan(1)).await);
        }
        let before = fingerprint(&world).await;
        for step in every_step() {
            assert!(!world.step(&old, step.clone()).await, "{step:?} under an old fence");
        }
        assert_eq!(fingerprint(&world).await, before);
    }
    assert!(
        world
            .step(&new, Step::Finish(vec![outcome(0, ActionState::Sent)]))
            .await
    );
    // One good change in a batch is not harmed by a bad one beside it.
    let good = world.start("om_2").await;
    let batch = [
        change(&old, plan(1)),
        change(&good, plan(1)),
        change(&old, Step::Finish(Vec::new())),
    ];
    assert_eq!(world.store.apply(&batch).await.unwrap(), [false, true, false]);
}

pub(super) async fn finished_waiting_and_dead_events_are_settled(world: World) {
    let done = world.start("om_done").await;
    assert!(world.step(&done, Step::Finish(Vec::new())).await);
    let waiting = world.start("om_waiting").await;
    assert!(world.step(&waiting, wait(HOUR, false)).await);
    let dead = world.start("om_dead").await;
    assert!(world.step(&dead, die(Vec::new())).await);
    for name in ["om_done", "om_waiting", "om_dead"] {
        for intent in [Intent::Start, Intent::Hold, Intent::Park] {
            assert!(
                is_settled(&world.begin(vec![arrival(name, "oc_1", intent)]).await[0]),
                "{name} {intent:?}"
            );
        }
    }
    for row in [&done, &waiting, &dead] {
        assert!(!world.step(row, Step::Start).await);
    }
    assert_eq!(world.number("SELECT max(fence) FROM events").await, 1);
}

pub(super) async fn a_step_that_does_not_fit_the_state_changes_nothing(world: World) {
    let row = world.start("om_1").await;
    let before = fingerprint(&world).await;
    for step in [
        Step::Try { index: 0 },
        Step::Progress(vec![outcome(0, ActionState::Sent)]),
    ] {
        assert!(!world.step(&row, step).await, "there is no plan yet");
    }
    assert_eq!(fingerprint(&world).await, before);
    assert!(world.step(&row, plan(1)).await);
    let before = fingerprint(&world).await;
    assert!(!world.step(&row, Step::Start).await, "the handler has run");
    assert_eq!(fingerprint(&world).await, before);
}

pub(super) async fn changes_of_one_event_in_one_batch_are_applied_in_order(world: World) {
    let row = taken(world.begin(vec![arrival("om_1", "oc_1", Intent::Hold)]).await.remove(0));
    let other = world.start("om_2").await;
    let batch = [
        change(&row, Step::Start),
        change(&row, plan(2)),
        change(&other, plan(1)),
        change(&row, Step::Progress(vec![outcome(0, ActionState::Sent)])),
        change(&row, Step::Try { index: 1 }),
        change(&row, Step::Finish(vec![outcome(1, ActionState::Sent)])),
        change(&row, Step::Start),
    ];
    assert_eq!(
        world.store.apply(&batch).await.unwrap(),
        [true, true, true, true, true, true, false]
    );
    assert_eq!(
        (world.count(State::Done).await, world.count(State::Planned).await),
        (1, 1)
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM actions WHERE state = 'sent' AND tries = 1")
            .await,
        2
    );
    assert!(world.store.apply(&[]).await.unwrap().is_empty());
    assert!(world.store.begin(&[]).await.unwrap().is_empty());
}

pub(super) async fn a_change_whose_answer_was_lost_counts_as_applied_when_repeated(world: World) {
    let ends: [fn() -> Step; 3] = [
        || Step::Finish(vec![outcome(0, ActionState::Sent)]),
        || wait(Duration::ZERO, false),
        || die(vec![outcome(0, ActionState::Refused)]),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let row = world.start(&format!("om_{number}")).await;
        for step in [plan(1), end()] {
            assert!(world.step(&row, step.clone()).await);
            let again = world.step(&row, step.clone()).await;
            assert!(again, "{step:?} repeated by its own owner");
            if number == 0 && matches!(step, Step::Plan { .. }) {
                let another = plan_of(b"another plan", 1);
                assert!(!world.step(&row, another).await, "it has a plan already");
            }
        }
    }
    assert_eq!(world.number("SELECT count(*) FROM actions").await, 3);
    assert_eq!(world.number("SELECT count(*) FROM actions WHERE tries <> 1").await, 0);
    assert_eq!(
        world
            .store
            .dead_letters(&DeadFilter::default(), 10)
            .await
            .unwrap()
            .len(),
        1
    );
    // Somebody else has taken the waiting one up since: then it is lost.
    let old = world.take_due(1).await.remove(0);
    assert!(world.step(&old, wait(Duration::ZERO, false)).await);
    let new = world.take_due(1).await.remove(0);
    assert!(!world.step(&old, wait(Duration::ZERO, false)).await);
    assert!(world.step(&new, Step::Finish(Vec::new())).await);
}
