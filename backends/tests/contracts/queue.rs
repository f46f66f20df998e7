//! What every queue promises. Each test runs over both backends; what only RabbitMQ can do is in `rabbitmq`.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod full_disk;
mod leaderless;
mod rabbitmq;
mod world;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use openclaw_common::envelope::Envelope;
use openclaw_common::queue::{Deliveries, Delivery, Link, PublishError, Source};
use testkit::eventually;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::world::{SOON, World, bot, event, key_of, next, publish_all, publish_together};

/// Long enough for a delivery that must not come, had it been on its way.
const QUIET: Duration = Duration::from_millis(100);

macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        mod over_sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $promise() { super::$promise(super::World::sqlite().await).await; })*
        }
        mod over_rabbitmq {
            $(#[tokio::test(flavor = "multi_thread")] async fn $promise() { super::$promise(super::World::rabbitmq().await).await; })*
        }
    };
}

promises!(
    every_field_of_an_event_arrives_unchanged,
    what_was_published_survives_the_process,
    what_follows_an_answered_publish_is_delivered_after_it,
    what_was_not_acknowledged_comes_again_in_its_place,
    a_standby_takes_over_in_order_when_the_active_process_leaves,
    what_was_acknowledged_never_comes_again,
    no_more_than_the_prefetch_is_out,
    only_one_consumer_of_a_bot_is_active,
    a_dropped_consumer_gives_its_deliveries_back_in_their_place,
    a_receipt_of_an_ended_consumer_does_nothing,
    nothing_is_lost_with_many_publishes_in_flight_to_known_and_unknown_bots,
    a_bot_that_nobody_consumes_keeps_its_events,
    a_large_body_arrives_whole,
    depth_counts_what_is_ready,
    a_closed_queue_refuses_everything,
    a_prefetch_of_one_moves_on,
    a_consume_that_was_given_up_leaves_nobody_behind,
);

async fn every_field_of_an_event_arrives_unchanged(world: World) {
    let queue = world.open().await;
    let plain = event("bot1", 1);
    let full = Envelope {
        tenant: "täglich".into(),
        created_ms: 1,
        received_ms: i64::MAX,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        body: (0..=255).collect::<Vec<u8>>().into(),
        ..event("bot1", 2)
    };
    let empty = Envelope {
        body: bytes::Bytes::new(),
        ..event("bot1", 3)
    };
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 10).await.unwrap();
    for sent in [plain, full, empty] {
        queue.publish(Arc::new(sent.clone())).await.unwrap();
        let delivery = next(&mut deliveries).await;
        assert_eq!(*delivery.payload.unwrap(), sent);
        assert_eq!(delivery.redelivered, 0);
        delivery.receipt.ack();
    }
}

async fn what_was_published_survives_the_process(world: World) {
    let queue = world.open().await;
    publish_together(&queue, "bot1", 0..50).await;
    // Not closed: a process that dies says nothing.
    drop(queue);
    let queue = world.open().await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 50).await.unwrap();
    for number in 0..50 {
        assert_eq!(key_of(&next(&mut deliveries).await), number);
    }
}

/// Publishers side by side, each going on when it is answered: whenever one publish was answered before another began,
/// it is delivered before it.
async fn what_follows_an_answered_publish_is_delivered_after_it(world: World) {
    const PUBLISHERS: usize = 12;
    const EACH: usize = 25;
    let queue = world.open().await;
    let clock = Arc::new(AtomicUsize::new(0));
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let (queue, clock) = (Arc::clone(&queue), Arc::clone(&clock));
        publishers.spawn(async move {
            let mut spans = Vec::new();
            for turn in 0..EACH {
                let number = publisher * EACH + turn;
                let began = clock.fetch_add(1, Ordering::SeqCst);
                queue.publish(Arc::new(event("bot1", number))).await.unwrap();
                spans.push((number, began, clock.fetch_add(1, Ordering::SeqCst)));
            }
            spans
        });
    }
    let spans: Vec<(usize, usize, usize)> = publishers.join_all().await.into_iter().flatten().collect();

    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 512).await.unwrap();
    let mut place = HashMap::new();
    for position in 0..PUBLISHERS * EACH {
        place.insert(key_of(&next(&mut deliveries).await), position);
    }
    for (earlier, _, answered) in &spans {
        for (later, began, _) in &spans {
            if answered < began {
                assert!(place[earlier] < place[later], "{later} overtook {earlier}");
            }
        }
    }
}

