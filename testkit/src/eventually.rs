//! Waiting for what happens elsewhere, without a fixed sleep.

use std::time::{Duration, Instant};

/// Between two looks: short beside any deadline, long enough to leave the processor to what is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// Returns as soon as `condition` holds.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut looks = 0;
/// testkit::eventually("three looks were taken", std::time::Duration::from_secs(1), async || {
///     looks += 1;
///     looks == 3
/// })
/// .await;
/// # });
/// ```
///
/// # Panics
/// When `condition` does not hold within `limit`, saying `what` did not come true.
pub async fn eventually(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}
