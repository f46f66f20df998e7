//! A bot with very many waiting rows.

use std::time::{Duration, Instant};

use openclaw_common::store::Intent;

use super::world::{World, arrival, bot, room};

const ROWS: usize = 20_000;

/// Fifty times what it takes: walking over all that waits took seconds.
const PATIENCE: Duration = Duration::from_millis(500);

async fn park(world: &World, chat: impl Fn(usize) -> String) {
    for page in 0..ROWS / 500 {
        let rows =
            (page * 500..page * 500 + 500).map(|number| arrival(&format!("om_{number}"), &chat(number), Intent::Park));
        world.begin(rows.collect()).await;
    }
}

/// The fastest of three looks, so that a busy machine is not blamed on the statement.
async fn is_quick<T>(look: impl AsyncFn() -> T) -> T {
    let mut answers = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = look().await;
        answers.push((begun.elapsed(), answer));
    }
    answers.sort_by_key(|(took, _)| *took);
    let (took, answer) = answers.remove(0);
    assert!(took < PATIENCE, "took {took:?}");
    answer
}

pub(super) async fn many_waiting_chats_cost_no_more_than_the_rows_that_are_taken(world: World) {
    park(&world, |number| format!("oc_{number}")).await;
    assert_eq!(is_quick(async || world.take_due(64).await).await.len(), 64);
    assert_eq!(
        is_quick(async || world.store.next_due(&[bot()]).await.unwrap())
            .await
            .len(),
        1
    );
    let waiting = is_quick(async || world.store.waiting(&[bot()]).await.unwrap()).await;
    assert_eq!(waiting[&bot()], ROWS as u64 - 3 * 64);
}

pub(super) async fn one_chat_with_very_many_rows_costs_no_more_than_the_rows_that_are_taken(world: World) {
    park(&world, |_| "oc_one".to_owned()).await;
    let take = async || world.store.take_due(&bot(), room(&[], 4, 64)).await.unwrap();
    assert_eq!(is_quick(take).await.len(), 4);
    let full = ["oc_one".into()];
    let none = is_quick(async || world.store.take_due(&bot(), room(&full, 4, 64)).await.unwrap()).await;
    assert!(none.is_empty());
}
