//! The explorations.

use std::time::{Duration, Instant};

use openclaw_common::config::{Message, OnStale, OnUnknown, RetryPolicy};

use super::Flaw;
use super::choices::Choices;
use super::play::moves::Scope;
use super::play::{Bounds, Broken, Play};
use super::stage::Stage;
use super::tables::Tables;

/// Plays by chance.
const WILD: Bounds = Bounds {
    events: 2,
    actions: 2,
    moves: 60,
    mischief: 7,
    extras: 2,
    scope: Scope::Everything,
};

#[expect(
    clippy::disallowed_methods,
    reason = "how much is explored, not how the product is set up"
)]
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The policies under which a bot may run: retries in the lane or in the waiting room, and what to do about the unknown.
fn policy(number: u64) -> Message {
    let on_unknown = [OnUnknown::Park, OnUnknown::Resend, OnUnknown::Drop];
    // The second retry comes at once, or a quarter of an hour later out of the waiting room.
    let growth = [1.0, 900_000.0];
    let stale = [OnStale::DeadLetter, OnStale::Drop, OnStale::Reply];
    let pick = |number: u64, of: usize| usize::try_from(number).unwrap() % of;
    let mut message = Message {
        on_unknown: on_unknown[pick(number, 3)],
        retry: RetryPolicy {
            max_attempts: 3,
            backoff: Duration::from_millis(1),
            multiplier: growth[pick(number / 3, 2)],
            max_backoff: Duration::from_secs(15 * 60),
        },
        max_age: Duration::from_secs(100 * 24 * 3600),
        ..Message::default()
    };
    if number / 6 % 4 == 3 {
        message.max_age = Duration::from_secs(1800);
        message.on_stale = stale[pick(number / 24, 3)];
    }
    message
}

async fn by_chance(stage: &mut Stage, seed: u64, scope: Scope) -> Result<Vec<String>, Broken> {
    let mut choices = Choices::seeded(seed);
    // Every other play is about one event, which then gets all of the mischief.
    let events = if seed.is_multiple_of(2) { 2 } else { 1 };
    let bounds = Bounds { events, scope, ..WILD };
    Play::new(stage, &mut choices, bounds, policy(seed / 2), None)
        .play()
        .await
}

fn fail(what: &str, broken: &Broken) -> ! {
    panic!("{what}: {}\n{}", broken.promise, broken.story.join("\n"))
}

/// One event, one action: small enough to try everything.
const SMALL: Bounds = Bounds {
    events: 1,
    actions: 1,
    moves: 60,
    mischief: 1,
    extras: 1,
    scope: Scope::Certain,
};

/// Walks every play within `bounds`. Answers how many there were and how often one strayed, or the first that breaks a promise.
async fn every_play(
    stage: &mut Stage,
    bounds: Bounds,
    message: &Message,
    flaw: Option<Flaw>,
) -> Result<(u64, u64), Broken> {
    let (mut plays, mut strayed) = (0, 0);
    let mut next = Some(Choices::first());
    while let Some(mut choices) = next {
        Play::new(stage, &mut choices, bounds, message.clone(), flaw)
            .play()
            .await?;
        plays += 1;
        strayed = choices.strayed();
        next = choices.next();
    }
    Ok((plays, strayed))
}

#[tokio::test]
async fn neither_promise_breaks_in_plays_by_chance() {
    let mut stage = Stage::new(Tables::sqlite().await).await;
    let (first, plays) = (number("MODEL_SEED", 0), number("MODEL_PLAYS", 400));
    let begun = Instant::now();
    let mut moves = 0;
    for seed in first..first + plays {
        match by_chance(&mut stage, seed, Scope::Everything).await {
            Ok(story) => moves += story.len(),
            Err(broken) => fail(&format!("seed {seed}"), &broken),
        }
    }
    eprintln!("{plays} plays, {moves} lines, {:?}", begun.elapsed());
}