async fn what_was_not_acknowledged_comes_again_in_its_place(world: World) {
    let queue = world.open().await;
    publish_all(&queue, "bot1", 1..=12).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 5).await.unwrap();
    let mut held = Vec::new();
    for number in 1..=5 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(key_of(&delivery), number);
        held.push(delivery);
    }
    for number in [4, 2] {
        held.remove(number - 1).receipt.ack();
    }
    queue.close().await;

    let queue = world.open().await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 12).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..10 {
        seen.push(key_of(&next(&mut deliveries).await));
    }
    assert_eq!(seen, [1, 3, 5, 6, 7, 8, 9, 10, 11, 12]);
}

/// The hand-over that a `basic.cancel` would break: the standby would begin with 6.
async fn a_standby_takes_over_in_order_when_the_active_process_leaves(world: World) {
    let leaving = world.open().await;
    let staying = world.beside(&leaving).await;
    publish_together(&leaving, "bot1", 1..=12).await;
    let mut active = leaving.consume(Source::Bot(bot("bot1")), 5).await.unwrap();
    let mut held = Vec::new();
    for number in 1..=5 {
        let delivery = next(&mut active).await;
        assert_eq!(key_of(&delivery), number);
        held.push(delivery);
    }
    let staying = match staying {
        Some(staying) => {
            let standby = staying.consume(Source::Bot(bot("bot1")), 5).await.unwrap();
            leaving.close().await;
            (staying, standby)
        }
        // One process has the embedded queue to itself: the next one is the standby.
        None => {
            leaving.close().await;
            let staying = world.open().await;
            let standby = staying.consume(Source::Bot(bot("bot1")), 5).await.unwrap();
            (staying, standby)
        }
    };
    assert!(
        timeout(SOON, active.next()).await.unwrap().is_none(),
        "the closed queue still delivers"
    );
    let (_staying, mut standby) = staying;
    for number in 1..=12 {
        let delivery = next(&mut standby).await;
        assert_eq!(key_of(&delivery), number);
        delivery.receipt.ack();
    }
}

async fn what_was_acknowledged_never_comes_again(world: World) {
    let queue = world.open().await;
    publish_together(&queue, "bot1", 0..100).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 16).await.unwrap();
    for number in 0..100 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(key_of(&delivery), number);
        delivery.receipt.ack();
    }
    // Right behind the last acknowledgement: closing must not forget it.
    queue.close().await;
    let queue = world.open().await;
    publish_all(&queue, "bot1", [100]).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 16).await.unwrap();
    assert_eq!(key_of(&next(&mut deliveries).await), 100);
}

async fn no_more_than_the_prefetch_is_out(world: World) {
    let queue = world.open().await;
    publish_together(&queue, "bot1", 0..20).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 5).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(next(&mut deliveries).await);
    }
    quiet(&mut deliveries).await;
    // Room for one, wherever it was made.
    held.remove(3).receipt.ack();
    let delivery = next(&mut deliveries).await;
    assert_eq!(key_of(&delivery), 5);
    quiet(&mut deliveries).await;
}

async fn only_one_consumer_of_a_bot_is_active(world: World) {
    let queue = world.open().await;
    let other = world.beside(&queue).await.unwrap_or_else(|| Arc::clone(&queue));
    let mut first = queue.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    let mut second = other.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    for number in 0..40 {
        queue.publish(Arc::new(event("bot1", number))).await.unwrap();
        let delivery = next(&mut first).await;
        assert_eq!(key_of(&delivery), number);
        delivery.receipt.ack();
    }
    quiet(&mut second).await;
    eventually("the last acknowledgement is taken", SOON, async || {
        queue.depth(&bot("bot1")).await.unwrap() == 0
    })
    .await;
    drop(first);
    queue.publish(Arc::new(event("bot1", 40))).await.unwrap();
    assert_eq!(key_of(&next(&mut second).await), 40);
}

