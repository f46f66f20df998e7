//! A quorum queue without a leader, as when most of its members are away: here its only one is stopped inside the broker.

use std::sync::Arc;

use openclaw_backends::queues::rabbitmq::RabbitMq;
use openclaw_common::queue::{Deliveries, Link, Queue, Source};
use testkit::{RabbitNode, Servers, Vhost, eventually};

use super::world::{SOON, bot, connect, event, key_of, next};

/// A broker of its own: the others need theirs whole.
struct Leaderless {
    vhost: Vhost,
    node: RabbitNode,
}

impl Leaderless {
    async fn new() -> Self {
        let node = Servers::rabbitmq_node().await;
        Self {
            vhost: node.vhost().await,
            node,
        }
    }

    async fn leader_of(&self, bot: &str, call: &str) {
        let vhost = self.vhost.amqp_url().rsplit_once('/').unwrap().1;
        let expression = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"openclaw.v1.bot.{bot}\">>)), \
             ok = ra:{call}(quorum_queues, amqqueue:get_pid(Q))."
        );
        self.node.ctl(&["eval", &expression]).await;
    }
}

async fn attached(queue: &RabbitMq, to: &str) -> Deliveries {
    let mut deliveries = None;
    eventually("a consumer is attached", SOON, async || {
        deliveries = queue.consume(Source::Bot(bot(to)), 5).await.ok();
        deliveries.is_some()
    })
    .await;
    deliveries.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_to_a_queue_without_a_leader_keeps_no_other_bot_s_events_out() {
    let broker = Leaderless::new().await;
    let queue = Arc::new(connect(broker.vhost.amqp_url()).await);
    let others: Vec<String> = (0..16).map(|number| format!("fine{number}")).collect();
    for bot in others.iter().map(String::as_str).chain(["stuck"]) {
        queue.publish(Arc::new(event(bot, 0))).await.unwrap();
    }
    broker.leader_of("stuck", "stop_server").await;
    // More than any window holds, and more than RabbitMQ takes for one queue before it stops reading.
    let refused = futures_util::future::join_all((1..=600).map(|number| {
        let queue = Arc::clone(&queue);
        async move { queue.publish(Arc::new(event("stuck", number))).await }
    }));
    assert!(refused.await.iter().all(Result::is_err), "nobody can confirm them");
    // Also while there are more of them.
    let more = queue.publish(Arc::new(event("stuck", 700)));
    let fine = futures_util::future::join_all(others.iter().map(|bot| queue.publish(Arc::new(event(bot, 1)))));
    let (more, fine) = tokio::join!(more, fine);
    more.unwrap_err();
    assert!(fine.iter().all(Result::is_ok), "{fine:?}");

    broker.leader_of("stuck", "restart_server").await;
    eventually("the bot's events are taken again", SOON, async || {
        queue.publish(Arc::new(event("stuck", 701))).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_from_a_queue_without_a_leader_cuts_the_others_off_once_at_most() {
    let broker = Leaderless::new().await;
    let queue = connect(broker.vhost.amqp_url()).await;
    for bot in ["stuck", "fine"] {
        queue.publish(Arc::new(event(bot, 1))).await.unwrap();
    }
    broker.leader_of("stuck", "stop_server").await;
    queue.consume(Source::Bot(bot("stuck")), 5).await.unwrap_err();
    let mut fine = attached(&queue, "fine").await;
    for _ in 0..3 {
        queue.consume(Source::Bot(bot("stuck")), 5).await.unwrap_err();
    }
    assert!(!fine.has_ended());
    assert_eq!(key_of(&next(&mut fine).await), 1);

    broker.leader_of("stuck", "restart_server").await;
    assert_eq!(key_of(&next(&mut attached(&queue, "stuck").await).await), 1);
    assert!(!fine.has_ended());
    assert_eq!(*queue.consume_link().borrow(), Link::Up);
}

/// As while another process makes it: the queue exists already, its server is not up yet, and RabbitMQ rejects what comes.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_event_to_a_queue_that_is_still_being_made_is_stored() {
    let broker = Leaderless::new().await;
    let maker = connect(broker.vhost.amqp_url()).await;
    maker.publish(Arc::new(event("new", 0))).await.unwrap();
    let queue = connect(broker.vhost.amqp_url()).await;
    let vhost = broker.vhost.amqp_url().rsplit_once('/').unwrap().1;
    let making = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{vhost}\">>, queue, <<\"openclaw.v1.bot.new\">>)), \
         ok = ra:stop_server(quorum_queues, amqqueue:get_pid(Q)), \
         spawn(fun() -> timer:sleep(800), ra:restart_server(quorum_queues, amqqueue:get_pid(Q)) end)."
    );
    broker.node.ctl(&["eval", &making]).await;
    queue.publish(Arc::new(event("new", 1))).await.unwrap();
}
