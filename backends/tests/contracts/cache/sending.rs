//! Many senders behind [`Quota`]: nothing over a limit, nearly all of it used, few questions. In paused time, over memory.

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_common::cache::{Cache, Level};
use openclaw_common::quota::{HORIZON, QUIET, Quota, Refused};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::level;
use super::rolling::Platform;

/// A lane with endless messages.
pub(super) async fn lane(quota: Arc<Quota>, levels: Vec<Level>, platform: Arc<Platform>, until: Instant) {
    let cancel = CancellationToken::new();
    while Instant::now() < until {
        if let Ok(Ok(permit)) = tokio::time::timeout_at(until, quota.acquire(&levels, &cancel)).await {
            // Read first: between the check and a later look this thread may be stopped for long.
            let sent = Instant::now();
            if permit.in_time() {
                platform.receive(&levels, sent);
            }
        }
    }
}

/// A cache that has been quiet long enough.
async fn awake() -> Arc<Memory> {
    let cache = Arc::new(Memory::new());
    sleep(QUIET + HORIZON).await;
    cache
}

fn bot_and_chat(bot: &str, chat: &str) -> Vec<Level> {
    vec![level(bot, 5, 1), level(chat, 5, 1)]
}

#[tokio::test(start_paused = true)]
async fn eight_bots_share_a_chat_and_all_limits_are_used() {
    let cache = awake().await;
    let platform = Arc::new(Platform::default());
    let (from, until) = (
        Instant::now() + Duration::from_secs(5),
        Instant::now() + Duration::from_secs(65),
    );
    let workers: Vec<Arc<Quota>> = (0..4)
        .map(|_| Arc::new(Quota::new(cache.clone(), 4, HORIZON)))
        .collect();
    let mut lanes = JoinSet::new();
    for bot in 0..8 {
        let name = format!("b:{bot}");
        for chat in ["c:shared".to_owned(), format!("c:{bot}-1"), format!("c:{bot}-2")] {
            let quota = workers[bot % 4].clone();
            lanes.spawn(lane(quota, bot_and_chat(&name, &chat), platform.clone(), until));
        }
    }
    lanes.join_all().await;
    let used = |key: &str| platform.count(key, from, until) as f64 / 300.0;
    assert_eq!(platform.most_in_a_second("c:shared"), 5);
    assert!(used("c:shared") >= 0.95, "shared chat: {:.4}", used("c:shared"));
    for bot in 0..8 {
        let name = format!("b:{bot}");
        assert_eq!(platform.most_in_a_second(&name), 5, "{name}");
        assert!(used(&name) >= 0.97, "{name}: {:.4}", used(&name));
    }
}

#[tokio::test(start_paused = true)]
async fn two_hundred_lanes_of_a_full_bot_ask_few_questions_and_all_get_their_turn() {
    let cache = awake().await;
    let platform = Arc::new(Platform::default());
    let quota = Arc::new(Quota::new(cache, 4, HORIZON));
    let (from, until) = (Instant::now(), Instant::now() + Duration::from_secs(120));
    let mut lanes = JoinSet::new();
    for chat in 0..200 {
        let levels = bot_and_chat("b:1", &format!("c:{chat}"));
        lanes.spawn(lane(quota.clone(), levels, platform.clone(), until));
    }
    lanes.join_all().await;
    let sent = platform.count("b:1", from, until);
    assert!(sent >= 582, "{sent} of 600");
    let questions = quota.asked() as f64 / sent as f64;
    assert!(questions < 2.5, "{questions:.2} questions a send");
    for chat in 0..200 {
        // The first second's burst went to whoever came first.
        let turns = platform.count(&format!("c:{chat}"), from + Duration::from_secs(1), until);
        assert!((2..=3).contains(&turns), "chat {chat} had {turns} turns");
    }
    assert_eq!(quota.waiting(), 0, "nobody is left in a line");
}