#[tokio::test]
async fn neither_promise_breaks_in_any_small_play() {
    let mut stage = Stage::new(Tables::sqlite().await).await;
    let bounds = Bounds {
        mischief: usize::try_from(number("MODEL_MISCHIEF", 1)).unwrap(),
        ..SMALL
    };
    for policy_number in 0..6 {
        let begun = Instant::now();
        match every_play(&mut stage, bounds, &policy(policy_number), None).await {
            Ok((plays, strayed)) => {
                let took = begun.elapsed();
                eprintln!("policy {policy_number}: {plays} plays, {strayed} strayed, {took:?}");
                assert!(strayed == 0 || bounds.mischief > 1, "not every play was played");
            }
            Err(broken) => fail(&format!("policy {policy_number}"), &broken),
        }
    }
}

/// The shortest way in which a flaw breaks a promise.
async fn found(flaw: Flaw) -> Broken {
    let mut stage = Stage::new(Tables::sqlite().await).await;
    for mischief in 1..=2 {
        let bounds = Bounds { mischief, ..SMALL };
        if let Err(broken) = every_play(&mut stage, bounds, &policy(0), Some(flaw)).await {
            eprintln!("{}\n{}", broken.promise, broken.story.join("\n"));
            return broken;
        }
    }
    panic!("{flaw:?} was not found");
}

#[tokio::test]
async fn an_acknowledgement_before_the_row_is_found_to_lose_the_event() {
    let broken = found(Flaw::AckFirst).await;
    assert!(broken.promise.starts_with("L:"), "{broken:?}");
}

#[tokio::test]
async fn a_plan_after_the_send_is_found_to_double_the_message() {
    let broken = found(Flaw::PlanAfterSend).await;
    assert!(broken.promise.starts_with("D:"), "{broken:?}");
}

#[tokio::test]
async fn a_uuid_that_is_not_the_actions_own_is_found_to_double_the_message() {
    let broken = found(Flaw::UuidPerRun).await;
    assert!(broken.promise.starts_with("D:"), "{broken:?}");
}

#[tokio::test]
async fn a_repeat_after_the_uuids_hour_is_found_to_double_the_message() {
    let broken = found(Flaw::NoHour).await;
    assert!(broken.promise.starts_with("D:"), "{broken:?}");
}

/// Two owners of one event, and nothing to tell them apart but the states: one is limited, says so, and thereby says that
/// no copy exists; the other's message is there. An hour later it is sent again.
#[tokio::test]
async fn a_missing_fence_is_found_to_double_the_message() {
    let mut stage = Stage::new(Tables::sqlite().await).await;
    let bounds = Bounds {
        mischief: 6,
        scope: Scope::TwoOwners,
        ..SMALL
    };
    for seed in 0..1500 {
        let mut choices = Choices::seeded(seed);
        let play = Play::new(&mut stage, &mut choices, bounds, policy(0), Some(Flaw::NoFence));
        if let Err(broken) = play.play().await {
            eprintln!("seed {seed}: {}\n{}", broken.promise, broken.story.join("\n"));
            assert!(broken.promise.starts_with("D:"), "{broken:?}");
            return;
        }
    }
    panic!("nobody missed the fence");
}

/// The two databases give the same plays the same course, move by move.
#[tokio::test]
async fn both_databases_play_alike() {
    let mut here = Stage::new(Tables::sqlite().await).await;
    let mut there = Stage::new(Tables::postgres().await).await;
    let (first, plays) = (number("MODEL_SEED", 1_000_000), number("MODEL_PLAYS", 60));
    for seed in first..first + plays {
        let [here, there] = [
            by_chance(&mut here, seed, Scope::Certain).await,
            by_chance(&mut there, seed, Scope::Certain).await,
        ]
        .map(|end| end.unwrap_or_else(|broken| fail(&format!("seed {seed}"), &broken)));
        assert_eq!(here, there, "seed {seed}");
    }
}
