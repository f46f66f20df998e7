//! The same with RabbitMQ and Redis, whole and broken.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_backends::caches::redis::Redis;
use openclaw_backends::queues::rabbitmq::{Options, RabbitMq};
use openclaw_common::bot::Bot;
use openclaw_common::cache::Cache;
use openclaw_common::queue::{Link, Queue};
use openclaw_common::secret::Secret;
use openclaw_sim::proxy::{Direction, Flow, Proxy};
use serde_json::json;
use testkit::{RedisProcess, Servers, Vhost, eventually};
use tokio::task::JoinSet;

use super::client::Push;
use super::world::{Node, SOON, Setup, bot, message, taken};

/// Real servers, the broker behind a proxy that can be broken.
struct World {
    vhost: Vhost,
    redis: RedisProcess,
    proxy: Proxy,
}

impl World {
    async fn open() -> Self {
        let vhost = Servers::rabbitmq().await;
        let proxy = Proxy::start(broker(&vhost)).unwrap();
        Self {
            redis: Servers::redis().await,
            proxy,
            vhost,
        }
    }

    /// A connection through the proxy, as a node has.
    async fn queue(&self) -> Arc<dyn Queue> {
        let direct = broker(&self.vhost).to_string();
        let url = self
            .vhost
            .amqp_url()
            .replace(&direct, &self.proxy.address().to_string());
        let queue = RabbitMq::connect(&Secret::new(url), Options::named("ingest-test")).unwrap();
        // Both connections: a queue's depth is asked for on the consuming one.
        for mut link in [queue.link(), queue.consume_link()] {
            tokio::time::timeout(SOON, link.wait_for(|link| *link == Link::Up))
                .await
                .unwrap()
                .unwrap();
        }
        Arc::new(queue)
    }

    async fn node(&self, bot: &Bot) -> Node {
        Setup::new(std::slice::from_ref(bot), self.queue().await, self.cache())
            .start()
            .await
    }

    fn cache(&self) -> Arc<dyn Cache> {
        Arc::new(Redis::connect(&Secret::new(self.redis.url())).unwrap())
    }
}