#[tokio::test(start_paused = true)]
async fn a_paused_chat_holds_up_no_other() {
    let cache = awake().await;
    let platform = Arc::new(Platform::default());
    let quota = Arc::new(Quota::new(cache, 4, HORIZON));
    quota.pause("c:1", Duration::from_secs(30)).await;
    let (from, until) = (Instant::now(), Instant::now() + Duration::from_secs(20));
    let mut lanes = JoinSet::new();
    for chat in 1..=2 {
        let levels = bot_and_chat("b:1", &format!("c:{chat}"));
        lanes.spawn(lane(quota.clone(), levels, platform.clone(), until));
    }
    lanes.join_all().await;
    assert_eq!(platform.count("c:1", from, until), 0);
    assert!(platform.count("c:2", from, until) >= 97);
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_wakes_late_takes_another_slot() {
    let cache = awake().await;
    let quota = Arc::new(Quota::new(cache.clone(), 4, HORIZON));
    let levels = bot_and_chat("b:1", "c:1");
    let cancel = CancellationToken::new();
    for _ in 0..5 {
        quota.acquire(&levels, &cancel).await.unwrap();
    }
    let waiting = tokio::spawn({
        let (quota, levels, cancel) = (quota.clone(), levels.clone(), cancel.clone());
        async move { quota.acquire(&levels, &cancel).await.unwrap() }
    });
    // Nothing runs while the clock jumps over the reserved slot: the process was frozen.
    sleep(Duration::from_millis(950)).await;
    let frozen = Instant::now();
    tokio::time::advance(Duration::from_secs(5)).await;
    let permit = waiting.await.unwrap();
    assert!(permit.in_time() && Instant::now() >= frozen + Duration::from_secs(5));
    assert_eq!(quota.missed(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_was_missed_costs_its_level_nothing() {
    let cache = awake().await;
    let quota = Arc::new(Quota::new(cache.clone(), 4, HORIZON));
    let levels = vec![level("b:1", 1, 1)];
    let cancel = CancellationToken::new();
    quota.acquire(&levels, &cancel).await.unwrap();
    let first = Instant::now();
    let waiting = tokio::spawn({
        let (quota, levels, cancel) = (quota.clone(), levels.clone(), cancel.clone());
        async move { quota.acquire(&levels, &cancel).await.unwrap() }
    });
    // The slot is at 1,025 ms and good for 15: a busy machine wakes its sender at 1,050.
    sleep_until(first + Duration::from_millis(1020)).await;
    tokio::time::advance(Duration::from_millis(30)).await;
    waiting.await.unwrap();
    let next = Instant::now() - first;
    assert_eq!(quota.missed(), 1);
    assert!(
        next < Duration::from_millis(1060),
        "the missed slot was counted as a send: {next:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn cancelling_returns_the_reserved_slot_and_leaves_the_line() {
    let cache = awake().await;
    let quota = Arc::new(Quota::new(cache.clone(), 4, HORIZON));
    let levels = vec![level("b:1", 1, 1)];
    let cancel = CancellationToken::new();
    quota.acquire(&levels, &cancel).await.unwrap();
    let first = Instant::now();
    let waiting = tokio::spawn({
        let (quota, levels, cancel) = (quota.clone(), levels.clone(), cancel.clone());
        async move { quota.acquire(&levels, &cancel).await }
    });
    sleep_until(first + Duration::from_millis(1000)).await;
    cancel.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err(), Refused::Cancelled);
    quota.acquire(&levels, &CancellationToken::new()).await.unwrap();
    let next = Instant::now() - first;
    assert!(
        next < Duration::from_millis(1040),
        "the slot at 1025 ms was lost: {next:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_given_back_goes_to_whoever_waits_in_the_line() {
    let cache = awake().await;
    let quota = Arc::new(Quota::new(cache.clone(), 4, HORIZON));
    let levels = vec![level("b:1", 1, 1)];
    let leaving = CancellationToken::new();
    let wait = |cancel: CancellationToken| {
        let (quota, levels) = (quota.clone(), levels.clone());
        tokio::spawn(async move { quota.acquire(&levels, &cancel).await })
    };
    quota.acquire(&levels, &leaving).await.unwrap();
    let first = Instant::now();
    let leaves = wait(leaving.clone());
    let stays = wait(CancellationToken::new());
    // Both have asked: one holds the slot at 1,025 ms, the other was told to come again at 1,900.
    sleep_until(first + Duration::from_millis(1000)).await;
    leaving.cancel();
    assert_eq!(leaves.await.unwrap().unwrap_err(), Refused::Cancelled);
    stays.await.unwrap().unwrap();
    let next = Instant::now() - first;
    assert!(
        next < Duration::from_millis(1040),
        "the slot at 1,025 ms was lost: {next:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_minutes_is_not_waited_for_in_memory() {
    let cache = awake().await;
    let quota = Quota::new(cache, 4, HORIZON);
    quota.pause("b:1", Duration::from_secs(3600)).await;
    let refused = quota
        .acquire(&bot_and_chat("b:1", "c:1"), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(
        matches!(refused, Refused::Park(wait) if wait > Duration::from_secs(3500)),
        "{refused:?}"
    );
    assert_eq!(quota.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn without_levels_nobody_waits() {
    let quota = Quota::new(Arc::new(Memory::new()), 4, HORIZON);
    let permit = quota.acquire(&[], &CancellationToken::new()).await.unwrap();
    assert_eq!(permit.waited, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_memory_stays_bounded() {
    let cache = awake().await;
    for number in 0..300_000 {
        let key = openclaw_common::envelope::EventKey::new("app", number.to_string());
        cache.finish(&[(key, Duration::from_secs(600))]).await.unwrap();
    }
    assert!(cache.sizes()["marks"] <= 262_144);
    sleep(Duration::from_secs(601)).await;
    let key = openclaw_common::envelope::EventKey::new("app", "another");
    cache.finish(&[(key, Duration::from_secs(600))]).await.unwrap();
    assert_eq!(cache.sizes()["marks"], 1);
    timeout(Duration::from_secs(1), cache.ping()).await.unwrap().unwrap();
}
