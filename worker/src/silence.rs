//! A consumer that hears nothing although events wait for it.
//!
//! The broker says so when it cancels a consumer. Nobody says so when it forgets one, when it hands the events to one that is
//! nobody's any more, or when a wake-up is lost: the connection stands, no call fails, and the bot would be silent until
//! something else ends the consumer. So whoever hears nothing for a while, and could take something, asks how many events wait;
//! and if some do, twice and with nothing delivered in between, its consumer is deaf. The cure is a new one, which disturbs
//! nobody else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use openclaw_common::queue::{Places, Queue, Source};
use openclaw_common::telemetry;
use tokio::time::{Instant, sleep_until, timeout};

/// After this much silence somebody looks. With [`CONFIRM`] and the time to attach it is well below the 15 s in which a deaf
/// consumer must be noticed and replaced; the broker's part of a look is a third of a millisecond, so that with 2,000 silent
/// bots it is a tenth of one core.
const LOOK_AFTER: Duration = Duration::from_secs(6);
/// Between the look that raises the suspicion and the one that proves it. Longer than it takes two workers to hear of each
/// other (two beats): which of them the broker feeds, the other cannot see before that.
const CONFIRM: Duration = Duration::from_millis(2500);
/// Looks need no longer; one that does says nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches one consumer.
pub(crate) struct Silence {
    queue: Arc<dyn Queue>,
    source: Source,
    places: Arc<Places>,
    /// Whether the broker should be feeding this consumer, as far as anybody knows.
    fed: Box<dyn Fn() -> bool + Send + Sync>,
    due: Instant,
    suspected: bool,
    looking: Option<BoxFuture<'static, Option<u64>>>,
}

impl Silence {
    /// A consumer that was just attached and has these `places`.
    pub(crate) fn new(
        queue: Arc<dyn Queue>,
        source: Source,
        places: Arc<Places>,
        fed: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            queue,
            source,
            places,
            fed: Box::new(fed),
            // Not all at the same time: a worker attaches to all its bots at once.
            due: Instant::now() + LOOK_AFTER.mul_f64(rand::random_range(0.5..=1.0)),
            suspected: false,
            looking: None,
        }
    }

    /// Something was delivered.
    pub(crate) fn heard(&mut self) {
        self.due = Instant::now() + LOOK_AFTER;
        self.suspected = false;
    }

    /// Returns when the consumer is deaf, having said so. Cancel-safe.
    pub(crate) async fn is_proved(&mut self) {
        loop {
            let looking = match &mut self.looking {
                Some(looking) => looking,
                None => {
                    sleep_until(self.due).await;
                    if self.places.free() == 0 || !(self.fed)() {
                        self.calm();
                        continue;
                    }
                    let (queue, source) = (Arc::clone(&self.queue), self.source.clone());
                    self.looking.insert(Box::pin(async move {
                        let waiting = timeout(PATIENCE, queue.waiting(&source)).await.ok()?;
                        waiting.ok()
                    }))
                }
            };
            let waiting = looking.await;
            self.looking = None;
            match waiting {
                Some(0) => self.calm(),
                // Something came while the question was on its way, or nobody knows: asked again.
                Some(_) if self.due > Instant::now() => {}
                Some(waiting) if self.suspected => {
                    tracing::warn!(
                        source = ?self.source, waiting,
                        "events wait and the consumer hears nothing: another one is attached"
                    );
                    telemetry::CONSUMERS_LOST.add("silent");
                    return;
                }
                Some(_) => {
                    self.suspected = true;
                    self.due = Instant::now() + CONFIRM;
                }
                None => self.due = Instant::now() + CONFIRM,
            }
        }
    }

    fn calm(&mut self) {
        self.suspected = false;
        self.due = Instant::now() + LOOK_AFTER;
    }
}
