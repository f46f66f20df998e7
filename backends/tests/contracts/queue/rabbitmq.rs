//! What only a broker can do to a queue: cut it off, close it, delete under it, refuse it.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use openclaw_backends::queues::rabbitmq::{Options, RabbitMq};
use openclaw_common::envelope::Envelope;
use openclaw_common::queue::{Link, PublishError, Queue, Source};
use openclaw_common::secret::Secret;
use openclaw_common::time;
use testkit::{Servers, Vhost, eventually};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::world::{SOON, becomes_up, bot, connect, event, key_of, next, publish_all, publish_together};

/// In which the link must be back after an outage (`docs/performance.md`).
const RECOVERY: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_process_starts_without_a_broker_and_refuses_until_it_is_there() {
    let vhost = Servers::rabbitmq().await;
    let road = Road::new(&vhost).await;
    road.block();
    let began = Instant::now();
    let queue = RabbitMq::connect(&Secret::new(road.url(&vhost)), Options::named("test")).unwrap();
    for _ in 0..3 {
        let refused = queue.publish(Arc::new(event("bot1", 0))).await.unwrap_err();
        assert!(matches!(refused, PublishError::Refused(_)), "{refused:?}");
        assert!(queue.consume(Source::Bot(bot("bot1")), 1).await.is_err());
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "refusing took {:?}",
        began.elapsed()
    );
    let mut link = queue.link();
    let down = link.wait_for(|state| matches!(state, Link::Down(_)));
    timeout(SOON, down).await.unwrap().unwrap();

    road.open();
    let began = Instant::now();
    becomes_up(queue.link()).await;
    becomes_up(queue.consume_link()).await;
    assert!(began.elapsed() < RECOVERY, "it took {:?}", began.elapsed());
    queue.publish(Arc::new(event("bot1", 0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_road_that_breaks_in_mid_publish_loses_no_answered_event_and_recovers() {
    const PUBLISHERS: usize = 32;
    let vhost = Servers::rabbitmq().await;
    let road = Road::new(&vhost).await;
    let queue: Arc<dyn Queue> = Arc::new(connect(&road.url(&vhost)).await);
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let queue = Arc::clone(&queue);
        publishers.spawn(async move {
            let (mut answered, mut unknown) = (Vec::new(), Vec::new());
            for number in (publisher * 1_000_000).. {
                match queue
                    .publish(Arc::new(event(&format!("bot{}", number % 4), number)))
                    .await
                {
                    Ok(()) => answered.push(number),
                    Err(PublishError::Unknown(_)) => unknown.push(number),
                    Err(PublishError::Refused(_)) => break,
                }
            }
            (answered, unknown)
        });
    }
    eventually("publishes are under way", SOON, async || {
        queue.depth(&bot("bot0")).await.is_ok_and(|depth| depth > 100)
    })
    .await;
    road.block();
    let outcomes = timeout(SOON, publishers.join_all())
        .await
        .expect("every publish is answered after the cut");
    road.open();
    let began = Instant::now();
    becomes_up(queue.link()).await;
    becomes_up(queue.consume_link()).await;
    assert!(began.elapsed() < RECOVERY, "it took {:?}", began.elapsed());

    let answered: HashSet<usize> = outcomes.iter().flat_map(|(answered, _)| answered).copied().collect();
    let unknown: HashSet<usize> = outcomes.iter().flat_map(|(_, unknown)| unknown).copied().collect();
    let mut stored = HashSet::new();
    for index in 0..4 {
        // Behind everything, so that its arrival says there is no more.
        publish_all(&queue, &format!("bot{index}"), [usize::MAX]).await;
        let mut deliveries = queue
            .consume(Source::Bot(bot(&format!("bot{index}"))), 500)
            .await
            .unwrap();
        loop {
            let delivery = next(&mut deliveries).await;
            let number = key_of(&delivery);
            delivery.receipt.ack();
            if number == usize::MAX {
                break;
            }
            assert!(stored.insert(number), "{number} is there twice");
        }
    }
    assert!(
        answered.is_subset(&stored),
        "answered and lost: {:?}",
        answered.difference(&stored)
    );
    let surplus: Vec<_> = stored
        .difference(&answered)
        .filter(|number| !unknown.contains(number))
        .collect();
    assert!(surplus.is_empty(), "refused and stored all the same: {surplus:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_forced_close_old_receipts_do_nothing_and_everything_comes_again() {
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "bot1", 0..6).await;
    let mut first = queue.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    let mut stale = vec![next(&mut first).await, next(&mut first).await];
    let mut link = queue.consume_link();
    let ups_and_downs = tokio::spawn(async move {
        link.wait_for(|state| *state != Link::Up).await.unwrap();
        Instant::now()
    });
    let mut closed = 0;
    eventually("the operator closed both connections", SOON, async || {
        closed += vhost.close_connections().await;
        closed >= 2
    })
    .await;
    let down_at = timeout(SOON, ups_and_downs).await.unwrap().unwrap();
    // Two of the four were waiting here already. They are somebody else's now.
    assert!(
        timeout(SOON, first.next()).await.unwrap().is_none(),
        "an ended consumer still delivers"
    );
    becomes_up(queue.consume_link()).await;
    becomes_up(queue.link()).await;
    assert!(down_at.elapsed() < RECOVERY, "it took {:?}", down_at.elapsed());

    let mut second = queue.consume(Source::Bot(bot("bot1")), 6).await.unwrap();
    // The tags 1 and 2 are out again, on the new channel: an ack that got through would settle the wrong ones.
    stale.drain(..).for_each(|delivery| delivery.receipt.ack());
    for _ in 0..6 {
        next(&mut second).await;
    }
    queue.publish(Arc::new(event("bot1", 6))).await.unwrap();
    queue.close().await;

    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    let mut third = queue.consume(Source::Bot(bot("bot1")), 7).await.unwrap();
    let mut seen = HashSet::new();
    for _ in 0..7 {
        seen.insert(key_of(&next(&mut third).await));
    }
    assert_eq!(seen, (0..7).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_deleted_queue_ends_and_another_one_can_attach() {
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "bot1", [0]).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    let _held = next(&mut deliveries).await;
    vhost.delete_queue("openclaw.v1.bot.bot1").await;
    assert!(timeout(SOON, deliveries.next()).await.unwrap().is_none());
    assert_eq!(
        *queue.consume_link().borrow(),
        Link::Up,
        "one consumer's end is not the link's"
    );
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 4).await.unwrap();
    publish_all(&queue, "bot1", [1]).await;
    assert_eq!(key_of(&next(&mut deliveries).await), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_bot_has_its_queue_before_any_event() {
    let vhost = Servers::rabbitmq().await;
    let queue = connect(vhost.amqp_url()).await;
    queue.prepare(&bot("bot1")).await.unwrap();
    assert_eq!(vhost.depth("openclaw.v1.bot.bot1").await, Some(0));
    vhost.declare_plain("openclaw.v1.bot.odd").await;
    let refused = queue.prepare(&bot("odd")).await.unwrap_err();
    assert!(refused.to_string().contains("openclaw.v1.bot.odd"), "{refused}");
    assert_eq!(*queue.link().borrow(), Link::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_deleted_queue_wait_unrouted_and_can_be_published_again() {
    const EVENTS: usize = 640;
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "gone", [EVENTS]).await;
    publish_all(&queue, "kept", [EVENTS + 1]).await;
    vhost.delete_queue("openclaw.v1.bot.gone").await;
    // 64 in flight, every other one to the bot that has no queue any more (`docs/design/delivery.md` §1).
    let mut publishers = JoinSet::new();
    for publisher in 0..64 {
        let queue = Arc::clone(&queue);
        publishers.spawn(async move {
            for number in (publisher..EVENTS).step_by(64) {
                let to = if number / 64 % 2 == 0 { "gone" } else { "kept" };
                let sent = Envelope {
                    received_ms: time::now_ms(),
                    ..event(to, number)
                };
                queue.publish(Arc::new(sent)).await.unwrap();
            }
        });
    }
    publishers.join_all().await;

    let mut unrouted = queue.consume(Source::Unrouted, 100).await.unwrap();
    for _ in 0..EVENTS / 2 {
        let delivery = next(&mut unrouted).await;
        let envelope = delivery.payload.unwrap();
        assert_eq!(envelope.bot, bot("gone"));
        // Its consumers had a moment to declare it; there are none.
        eventually("the queue may be declared again", SOON, async || {
            queue.prepare(&bot("gone")).await.is_ok()
        })
        .await;
        queue.publish(envelope).await.unwrap();
        delivery.receipt.ack();
    }
    let mut seen = HashSet::new();
    for (name, count) in [("gone", EVENTS / 2), ("kept", EVENTS / 2 + 1)] {
        let mut deliveries = queue.consume(Source::Bot(bot(name)), 100).await.unwrap();
        for _ in 0..count {
            let delivery = next(&mut deliveries).await;
            assert!(seen.insert(key_of(&delivery)));
            delivery.receipt.ack();
        }
    }
    assert_eq!(seen.len(), EVENTS + 1);
    assert_eq!(vhost.depth("openclaw.v1.unrouted").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_meet_share_messages_and_are_counted_delivered_and_settled_one_by_one() {
    const EVENTS: usize = 100;
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_together(&queue, "bot1", 0..EVENTS).await;
    let messages = vhost.depth("openclaw.v1.bot.bot1").await.unwrap();
    assert!(
        u64::from(messages) < EVENTS as u64 / 2,
        "{messages} messages for {EVENTS} events"
    );
    assert_eq!(queue.depth(&bot("bot1")).await.unwrap(), EVENTS as u64);
    // Two at a time, and nothing that follows: each pair must go out by itself.
    for _ in 0..20 {
        publish_together(&queue, "bot2", 0..3).await;
    }

    // The prefetch counts events, wherever they come from.
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 3).await.unwrap();
    let mut held = VecDeque::new();
    for number in 0..EVENTS {
        let delivery = next(&mut deliveries).await;
        assert_eq!(key_of(&delivery), number);
        held.push_back(delivery);
        if held.len() == 3 {
            assert!(deliveries.try_next().is_none(), "more than the prefetch is out");
            held.pop_front().unwrap().receipt.ack();
        }
    }
    held.into_iter().for_each(|delivery| delivery.receipt.ack());
    queue.close().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "bot1", [EVENTS]).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 3).await.unwrap();
    assert_eq!(key_of(&next(&mut deliveries).await), EVENTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_that_is_out_brings_its_message_back_in_its_place() {
    const EVENTS: usize = 40;
    const OUT: usize = 21;
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_together(&queue, "bot1", 0..EVENTS).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 100).await.unwrap();
    let mut out = None;
    for number in 0..EVENTS {
        let delivery = next(&mut deliveries).await;
        assert_eq!(key_of(&delivery), number);
        if number == OUT {
            out = Some(delivery);
        } else {
            delivery.receipt.ack();
        }
    }
    queue.close().await;
    assert!(out.is_some());
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "bot1", [EVENTS]).await;
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 100).await.unwrap();
    let mut again = Vec::new();
    while again.last() != Some(&EVENTS) {
        let delivery = next(&mut deliveries).await;
        again.push(key_of(&delivery));
        delivery.receipt.ack();
    }
    assert!(again.contains(&OUT) && again.is_sorted(), "{again:?}");
    // Its message of six, and no other.
    assert!(again.len() <= 6 + 1, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_other_make_is_named_and_stops_no_other_bot() {
    let vhost = Servers::rabbitmq().await;
    let raw = raw_channel(&vhost).await;
    let mut foreign = FieldTable::default();
    foreign.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    raw.queue_declare("openclaw.v1.bot.odd".into(), QueueDeclareOptions::durable(), foreign)
        .await
        .unwrap();
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    let mut publishers = JoinSet::new();
    for number in 0..40 {
        let queue = Arc::clone(&queue);
        publishers.spawn(async move {
            let to = if number % 2 == 0 {
                "odd".to_owned()
            } else {
                format!("even{number}")
            };
            (number, queue.publish(Arc::new(event(&to, number))).await)
        });
    }
    for (number, outcome) in publishers.join_all().await {
        match outcome {
            Ok(()) => assert_eq!(number % 2, 1),
            Err(PublishError::Refused(reason)) => {
                assert_eq!(number % 2, 0, "{reason}");
                assert!(
                    reason.contains("openclaw.v1.bot.odd") && reason.contains("PRECONDITION"),
                    "{reason}"
                );
            }
            Err(error) => unreachable!("{error}"),
        }
    }
    let refused = queue.consume(Source::Bot(bot("odd")), 1).await.unwrap_err();
    assert!(refused.to_string().contains("openclaw.v1.bot.odd"), "{refused}");
    assert_eq!(*queue.link().borrow(), Link::Up);
    assert_eq!(*queue.consume_link().borrow(), Link::Up);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_our_headers_is_delivered_as_unreadable() {
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    let mut deliveries = queue.consume(Source::Bot(bot("bot1")), 1).await.unwrap();
    let stranger = BasicProperties::default().with_message_id("from elsewhere".into());
    publish_raw(&vhost, "openclaw.v1.events", "bot1", stranger, b"{not json").await;
    publish_all(&queue, "bot1", [1]).await;
    let delivery = next(&mut deliveries).await;
    let unreadable = delivery.payload.unwrap_err();
    assert_eq!(unreadable.body.as_ref(), b"{not json");
    assert_eq!(unreadable.message_id.as_deref(), Some("from elsewhere"));
    delivery.receipt.ack();
    assert_eq!(key_of(&next(&mut deliveries).await), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_on_can_be_consumed() {
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    let mut dead = queue.consume(Source::Dead, 4).await.unwrap();
    publish_raw(&vhost, "openclaw.v1.dead", "bot1", BasicProperties::default(), b"dead").await;
    let delivery = next(&mut dead).await;
    assert_eq!(delivery.payload.unwrap_err().body.as_ref(), b"dead");
    delivery.receipt.ack();
    eventually("the dead letter is settled", SOON, async || {
        vhost.depth("openclaw.v1.dead").await == Some(0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_a_refusal() {
    let vhost = Servers::rabbitmq().await;
    let queue: Arc<dyn Queue> = Arc::new(connect(vhost.amqp_url()).await);
    publish_all(&queue, "bot1", 0..3).await;
    vhost
        .set_policy("short", "bot1$", serde_json::json!({ "max-length": 3 }))
        .await;
    eventually("the policy holds", SOON, async || {
        match queue.publish(Arc::new(event("bot1", 3))).await {
            Ok(()) => false,
            Err(PublishError::Refused(_)) => true,
            Err(error) => unreachable!("{error}"),
        }
    })
    .await;
    queue.publish(Arc::new(event("bot2", 0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_makes_publishes_unknown_in_time() {
    let vhost = Servers::rabbitmq().await;
    let road = Road::new(&vhost).await;
    let queue = connect(&road.url(&vhost)).await;
    queue.publish(Arc::new(event("bot1", 0))).await.unwrap();
    road.stall();
    let began = Instant::now();
    let unknown = queue.publish(Arc::new(event("bot1", 1))).await.unwrap_err();
    assert!(matches!(unknown, PublishError::Unknown(_)), "{unknown:?}");
    assert!(
        began.elapsed() < Duration::from_millis(2500),
        "it took {:?}",
        began.elapsed()
    );
    // Leaving does not wait for it either.
    let began = Instant::now();
    queue.close().await;
    assert!(began.elapsed() < SOON, "closing took {:?}", began.elapsed());
}

async fn raw_channel(vhost: &Vhost) -> Channel {
    let connection = Connection::connect(vhost.amqp_url(), ConnectionProperties::default())
        .await
        .unwrap();
    connection.create_channel().await.unwrap()
}

async fn publish_raw(vhost: &Vhost, exchange: &str, routing_key: &str, properties: BasicProperties, body: &[u8]) {
    raw_channel(vhost)
        .await
        .basic_publish(
            exchange.into(),
            routing_key.into(),
            BasicPublishOptions::default(),
            body,
            properties,
        )
        .await
        .unwrap()
        .await
        .unwrap();
}

/// A road to the broker that can be broken, stalled and mended.
struct Road {
    address: SocketAddr,
    state: tokio::sync::watch::Sender<Traffic>,
}

#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Flows,
    /// Connections stand and nothing moves.
    Stalled,
    /// Connections are cut and refused.
    Blocked,
}

impl Road {
    async fn new(vhost: &Vhost) -> Self {
        let target = authority(vhost.amqp_url()).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, watched) = tokio::sync::watch::channel(Traffic::Flows);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *watched.borrow() != Traffic::Blocked {
                    tokio::spawn(drive(client, target.clone(), watched.clone()));
                }
            }
        });
        Self { address, state }
    }

    fn url(&self, vhost: &Vhost) -> String {
        vhost
            .amqp_url()
            .replace(authority(vhost.amqp_url()), &self.address.to_string())
    }

    fn open(&self) {
        self.state.send_replace(Traffic::Flows);
    }

    fn stall(&self) {
        self.state.send_replace(Traffic::Stalled);
    }

    fn block(&self) {
        self.state.send_replace(Traffic::Blocked);
    }
}

/// `host:port` of an AMQP URL.
fn authority(url: &str) -> &str {
    let after_login = url.rsplit_once('@').unwrap().1;
    after_login.split_once('/').unwrap().0
}

async fn drive(mut client: TcpStream, target: String, mut traffic: tokio::sync::watch::Receiver<Traffic>) {
    let mut server = TcpStream::connect(target).await.unwrap();
    loop {
        let state = *traffic.borrow_and_update();
        tokio::select! {
            changed = traffic.changed() => if changed.is_err() { return },
            _ = tokio::io::copy_bidirectional(&mut client, &mut server), if state == Traffic::Flows => return,
            () = std::future::ready(()), if state == Traffic::Blocked => return,
        }
    }
}
