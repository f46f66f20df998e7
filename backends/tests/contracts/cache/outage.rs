//! Real Redis, real time: several processes' worth of senders, and everything that happens to a server.

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::redis::Redis;
use openclaw_common::cache::{Cache, Claim, Level, Take};
use openclaw_common::envelope::EventKey;
use openclaw_common::quota::{HORIZON, Quota};
use openclaw_common::secret::Secret;
use testkit::{RedisProcess, Servers};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::rolling::Platform;
use super::sending::lane;
use super::server::{admin, cache, connecting, reachable};
use super::{level, proxy, slot};

const SECOND: Duration = Duration::from_secs(1);

/// One bot's sends as its three workers would make them if each of them served it: worse than it can be.
struct Run {
    platform: Arc<Platform>,
    quotas: Vec<Arc<Quota>>,
    lanes: JoinSet<()>,
    begun: Instant,
}

impl Run {
    fn start(caches: Vec<Redis>, length: Duration, levels: impl Fn(usize, usize) -> Vec<Level>) -> Self {
        let platform = Arc::new(Platform::default());
        let begun = Instant::now();
        let quotas: Vec<_> = caches
            .into_iter()
            .map(|cache| Arc::new(Quota::new(Arc::new(cache), 3, HORIZON)))
            .collect();
        let mut lanes = JoinSet::new();
        for (worker, quota) in quotas.iter().enumerate() {
            for number in 0..3 {
                lanes.spawn(lane(
                    quota.clone(),
                    levels(worker, number),
                    platform.clone(),
                    begun + length,
                ));
            }
        }
        Self {
            platform,
            quotas,
            lanes,
            begun,
        }
    }

    /// Sends of a level between two times after the begin.
    fn count(&self, key: &str, from: Duration, until: Duration) -> usize {
        self.platform.count(key, self.begun + from, self.begun + until)
    }
}

