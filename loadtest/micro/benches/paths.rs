//! How long the paths of an event take (`./dev bench micro`). The slot script needs the Redis of `./dev services`.
#![expect(
    clippy::expect_used,
    reason = "a path that cannot be taken is no measurement: it must stop"
)]

use std::time::Duration;

use divan::Bencher;
use openclaw_backends::caches::redis::Redis;
use openclaw_common::cache::{Cache as _, Level, Take};
use openclaw_common::quota::HORIZON;
use openclaw_common::secret::Secret;
use openclaw_micro::{LANE_MOVES, Lanes, Push, round_trip};

fn main() {
    divan::main();
}

#[divan::bench]
fn verify_decrypt_identify(bencher: Bencher<'_, '_>) {
    let push = Push::default();
    bencher
        .counter(divan::counter::ItemsCount::new(1_u32))
        .bench(|| push.open());
}

#[divan::bench]
fn envelope_codec_round_trip(bencher: Bencher<'_, '_>) {
    let envelope = Push::default().open();
    bencher
        .counter(divan::counter::ItemsCount::new(1_u32))
        .bench(|| round_trip(&envelope));
}

#[divan::bench]
fn lane_moves(bencher: Bencher<'_, '_>) {
    let lanes = Lanes::default();
    bencher
        .counter(divan::counter::ItemsCount::new(LANE_MOVES))
        .bench(|| lanes.run());
}

/// One call at a time: the way to Redis and back is in it. `full`: the answer is "later".
#[divan::bench(args = [false, true], sample_size = 20)]
fn quota_slot_script(bencher: Bencher<'_, '_>, full: bool) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the servers of ./dev services are told in the environment"
    )]
    let url = std::env::var("OPENCLAW_TEST_REDIS_URL").expect("run by ./dev bench micro");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let redis = runtime
        .block_on(async { Redis::connect(&Secret::new(url)) })
        .expect("a URL");
    let levels = |run: u64| {
        let count = if full { 5 } else { 100_000 };
        let level = |name: &str| Level {
            key: format!("micro:{full}:{run}:{name}"),
            count,
            window: Duration::from_secs(1),
        };
        [level("app"), level("bot"), level("chat")]
    };
    let take = |levels: &[Level]| runtime.block_on(redis.take(levels, HORIZON));
    // A Redis that is new grants nothing for a while, and is connected to by a task, which runs only while the runtime does.
    let (own, granted) = (levels(std::process::id().into()), |taken| {
        matches!(taken, Ok(Take::Granted { .. }))
    });
    while !granted(take(&own)) {
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
    }
    while full && granted(take(&own)) {}
    bencher.bench_local(|| take(&own));
}
