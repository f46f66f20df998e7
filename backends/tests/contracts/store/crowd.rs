//! Many workers at once.

use std::sync::Arc;

use openclaw_common::store::{ActionState, Arrival, Begun, Change, Intent, Step, Store, StoreError};

use super::world::{World, arrival, change, outcome, plan, plan_of, taken};

const EVENTS: usize = 60;

/// Four workers take the same events from each other; none may hear of a deadlock.
pub(super) async fn opposed_batches_never_surface_a_deadlock(world: World) {
    let stores = [world.store.clone(), world.other(), world.other(), world.other()];
    let workers = stores.into_iter().enumerate().map(|(worker, store)| {
        tokio::spawn(async move {
            let bot = super::world::bot();
            for round in 0..12 {
                take_and_plan(store.as_ref(), worker % 2 == 1, round * 7 + worker * 13).await;
                undisturbed(|| store.unfinished(&bot, &[])).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    // With few connections to share each worker may lose its events before it plans them: now nobody takes them.
    take_and_plan(world.store.as_ref(), false, 0).await;
    assert_eq!(
        world.number("SELECT count(*) FROM actions").await,
        EVENTS as i64,
        "each plan was written once"
    );
    assert_eq!(
        world
            .number("SELECT count(*) FROM events WHERE state = 'planned'")
            .await,
        EVENTS as i64
    );
}

/// Takes every event up, and plans those that have no plan.
async fn take_and_plan(store: &dyn Store, reversed: bool, first: usize) {
    let mut batch: Vec<Arrival> = (0..EVENTS)
        .map(|number| arrival(&format!("om_{number}"), "oc_1", Intent::Start))
        .collect();
    if reversed {
        batch.reverse();
    }
    batch.rotate_left(first % EVENTS);
    let begun = undisturbed(|| store.begin(&batch)).await;
    let changes: Vec<Change> = begun
        .iter()
        .filter_map(|begun| match begun {
            Begun::Taken(row) => Some(row),
            Begun::Ours | Begun::Settled { .. } => None,
        })
        .map(|row| {
            let planned = row.plan.is_some();
            change(row, if planned { Step::Try { index: 0 } } else { plan(1) })
        })
        .collect();
    undisturbed(|| store.apply(&changes)).await;
}

/// Repeats what a database that is busy elsewhere had no time for, as every caller does. A deadlock is no such thing.
async fn undisturbed<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..20 {
        match call().await {
            Ok(value) => return value,
            Err(StoreError::Unavailable(reason)) if !reason.contains("40P01") => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the database had no time twenty times");
}

pub(super) async fn whoever_takes_up_a_plan_sees_its_actions(world: World) {
    let other = world.other();
    for round in 0..40 {
        let names: Vec<String> = (0..20).map(|number| format!("om_{round}_{number}")).collect();
        let batch: Vec<Arrival> = names.iter().map(|name| arrival(name, "oc_1", Intent::Start)).collect();
        let rows: Vec<_> = world.begin(batch.clone()).await.into_iter().map(taken).collect();
        let plans: Vec<Change> = rows.iter().map(|row| change(row, plan(2))).collect();
        // The second worker waits for the first one's commit and must see all of it.
        let (planned, begun) = tokio::join!(world.store.apply(&plans), other.begin(&batch));
        let planned = planned.unwrap();
        for (begun, planned) in begun.unwrap().into_iter().zip(planned) {
            let row = taken(begun);
            assert_eq!(
                row.plan.is_some(),
                planned,
                "either the plan came first or the fence did"
            );
            assert_eq!(row.actions.len(), if planned { 2 } else { 0 });
        }
    }
}

pub(super) async fn of_many_that_begin_an_event_one_holds_the_last_fence(world: World) {
    let stores: Vec<Arc<dyn Store>> = vec![world.store.clone(), world.other(), world.other(), world.other()];
    let mut copies = Vec::new();
    for number in 0..40_usize {
        let store = Arc::clone(&stores[number % stores.len()]);
        copies.push(tokio::spawn(async move {
            let row = taken(
                store
                    .begin(&[arrival("om_1", "oc_1", Intent::Start)])
                    .await
                    .unwrap()
                    .remove(0),
            );
            let planned = store.apply(&[change(&row, plan_of(&[number as u8], 1))]).await.unwrap()[0];
            (row, planned)
        }));
    }
    let mut rows = Vec::new();
    let mut plans = 0;
    for copy in copies {
        let (row, planned) = copy.await.unwrap();
        plans += i32::from(planned);
        rows.push(row);
    }
    assert_eq!(rows.iter().filter(|row| row.new).count(), 1);
    rows.sort_by_key(|row| row.fence);
    assert!(
        rows.iter().map(|row| row.fence).eq(1..=40),
        "every copy was given a fence of its own"
    );
    assert!(plans <= 1, "at most one of them wrote the plan");
    let last = rows.pop().unwrap();
    for row in &rows {
        assert!(!world.step(row, Step::Finish(vec![outcome(0, ActionState::Sent)])).await);
    }
    assert!(
        world
            .step(&last, Step::Finish(vec![outcome(0, ActionState::Sent)]))
            .await
    );
}
