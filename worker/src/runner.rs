//! Serves one bot: attaches to its queue, again and again, until the bot is taken away or the worker stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openclaw_common::backoff::Reconnect;
use openclaw_common::bot::{Bot, BotId};
use openclaw_common::queue::{Deliveries, Link, Source};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::attachment::{Attachment, Detached};
use crate::engine::Engine;

/// Between two tries to attach. Each opens a channel and declares: while a queue is refused, or deleted again and again,
/// they must not become the broker's main work. The longest keeps recovery inside five seconds.
const SHORTEST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// An attachment that lived so long did not fail because of what it found: the next one begins without a wait.
const HEALTHY: Duration = Duration::from_secs(10);

/// What the placement and the waiting room tell a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Nobody else serves the bot: look for unfinished rows without waiting for a delivery.
    Serve,
    /// Rows in the waiting room are due.
    Due,
    /// Another worker is to have the bot: detach as soon as nothing is held.
    GiveBack,
}

/// What the placement sees of a runner.
#[derive(Debug, Default)]
pub(crate) struct Status {
    consumes: AtomicBool,
    receives: AtomicBool,
    serves: AtomicBool,
    proved: AtomicBool,
    holds: AtomicBool,
    alone: AtomicBool,
}

impl Status {
    /// Attached to the queue, active or standing by.
    pub(crate) fn consumes(&self) -> bool {
        self.consumes.load(Ordering::SeqCst)
    }

    /// The broker has delivered, whether or not it could be looked after yet.
    pub(crate) fn receives(&self) -> bool {
        self.receives.load(Ordering::SeqCst)
    }

    pub(crate) fn set_receives(&self) {
        self.receives.store(true, Ordering::SeqCst);
    }

    /// As far as the placement knows, the broker delivers the bot's events to nobody else.
    pub(crate) fn is_alone(&self) -> bool {
        self.alone.load(Ordering::SeqCst)
    }

    pub(crate) fn set_alone(&self, alone: bool) {
        self.alone.store(alone, Ordering::SeqCst);
    }

    /// Looks after the bot's rows: the broker has delivered, or nobody else seemed to.
    pub(crate) fn serves(&self) -> bool {
        self.serves.load(Ordering::SeqCst)
    }

    /// The broker has delivered: this is its active consumer.
    pub(crate) fn proved(&self) -> bool {
        self.proved.load(Ordering::SeqCst)
    }

    /// Serves the bot and has nothing of it in memory.
    pub(crate) fn is_idle(&self) -> bool {
        self.serves() && !self.holds.load(Ordering::SeqCst)
    }

    pub(crate) fn set_holds(&self, holds: bool) {
        self.holds.store(holds, Ordering::SeqCst);
    }

    pub(crate) fn set_serves(&self, proved: bool) {
        self.serves.store(true, Ordering::SeqCst);
        self.proved.fetch_or(proved, Ordering::SeqCst);
    }

    fn attached(&self) {
        self.consumes.store(true, Ordering::SeqCst);
    }

    fn detached(&self) {
        self.consumes.store(false, Ordering::SeqCst);
        self.receives.store(false, Ordering::SeqCst);
        self.alone.store(false, Ordering::SeqCst);
        self.serves.store(false, Ordering::SeqCst);
        self.proved.store(false, Ordering::SeqCst);
        self.set_holds(false);
    }
}

/// Serves one bot until it is given back or the worker stops.
pub(crate) struct Runner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) bot: BotId,
    pub(crate) status: Arc<Status>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// The bot was taken away from this worker.
    pub(crate) revoked: CancellationToken,
}

impl Runner {
    pub(crate) fn new(
        engine: Arc<Engine>,
        bot: BotId,
        status: Arc<Status>,
        commands: mpsc::Receiver<Command>,
        revoked: CancellationToken,
    ) -> Self {
        Self {
            engine,
            bot,
            status,
            commands,
            revoked,
        }
    }

    /// Runs to the end. What is returned holds the consumer: drop it after the consuming connection is cut.
    pub(crate) async fn run(mut self) -> Option<Deliveries> {
        let mut reconnect = Reconnect::new(SHORTEST_RETRY, LONGEST_RETRY);
        loop {
            let bot = self.engine.bots.now().served(self.bot.as_str()).cloned()?;
            let prefetch = prefetch(&bot);
            // Whatever was said to an earlier attachment does not hold for the next one.
            while self.commands.try_recv().is_ok() {}
            let attached = tokio::select! {
                // One more for the anchor, which takes no work's place.
                attached = self.engine.queue.consume(Source::Bot(self.bot.clone()), prefetch + 1) => attached,
                () = self.engine.drain.cancelled() => return None,
                () = self.revoked.cancelled() => return None,
            };
            match attached {
                Ok(deliveries) => {
                    let begun = Instant::now();
                    self.status.attached();
                    let ended = Attachment::new(&self, &bot, prefetch)
                        .serve(&mut self, deliveries)
                        .await;
                    self.status.detached();
                    match ended {
                        Detached::Lost => {}
                        Detached::Done => return None,
                        Detached::Draining(deliveries) => return Some(deliveries),
                    }
                    if begun.elapsed() > HEALTHY {
                        reconnect = Reconnect::new(SHORTEST_RETRY, LONGEST_RETRY);
                    }
                }
                // Without a connection there is one sentence for all bots, and it is said elsewhere.
                Err(error) if *self.engine.queue.consume_link().borrow() != Link::Up => {
                    tracing::debug!(bot = %self.bot, %error, "cannot attach to the bot's queue yet");
                }
                Err(error) => {
                    tracing::warn!(bot = %self.bot, %error, "cannot attach to the bot's queue; trying again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(reconnect.wait()) => {}
                () = self.engine.drain.cancelled() => return None,
                () = self.revoked.cancelled() => return None,
            }
        }
    }
}

/// Four seconds of the bot's quota, as the floor below leaves it: enough to keep it busy, little enough for a quick
/// hand-over (`docs/design/delivery.md` §6).
fn prefetch(bot: &Bot) -> u16 {
    let in_four_seconds = bot.quota.bot.map_or(f64::INFINITY, |rate| {
        f64::from(rate.count) * 4.0 / rate.window.as_secs_f64()
    });
    // Below 64 a few slow chats would hold every place, and no other chat of the bot would get a delivery.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 64..=256"
    )]
    let clamped = in_four_seconds.clamp(64.0, 256.0) as u16;
    clamped
}