async fn a_dropped_consumer_gives_its_deliveries_back_in_their_place(world: World) {
    let queue = world.open().await;
    let other = world.beside(&queue).await.unwrap_or_else(|| Arc::clone(&queue));
    for name in ["bot1", "bot2", "bot3", "bot4"] {
        publish_together(&queue, name, 1..=12).await;
        let mut active = queue.consume(Source::Bot(bot(name)), 5).await.unwrap();
        let mut standby = other.consume(Source::Bot(bot(name)), 5).await.unwrap();
        let acknowledged = next(&mut active).await;
        let _held = [next(&mut active).await, next(&mut active).await];
        acknowledged.receipt.ack();
        drop(active);
        for number in 2..=12 {
            let delivery = next(&mut standby).await;
            assert_eq!(key_of(&delivery), number);
            if number <= 3 {
                assert!(delivery.redelivered > 0, "{number} was handed out before");
            }
            delivery.receipt.ack();
        }
        quiet(&mut standby).await;
    }
}

async fn a_receipt_of_an_ended_consumer_does_nothing(world: World) {
    let queue = world.open().await;
    publish_all(&queue, "bot1", [1, 2]).await;
    let mut first = queue.consume(Source::Bot(bot("bot1")), 2).await.unwrap();
    let stale = [next(&mut first).await, next(&mut first).await];
    drop(first);
    let mut second = queue.consume(Source::Bot(bot("bot1")), 2).await.unwrap();
    let held = [next(&mut second).await, next(&mut second).await];
    for delivery in stale {
        delivery.receipt.ack();
    }
    drop(held);
    queue.close().await;
    let queue = world.open().await;
    let mut third = queue.consume(Source::Bot(bot("bot1")), 2).await.unwrap();
    let seen: HashSet<usize> = [key_of(&next(&mut third).await), key_of(&next(&mut third).await)].into();
    assert_eq!(seen, [1, 2].into());
}

async fn nothing_is_lost_with_many_publishes_in_flight_to_known_and_unknown_bots(world: World) {
    const BOTS: usize = 16;
    const IN_FLIGHT: usize = 64;
    const EVENTS: usize = 1600;
    let queue = world.open().await;
    // Half of the bots have their queue already.
    for known in 0..BOTS / 2 {
        publish_all(&queue, &format!("bot{known}"), [EVENTS + known]).await;
    }
    let turn = Arc::new(AtomicUsize::new(0));
    let mut publishers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (queue, turn) = (Arc::clone(&queue), Arc::clone(&turn));
        publishers.spawn(async move {
            loop {
                let number = turn.fetch_add(1, Ordering::SeqCst);
                if number >= EVENTS {
                    break;
                }
                let sent = Arc::new(event(&format!("bot{}", number % BOTS), number));
                queue.publish(sent).await.unwrap();
            }
        });
    }
    publishers.join_all().await;
    let mut seen = HashSet::new();
    for index in 0..BOTS {
        let mut deliveries = queue
            .consume(Source::Bot(bot(&format!("bot{index}"))), 256)
            .await
            .unwrap();
        for _ in 0..EVENTS / BOTS + usize::from(index < BOTS / 2) {
            let delivery = next(&mut deliveries).await;
            assert!(seen.insert(key_of(&delivery)), "{} came twice", key_of(&delivery));
            delivery.receipt.ack();
        }
    }
    assert_eq!(seen.len(), EVENTS + BOTS / 2);
}

