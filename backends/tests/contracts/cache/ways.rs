//! Several ways to send, as a pool has them: the earliest slot of all, none wasted, nothing over a limit. In paused time.

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_common::cache::Level;
use openclaw_common::priority::Priority;
use openclaw_common::quota::{HORIZON, QUIET, Quota, Refused, Urgency};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::level;
use super::rolling::Platform;
use super::sending::lane;

fn answer() -> Urgency {
    Urgency::new(Priority::Answer)
}

/// What a send to `chat` counts against, by each of three bots.
fn ways(chat: &str) -> Vec<Vec<Level>> {
    (0..3)
        .map(|bot| vec![level(&format!("b:{bot}"), 5, 1), level(chat, 5, 1)])
        .collect()
}

/// A lane of a pool with endless messages.
async fn pool_lane(quota: Arc<Quota>, chat: String, platform: Arc<Platform>, until: Instant) {
    let (cancel, ways) = (CancellationToken::new(), ways(&chat));
    for turn in 0.. {
        let send = async {
            let reserved = quota
                .reserve(&ways, turn % ways.len(), &answer(), &cancel)
                .await
                .unwrap();
            let levels = ways[reserved.way].clone();
            (quota.redeem(&levels, reserved, &cancel).await.unwrap(), levels)
        };
        match timeout_at(until, send).await {
            Ok((Some(_), levels)) => platform.receive(&levels, Instant::now()),
            Ok((None, _)) => {}
            Err(_) => return,
        }
    }
}

async fn quiet() -> (Arc<Quota>, Arc<Platform>) {
    let quota = Arc::new(Quota::new(Arc::new(Memory::new()), 4, HORIZON));
    sleep(QUIET + HORIZON).await;
    (quota, Arc::new(Platform::default()))
}

#[tokio::test(start_paused = true)]
async fn three_bots_carry_three_times_the_traffic() {
    let (quota, platform) = quiet().await;
    let (from, until) = (Instant::now(), Instant::now() + Duration::from_secs(60));
    let mut lanes = JoinSet::new();
    for chat in 0..60 {
        lanes.spawn(pool_lane(quota.clone(), format!("c:{chat}"), platform.clone(), until));
    }
    lanes.join_all().await;
    let sent: Vec<usize> = (0..3)
        .map(|bot| platform.count(&format!("b:{bot}"), from, until))
        .collect();
    for bot in 0..3 {
        assert_eq!(platform.most_in_a_second(&format!("b:{bot}")), 5);
    }
    assert!(sent.iter().all(|sent| *sent >= 291), "{sent:?} of 300 each");
    let questions = quota.asked() as f64 / sent.iter().sum::<usize>() as f64;
    assert!(questions < 4.0, "{questions:.2} questions a send");
    assert_eq!(quota.waiting(), 0, "nobody is left in a line");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_busy_by_itself_wastes_no_slot_of_the_others() {
    let (quota, platform) = quiet().await;
    let (from, until) = (Instant::now(), Instant::now() + Duration::from_secs(60));
    let mut lanes = JoinSet::new();
    for chat in 0..20 {
        lanes.spawn(pool_lane(quota.clone(), format!("c:{chat}"), platform.clone(), until));
        let own = vec![level("b:0", 5, 1), level(&format!("c:own{chat}"), 5, 1)];
        lanes.spawn(lane(quota.clone(), own, platform.clone(), until));
    }
    lanes.join_all().await;
    for bot in 0..3 {
        let key = format!("b:{bot}");
        assert_eq!(platform.most_in_a_second(&key), 5);
        let sent = platform.count(&key, from, until);
        assert!(sent >= 291, "{key}: {sent} of 300");
    }
}

#[tokio::test(start_paused = true)]
async fn one_chat_keeps_its_own_limit() {
    let (quota, platform) = quiet().await;
    let (from, until) = (Instant::now(), Instant::now() + Duration::from_secs(30));
    let mut lanes = JoinSet::new();
    for _ in 0..6 {
        lanes.spawn(pool_lane(quota.clone(), "c:1".to_owned(), platform.clone(), until));
    }
    lanes.join_all().await;
    assert_eq!(platform.most_in_a_second("c:1"), 5);
    assert!(platform.count("c:1", from, until) >= 142);
}

#[tokio::test(start_paused = true)]
async fn who_is_cancelled_holds_no_place_in_any_line() {
    let (quota, platform) = quiet().await;
    let cancel = CancellationToken::new();
    for bot in 0..3 {
        quota.pause(&format!("b:{bot}"), Duration::from_secs(30)).await;
    }
    let until = Instant::now() + Duration::from_secs(5);
    let mut lanes = JoinSet::new();
    for chat in 0..10 {
        lanes.spawn(pool_lane(quota.clone(), format!("c:{chat}"), platform.clone(), until));
    }
    sleep(Duration::from_secs(1)).await;
    let stopping = cancel.clone();
    let (refused, ()) = tokio::join!(
        async {
            quota
                .reserve(&ways("c:late"), 0, &answer(), &cancel)
                .await
                .map(|reserved| reserved.way)
        },
        async {
            sleep(Duration::from_millis(10)).await;
            stopping.cancel();
        }
    );
    assert_eq!(refused.unwrap_err(), Refused::Cancelled);
    assert_eq!(
        quota.waiting(),
        30,
        "ten lanes wait for three bots each, and nobody else"
    );
    lanes.join_all().await;
    assert_eq!(quota.waiting(), 0);
}
