//! Caches on a Redis process of the test's own.

use std::time::Duration;

use openclaw_backends::caches::redis::Redis;
use openclaw_common::cache::Cache;
use openclaw_common::secret::Secret;
use testkit::{RedisProcess, eventually};

/// A cache that is connected.
pub(super) async fn cache(server: &RedisProcess) -> Redis {
    let cache = connecting(&server.url());
    reachable(&cache).await;
    cache
}

/// A cache that has just begun to connect.
pub(super) fn connecting(url: &str) -> Redis {
    Redis::connect(&Secret::new(url)).unwrap()
}

/// Waits until a cache answers.
pub(super) async fn reachable(cache: &dyn Cache) {
    eventually("the cache reaches Redis", Duration::from_secs(10), async || {
        cache.ping().await.is_ok()
    })
    .await;
}

/// For what no cache does: FLUSHALL, CONFIG.
pub(super) fn admin(server: &RedisProcess) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}