async fn three(server: &RedisProcess) -> Vec<Redis> {
    vec![cache(server).await, cache(server).await, cache(server).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_workers_never_exceed_and_nearly_use_a_limit() {
    let server = Servers::redis().await;
    let length = Duration::from_millis(5400);
    let mut run = Run::start(three(&server).await, length, |worker, number| {
        vec![level("b:1", 5, 1), level(&format!("c:{worker}-{number}"), 5, 1)]
    });
    while run.lanes.join_next().await.transpose().unwrap().is_some() {}
    assert_eq!(run.platform.most_in_a_second("b:1"), 5);
    let sent = run.count("b:1", Duration::ZERO, length);
    // 4.0 s after the quiet time: four bursts of five, less what one late wake-up costs.
    assert!(sent >= 19, "{sent} sends");
    assert!(run.quotas.iter().all(|quota| !quota.is_degraded()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_server_stays_within_the_limit() {
    let server = Servers::redis().await;
    let mut run = Run::start(three(&server).await, Duration::from_millis(5500), |_, _| {
        vec![level("b:1", 5, 1)]
    });
    sleep_until(run.begun + Duration::from_millis(2600)).await;
    redis::cmd("FLUSHALL").exec(&mut admin(&server)).unwrap();
    while run.lanes.join_next().await.transpose().unwrap().is_some() {}
    assert!(run.platform.most_in_a_second("b:1") <= 5);
    assert!(run.count("b:1", SECOND, 3 * SECOND) >= 5, "it had begun");
    assert!(run.count("b:1", 4 * SECOND, 6 * SECOND) >= 5, "it went on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_server_leaves_a_share_and_its_return_restores_the_limit() {
    let mut server = Servers::redis().await;
    // Each worker serves a bot of its own; the chat is everybody's.
    let mut run = Run::start(three(&server).await, Duration::from_secs(11), |worker, number| {
        let chat = if number == 0 {
            "c:shared".to_owned()
        } else {
            format!("c:{worker}-{number}")
        };
        vec![level(&format!("b:{worker}"), 5, 1), level(&chat, 5, 1)]
    });
    sleep_until(run.begun + Duration::from_millis(2500)).await;
    server.kill();
    sleep_until(run.begun + Duration::from_millis(6500)).await;
    assert!(run.quotas.iter().all(|quota| quota.is_degraded()));
    server.restart().await;
    while run.lanes.join_next().await.transpose().unwrap().is_some() {}
    for key in ["b:0", "b:1", "b:2", "c:shared"] {
        assert!(
            run.platform.most_in_a_second(key) <= 5,
            "{key}: {}",
            run.platform.most_in_a_second(key)
        );
    }
    for worker in 0..3 {
        let bot = format!("b:{worker}");
        let alone = run.count(&bot, Duration::from_millis(4500), Duration::from_millis(6500));
        assert!((2..=8).contains(&alone), "{bot} sent {alone} in two seconds alone");
        let after = run.count(&bot, Duration::from_millis(9_500), 11 * SECOND);
        assert!(after >= 5, "{bot} sent {after} after the return");
    }
    assert!(run.quotas.iter().all(|quota| !quota.is_degraded()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_of_thirty_milliseconds_widens_the_guard_and_stays_within_the_limit() {
    let server = Servers::redis().await;
    let address = proxy::delayed(&server.url(), Duration::from_millis(15)).await;
    let mut caches = vec![cache(&server).await];
    for _ in 0..2 {
        let far = connecting(&address);
        reachable(&far).await;
        caches.push(far);
    }
    let mut run = Run::start(caches, Duration::from_millis(5500), |worker, number| {
        vec![level("b:1", 5, 1), level(&format!("c:{worker}-{number}"), 5, 1)]
    });
    while run.lanes.join_next().await.transpose().unwrap().is_some() {}
    assert!(run.platform.most_in_a_second("b:1") <= 5);
    let far: usize = (1..3)
        .flat_map(|worker| (0..3).map(move |number| format!("c:{worker}-{number}")))
        .map(|chat| run.count(&chat, Duration::ZERO, 6 * SECOND))
        .sum();
    assert!(far >= 3, "the far workers sent {far}");
    let last = run.count("b:1", 4 * SECOND, 5 * SECOND);
    assert!(last >= 4, "{last} in the last second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_high_limit_is_not_held_back_by_the_round_trip() {
    let server = Servers::redis().await;
    let address = proxy::delayed(&server.url(), Duration::from_millis(2)).await;
    let far = connecting(&address);
    reachable(&far).await;
    slot(&far, &[level("b:1", 10_000, 1)]).await;
    let quota = Arc::new(Quota::new(Arc::new(far), 4, HORIZON));
    let platform = Arc::new(Platform::default());
    let begun = Instant::now();
    let mut lanes = JoinSet::new();
    for _ in 0..64 {
        lanes.spawn(lane(
            quota.clone(),
            vec![level("b:1", 10_000, 1)],
            platform.clone(),
            begun + SECOND,
        ));
    }
    lanes.join_all().await;
    let sent = platform.count("b:1", begun, begun + SECOND);
    // One after the other it would be under 250.
    assert!(sent > 1_500, "{sent} sends in a second");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_answer_at_once_and_is_found_when_it_comes() {
    let mut server = Servers::redis().await;
    server.kill();
    let begun = Instant::now();
    let cache = connecting(&server.url());
    let key = EventKey::new("app", "om_1");
    for _ in 0..1_000 {
        cache.claim(&key, "one", SECOND).await.unwrap_err();
    }
    assert!(
        begun.elapsed() < SECOND,
        "{:?} for a thousand refusals",
        begun.elapsed()
    );
    for _ in 0..2 {
        server.restart().await;
        let back = Instant::now();
        reachable(&cache).await;
        assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
        assert_eq!(cache.claim(&key, "one", 60 * SECOND).await.unwrap(), Claim::Claimed);
    }
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_time_limit_and_then_nothing() {
    let server = Servers::redis().await;
    let cache = cache(&server).await;
    server.pause();
    let key = EventKey::new("app", "om_1");
    for _ in 0..3 {
        let asked = Instant::now();
        cache.claim(&key, "one", SECOND).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    let asked = Instant::now();
    for _ in 0..100 {
        cache.claim(&key, "one", SECOND).await.unwrap_err();
    }
    assert!(
        asked.elapsed() < Duration::from_millis(500),
        "{:?} for a hundred refusals",
        asked.elapsed()
    );
    server.resume();
    let back = Instant::now();
    reachable(&cache).await;
    assert!(back.elapsed() < 5 * SECOND, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_a_moment_sends_nothing_late_and_starts_no_fallback() {
    let server = Servers::redis().await;
    let mut run = Run::start(three(&server).await, Duration::from_millis(4500), |worker, _| {
        vec![level(&format!("b:{worker}"), 5, 1), level("c:shared", 5, 1)]
    });
    sleep_until(run.begun + Duration::from_millis(2000)).await;
    server.pause();
    sleep(Duration::from_millis(200)).await;
    server.resume();
    while run.lanes.join_next().await.transpose().unwrap().is_some() {}
    assert!(run.platform.most_in_a_second("c:shared") <= 5);
    assert!(
        run.count("c:shared", Duration::from_millis(2500), Duration::from_millis(4500)) >= 5,
        "it went on"
    );
}

#[tokio::test]
async fn a_full_server_counts_as_down_and_grants_nothing() {
    let server = Servers::redis().await;
    let cache = cache(&server).await;
    let levels = [level("b:1", 5, 1)];
    slot(&cache, &levels).await;
    let mut admin = admin(&server);
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg("1")
        .exec(&mut admin)
        .unwrap();
    let error = cache.take(&levels, HORIZON).await.unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    cache
        .claim(&EventKey::new("app", "om_1"), "one", SECOND)
        .await
        .unwrap_err();
    // Nor does it seem to be back: whoever goes on alone stays alone, instead of being silent again and again.
    redis::cmd("PING").exec(&mut admin).unwrap();
    cache.ping().await.unwrap_err();
    redis::cmd("CONFIG")
        .arg("SET")
        .arg("maxmemory")
        .arg("0")
        .exec(&mut admin)
        .unwrap();
    cache.ping().await.unwrap();
    for _ in 0..4 {
        let answer = cache.take(&levels, HORIZON).await.unwrap();
        assert!(
            matches!(answer, Take::Granted { .. }),
            "the refused take took nothing: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_lets_nobody_run_scripts_counts_as_down() {
    let server = Servers::redis().await;
    let cache = cache(&server).await;
    let may = |rule: &str| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("default").arg(rule);
        command.exec(&mut admin(&server)).unwrap();
    };
    may("-@scripting");
    let error = cache.take(&[level("b:1", 5, 1)], HORIZON).await.unwrap_err();
    assert!(error.to_string().contains("evalsha"), "{error}");
    // Or whoever goes on alone would hold it for back, fall silent for its return, ask it and be refused, for ever.
    cache.ping().await.unwrap_err();
    may("+@scripting");
    cache.ping().await.unwrap();
}

#[tokio::test]
async fn a_primary_that_became_a_replica_is_left_and_not_connected_to_again_and_again() {
    let server = Servers::redis().await;
    let cache = cache(&server).await;
    slot(&cache, &[level("b:1", 5, 1)]).await;
    let mut admin = admin(&server);
    let mut connections = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("stats").query(&mut admin).unwrap();
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse().unwrap()
    };
    let before = connections();
    // Nobody listens there, so it keeps what it knows, as an old primary does until it has found the new one.
    let mut demote = redis::cmd("REPLICAOF");
    demote
        .arg("127.0.0.1")
        .arg("1")
        .exec(&mut super::server::admin(&server))
        .unwrap();
    let until = Instant::now() + SECOND;
    while Instant::now() < until {
        cache
            .claim(&EventKey::new("app", "om_1"), "one", SECOND)
            .await
            .unwrap_err();
        sleep(Duration::from_millis(5)).await;
    }
    let made = connections() - before;
    assert!(made < 20, "{made} connections in a second");
    let mut promote = redis::cmd("REPLICAOF");
    promote
        .arg("NO")
        .arg("ONE")
        .exec(&mut super::server::admin(&server))
        .unwrap();
    reachable(&cache).await;
}

#[tokio::test]
async fn a_malformed_url_is_refused_without_showing_it() {
    let error = Redis::connect(&Secret::new("http://:hunter2@localhost")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
}