async fn a_bot_that_nobody_consumes_keeps_its_events(world: World) {
    let queue = world.open().await;
    let mut other = queue.consume(Source::Bot(bot("served")), 4).await.unwrap();
    publish_all(&queue, "idle", 0..3).await;
    publish_all(&queue, "served", 0..3).await;
    for number in 0..3 {
        let delivery = next(&mut other).await;
        assert_eq!(key_of(&delivery), number);
        delivery.receipt.ack();
    }
    quiet(&mut other).await;
    let mut deliveries = queue.consume(Source::Bot(bot("idle")), 4).await.unwrap();
    for number in 0..3 {
        assert_eq!(key_of(&next(&mut deliveries).await), number);
    }
}

async fn a_large_body_arrives_whole(world: World) {
    let queue = world.open().await;
    let large = Envelope {
        body: (0..3_000_017_u32)
            .map(|place| (place % 251) as u8)
            .collect::<Vec<u8>>()
            .into(),
        ..event("bot1", 1)
    };
    queue.publish(Arc::new(large.clone())).await.unwrap();
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 1).await.unwrap();
    assert_eq!(*next(&mut deliveries).await.payload.unwrap(), large);
}

async fn depth_counts_what_is_ready(world: World) {
    let queue = world.open().await;
    let depth_becomes = async |expected: u64| {
        eventually(&format!("the depth is {expected}"), SOON, async || {
            queue.depth(&bot("bot1")).await.unwrap() == expected
        })
        .await;
    };
    assert_eq!(queue.depth(&bot("bot1")).await.unwrap(), 0, "an unknown bot");
    // A look at a missing queue must not disturb what follows.
    publish_all(&queue, "bot1", 0..7).await;
    depth_becomes(7).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 3).await.unwrap();
    let held = next(&mut deliveries).await;
    depth_becomes(4).await;
    held.receipt.ack();
    depth_becomes(3).await;
    assert_eq!(queue.depth(&bot("bot2")).await.unwrap(), 0, "an unknown bot");
    publish_all(&queue, "bot1", 7..9).await;
    depth_becomes(5).await;
}

async fn a_closed_queue_refuses_everything(world: World) {
    let queue = world.open().await;
    publish_all(&queue, "bot1", [0]).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 3).await.unwrap();
    queue.close().await;
    assert!(timeout(SOON, deliveries.next()).await.unwrap().is_none());
    assert!(deliveries.try_next().is_none());
    let refused = queue.publish(Arc::new(event("bot1", 1))).await.unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused:?}");
    assert!(queue.consume(Source::Bot(bot("bot1")), 3).await.is_err());
    for link in [queue.link(), queue.consume_link()] {
        assert!(matches!(&*link.borrow(), Link::Down(_)), "{link:?}");
    }
    // Closing again is no error.
    timeout(SOON, queue.close()).await.unwrap();
}

async fn a_prefetch_of_one_moves_on(world: World) {
    let queue = world.open().await;
    publish_all(&queue, "bot1", 0..200).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 1).await.unwrap();
    for number in 0..200 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(key_of(&delivery), number);
        delivery.receipt.ack();
    }
}

/// Given up at every moment of its course: by a timeout, or because the bot was taken away. A consumer that the broker attached
/// all the same would be the active one, and what it is handed would wait for as long as the connection lives.
async fn a_consume_that_was_given_up_leaves_nobody_behind(world: World) {
    let queue = world.open().await;
    publish_all(&queue, "bot1", 0..1).await;
    for number in 0..100 {
        let patience = Duration::from_micros(200 * number);
        timeout(patience, queue.consume(Source::Bot(bot("bot1")), 4)).await.ok();
    }
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    assert_eq!(key_of(&next(&mut deliveries).await), 0);
}

/// Nothing comes, for a moment.
async fn quiet(deliveries: &mut Deliveries) {
    if let Ok(Some(delivery)) = timeout(QUIET, deliveries.next()).await {
        let Delivery {
            payload, redelivered, ..
        } = delivery;
        unreachable!("unexpected delivery ({redelivered} before): {payload:?}");
    }
}
