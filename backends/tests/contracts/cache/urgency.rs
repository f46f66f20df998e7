//! Who goes first among those who wait behind [`Quota`]. In paused time, over memory.

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_common::cache::Level;
use openclaw_common::priority::Priority;
use openclaw_common::quota::{HORIZON, QUIET, Quota, Urgency};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::level;

/// Senders of one bot, and the order in which they got their permits.
struct Senders {
    quota: Arc<Quota>,
    permits: mpsc::UnboundedSender<String>,
    order: mpsc::UnboundedReceiver<String>,
}

impl Senders {
    /// Of a bot that has just used up its quota of one a second.
    async fn new() -> Self {
        let cache = Arc::new(Memory::new());
        sleep(QUIET + HORIZON).await;
        let (permits, order) = mpsc::unbounded_channel();
        let senders = Self {
            quota: Arc::new(Quota::new(cache, 4, HORIZON)),
            permits,
            order,
        };
        let cancel = CancellationToken::new();
        senders.quota.acquire(&levels("c:used"), &cancel).await.unwrap();
        senders
    }

    async fn come(&self, name: &str, chat: &str, priority: Priority) -> Urgency {
        let urgency = Urgency::new(priority);
        let (quota, permits, levels) = (self.quota.clone(), self.permits.clone(), levels(chat));
        let (name, own) = (name.to_owned(), urgency.clone());
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            quota.acquire_as(&levels, &own, &cancel).await.unwrap();
            permits.send(name).unwrap();
        });
        sleep(Duration::from_millis(1)).await;
        urgency
    }

    async fn order(mut self, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            names.push(self.order.recv().await.unwrap());
        }
        names
    }
}

fn levels(chat: &str) -> Vec<Level> {
    vec![level("b:1", 1, 1), level(chat, 5, 1)]
}

#[tokio::test(start_paused = true)]
async fn quota_goes_to_answers_then_notifications_then_replays() {
    let senders = Senders::new().await;
    senders.come("replay", "c:1", Priority::Replay).await;
    senders.come("notification", "c:2", Priority::Notification).await;
    senders.come("first answer", "c:3", Priority::Answer).await;
    senders.come("second answer", "c:4", Priority::Answer).await;
    let order = senders.order(4).await;
    assert_eq!(order, ["first answer", "second answer", "notification", "replay"]);
}

#[tokio::test(start_paused = true)]
async fn quota_goes_to_a_notification_for_which_an_answer_waits() {
    let senders = Senders::new().await;
    senders.come("first", "c:1", Priority::Notification).await;
    let second = senders.come("second", "c:2", Priority::Notification).await;
    senders.come("third", "c:3", Priority::Answer).await;
    second.raise(Priority::Answer);
    // It keeps its time of arrival.
    assert_eq!(senders.order(3).await, ["second", "third", "first"]);
}

/// The chat opens just before the bot does again; its notification must not have the slot that an answer waits for.
#[tokio::test(start_paused = true)]
async fn quota_of_a_bot_is_not_snatched_by_who_waits_at_a_chat() {
    let senders = Senders::new().await;
    senders.quota.pause("c:paused", Duration::from_secs(2)).await;
    for number in 0..4 {
        let name = format!("notification {number}");
        senders.come(&name, "c:paused", Priority::Notification).await;
    }
    for number in 0..3 {
        senders
            .come(&format!("answer {number}"), &format!("c:{number}"), Priority::Answer)
            .await;
    }
    let order = senders.order(7).await;
    assert!(order[..3].iter().all(|name| name.starts_with("answer")), "{order:?}");
}