fn broker(vhost: &Vhost) -> SocketAddr {
    let url = vhost.amqp_url();
    let (_, rest) = url.rsplit_once('@').unwrap();
    rest.split('/')
        .next()
        .unwrap()
        .replace("localhost", "127.0.0.1")
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_stored_another_does_not_store_again() {
    let world = World::open().await;
    let bot = bot("bot1");
    let (one, two) = (world.node(&bot).await, world.node(&bot).await);
    let queue = world.queue().await;
    // On a machine that is too busy to ask the filter in time, a duplicate passes: then with another event.
    let mut number = 0;
    eventually("one copy", SOON, async || {
        number += 1;
        let push = Push::event(&bot, &message(&bot, &format!("om_{number}")));
        for node in [&one, &two, &one] {
            assert_eq!(push.send(node.address).await.status, 200);
        }
        let copies = usize::try_from(queue.depth(&bot.id).await.unwrap()).unwrap();
        taken(&queue, &bot, copies).await.len() == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_duplicates_at_once_over_two_nodes_make_two_copies_at_most() {
    let world = World::open().await;
    let bot = bot("bot1");
    let nodes = [world.node(&bot).await, world.node(&bot).await];
    let push = Push::event(&bot, &message(&bot, "om_1"));
    let mut pushes = JoinSet::new();
    for number in 0..500 {
        let (push, address) = (push.clone(), nodes[number % 2].address);
        pushes.spawn(async move { push.send(address).await.status });
    }
    let answers = pushes.join_all().await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    let queue = world.queue().await;
    let copies = usize::try_from(queue.depth(&bot.id).await.unwrap()).unwrap();
    assert!((1..=2).contains(&copies), "{copies} copies");
    taken(&queue, &bot, copies).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_broker_is_refused_at_once_and_back_without_a_restart() {
    let world = World::open().await;
    let bot = bot("bot1");
    let queue = world.queue().await;
    let node = Setup::new(std::slice::from_ref(&bot), queue.clone(), world.cache())
        .start()
        .await;
    let push = |number: usize| Push::event(&bot, &message(&bot, &format!("om_{number}")));
    assert_eq!(push(0).send(node.address).await.status, 200);

    world.proxy.cut();
    let mut link = queue.link();
    tokio::time::timeout(SOON, link.wait_for(|link| *link != Link::Up))
        .await
        .unwrap()
        .unwrap();
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(push(1).send(node.address).await.status, 503);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?} for 20 refusals",
        begun.elapsed()
    );

    world.proxy.restore().unwrap();
    eventually("events are stored again", Duration::from_secs(15), async || {
        push(1).send(node.address).await.status == 200
    })
    .await;
    taken(&queue, &bot, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_refused_within_the_budget_and_claims_are_given_back() {
    let world = World::open().await;
    let bot = bot("bot1");
    let queue = world.queue().await;
    let node = Setup::new(std::slice::from_ref(&bot), queue, world.cache())
        .start()
        .await;
    let push = |number: usize| Push::event(&bot, &message(&bot, &format!("om_{number}")));
    assert_eq!(push(0).send(node.address).await.status, 200);

    world.proxy.set(Direction::Both, &Flow::black_hole());
    // Twice the same event: the second would find the first one's claim, had it not been given back.
    for _ in 0..2 {
        let begun = Instant::now();
        assert_eq!(push(1).send(node.address).await.status, 503);
        assert!(begun.elapsed() < Duration::from_millis(1700), "{:?}", begun.elapsed());
    }
    world.proxy.restore().unwrap();
    eventually("events are stored again", Duration::from_secs(40), async || {
        push(1).send(node.address).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_is_a_503_and_the_re_push_is_taken() {
    let world = World::open().await;
    let bot = bot("bot1");
    let queue = world.queue().await;
    let node = Setup::new(std::slice::from_ref(&bot), queue.clone(), world.cache())
        .start()
        .await;
    let push = |number: usize| Push::event(&bot, &message(&bot, &format!("om_{number}")));
    let limit = |length: u32| json!({ "max-length": length, "overflow": "reject-publish" });
    assert_eq!(push(0).send(node.address).await.status, 200);
    world.vhost.set_policy("small", "openclaw.*", limit(1)).await;
    let mut number = 0;
    eventually("the broker refuses", SOON, async || {
        number += 1;
        push(number).send(node.address).await.status == 503
    })
    .await;
    world.vhost.set_policy("small", "openclaw.*", limit(1000)).await;
    eventually("the same event is taken", SOON, async || {
        push(number).send(node.address).await.status == 200
    })
    .await;
    taken(&queue, &bot, number + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_down_or_hangs_costs_no_event_and_little_time() {
    let mut world = World::open().await;
    let bot = bot("bot1");
    let queue = world.queue().await;
    let node = Setup::new(std::slice::from_ref(&bot), queue.clone(), world.cache())
        .start()
        .await;
    let push = |id: &str| Push::event(&bot, &message(&bot, id));
    for _ in 0..2 {
        assert_eq!(push("om_filtered").send(node.address).await.status, 200);
    }
    taken(&queue, &bot, 1).await;

    for broken in ["om_hanging", "om_down"] {
        match broken {
            "om_hanging" => world.redis.pause(),
            _ => world.redis.kill(),
        }
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(push(broken).send(node.address).await.status, 200);
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        }
        // A node knows what it has stored itself, filter or no filter.
        taken(&queue, &bot, 1).await;
        if broken == "om_hanging" {
            world.redis.resume();
        }
    }

    world.redis.restart().await;
    // What was taken once is filtered again as soon as the cache is back.
    let mut number = 0;
    eventually("the filter works again", SOON, async || {
        number += 1;
        let push = push(&format!("om_back_{number}"));
        for _ in 0..2 {
            assert_eq!(push.send(node.address).await.status, 200);
        }
        queue.depth(&bot.id).await.unwrap() == 1 || {
            let waiting = queue.depth(&bot.id).await.unwrap();
            taken(&queue, &bot, usize::try_from(waiting).unwrap()).await;
            false
        }
    })
    .await;
}
