//! Serves one bot: attaches to its queue, sorts deliveries into lanes, runs the lanes.
//!
//! Crash-only: when the link to the broker goes, everything in memory is dropped and found again the way a crash would
//! find it, as redelivered messages and as unfinished rows. There is no second recovery path.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt;
use openclaw_common::backoff::Reconnect;
use openclaw_common::bot::{Bot, BotId};
use openclaw_common::envelope::EventKey;
use openclaw_common::fail_point::fail_point;
use openclaw_common::queue::{Deliveries, Delivery, Receipt, Source};
use openclaw_common::store::{Arrival, Begun, Intent};
use openclaw_common::telemetry;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::action::Plan;
use crate::archive;
use crate::commit::CommitError;
use crate::engine::Engine;
use crate::event::Event;
use crate::handler::{self, Handler, HandlerError};
use crate::lanes::{Lanes, REFILL};
use crate::process::{End, Run, Work};

/// Deliveries taken up in one commit.
const MAX_ARRIVALS: usize = 256;
/// Rows taken from the waiting room at once.
const MAX_DUE: u32 = 64;

/// Between two tries to attach; the longest keeps recovery inside five seconds.
const SHORTEST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Between two tries to read unfinished rows.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Chats that starve with rows behind them are counted anew at most so often: strict order lets them starve rightly.
const RECOUNT: Duration = Duration::from_secs(5);

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
    serves: AtomicBool,
}

impl Status {
    /// Attached to the queue, active or standing by.
    pub(crate) fn consumes(&self) -> bool {
        self.consumes.load(Ordering::SeqCst)
    }

    /// The broker's active consumer, as far as this worker can tell.
    pub(crate) fn serves(&self) -> bool {
        self.serves.load(Ordering::SeqCst)
    }
}

/// Serves one bot until it is given back or the worker stops.
pub(crate) struct Runner {
    engine: Arc<Engine>,
    bot: BotId,
    status: Arc<Status>,
    commands: mpsc::Receiver<Command>,
    /// The bot was taken away from this worker.
    revoked: CancellationToken,
}

/// Why an attachment ended.
enum Detached {
    /// The link went: attach again.
    Lost,
    /// Given back, or revoked.
    Done,
    /// The worker stops: the consumer must stay attached until the connection is cut.
    Draining(Deliveries),
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
            let bot = self.engine.bots.now().get(self.bot.as_str()).cloned()?;
            let attached = tokio::select! {
                attached = self.engine.queue.consume(Source::Bot(self.bot.clone()), prefetch(&bot)) => attached,
                () = self.engine.drain.cancelled() => return None,
                () = self.revoked.cancelled() => return None,
            };
            match attached {
                Ok(deliveries) => {
                    reconnect = Reconnect::new(SHORTEST_RETRY, LONGEST_RETRY);
                    self.status.consumes.store(true, Ordering::SeqCst);
                    let ended = Attachment::new(&self, &bot).serve(&mut self, deliveries).await;
                    self.status.consumes.store(false, Ordering::SeqCst);
                    self.status.serves.store(false, Ordering::SeqCst);
                    match ended {
                        Detached::Lost => {}
                        Detached::Done => return None,
                        Detached::Draining(deliveries) => return Some(deliveries),
                    }
                }
                Err(error) => {
                    tracing::warn!(bot = %self.bot, %error, "cannot attach to the bot's queue; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(reconnect.wait()) => {}
                        () = self.engine.drain.cancelled() => return None,
                        () = self.revoked.cancelled() => return None,
                    }
                }
            }
        }
    }
}

/// Four seconds of the bot's quota: enough to keep it busy, little enough for a quick hand-over (`reliability.md` D6).
fn prefetch(bot: &Bot) -> u16 {
    let in_four_seconds = bot.quota.bot.map_or(f64::INFINITY, |rate| {
        f64::from(rate.count) * 4.0 / rate.window.as_secs_f64()
    });
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 8..=256"
    )]
    let clamped = in_four_seconds.clamp(8.0, 256.0) as u16;
    clamped
}

/// The bot's handler. Its rules were compiled once when the configuration was read; should that ever not be enough, the
/// events wait for a better configuration instead of being answered wrongly.
fn handler_of(bot: &Bot) -> Arc<dyn Handler> {
    handler::build(&bot.handler).unwrap_or_else(|error| {
        tracing::error!(bot = %bot.id, %error, "this bot's handler cannot be built: its events wait");
        Arc::new(Unusable(error.to_string()))
    })
}

struct Unusable(String);

#[async_trait]
impl Handler for Unusable {
    async fn plan(&self, _event: &Event) -> Result<Plan, HandlerError> {
        Err(HandlerError::Retry(self.0.clone()))
    }
}

/// One attachment to the bot's queue: everything here is forgotten when it ends.
struct Attachment {
    engine: Arc<Engine>,
    bot: BotId,
    lanes: Lanes<Work>,
    /// Every event in memory, with further deliveries of it (copies, or the delivery of a row found unfinished).
    held: HashMap<EventKey, Vec<Receipt>>,
    handler: (Arc<Bot>, Arc<dyn Handler>),
    handlers: Arc<Semaphore>,
    quarantine: Arc<Semaphore>,
    ended: mpsc::UnboundedSender<Ended>,
    endings: Option<mpsc::UnboundedReceiver<Ended>>,
    /// Ends the waits of this attachment's events.
    stop: CancellationToken,
    running: usize,
    serving: bool,
    refill: bool,
    giving_back: bool,
    /// An answer of the database was lost: rows may be ours that are not in memory, or counts wrong.
    unsure: bool,
    looked: Instant,
    /// Something here cannot go on: the attachment ends and the bot is taken up anew.
    broken: bool,
    freezes: u64,
    gauge: LaneGauge,
}

/// This attachment's part of the process's lane gauge.
#[derive(Default)]
struct LaneGauge(f64);

impl LaneGauge {
    #[expect(clippy::cast_precision_loss, reason = "a count of lanes")]
    fn set(&mut self, lanes: usize) {
        let lanes = lanes as f64;
        telemetry::LANES.add(lanes - self.0);
        self.0 = lanes;
    }
}

impl Drop for LaneGauge {
    fn drop(&mut self) {
        self.set(0);
    }
}

struct Ended {
    chat: Arc<str>,
    work: Option<Work>,
    end: End,
    /// It did not run, it only went to the waiting room: the lane is not concerned.
    parked: bool,
}

impl Attachment {
    fn new(runner: &Runner, bot: &Arc<Bot>) -> Self {
        let (ended, endings) = mpsc::unbounded_channel();
        let engine = runner.engine.clone();
        Self {
            bot: runner.bot.clone(),
            lanes: Lanes::default(),
            held: HashMap::new(),
            handler: (bot.clone(), handler_of(bot)),
            handlers: Arc::new(Semaphore::new(engine.config.server.workers)),
            quarantine: Arc::new(Semaphore::new(1)),
            ended,
            endings: Some(endings),
            stop: engine.drain.child_token(),
            running: 0,
            serving: false,
            refill: false,
            giving_back: false,
            unsure: false,
            looked: Instant::now(),
            broken: false,
            freezes: engine.pulse.freezes(),
            gauge: LaneGauge::default(),
            engine,
        }
    }

    async fn serve(mut self, runner: &mut Runner, mut deliveries: Deliveries) -> Detached {
        let Some(mut endings) = self.endings.take() else {
            return Detached::Lost;
        };
        let _stop = self.stop.clone().drop_guard();
        let drain = self.engine.drain.clone();
        loop {
            if self.giving_back && self.lanes.is_idle() {
                return Detached::Done;
            }
            if self.broken || self.engine.pulse.freezes() != self.freezes {
                return Detached::Lost;
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    self.settle_running(&mut endings).await;
                    return Detached::Draining(deliveries);
                }
                () = runner.revoked.cancelled() => {
                    self.stop.cancel();
                    self.settle_running(&mut endings).await;
                    return Detached::Done;
                }
                Some(ended) = endings.recv() => {
                    self.ended(ended).await;
                    while let Ok(ended) = endings.try_recv() {
                        self.ended(ended).await;
                    }
                }
                Some(command) = runner.commands.recv() => match command {
                    Command::Serve => self.begin_serving(&runner.status).await,
                    Command::Due => self.refill = true,
                    Command::GiveBack => self.giving_back = true,
                },
                delivery = deliveries.next() => {
                    let Some(delivery) = delivery else { return Detached::Lost };
                    let mut batch = vec![delivery];
                    while batch.len() < MAX_ARRIVALS && let Some(delivery) = deliveries.try_next() {
                        batch.push(delivery);
                    }
                    self.begin_serving(&runner.status).await;
                    tokio::select! {
                        () = self.arrive(batch) => {}
                        () = drain.cancelled() => {}
                    }
                }
            }
            if self.unsure && self.serving {
                self.look_for_unfinished().await;
            }
            if self.refill && self.serving {
                self.refill().await;
            }
            self.gauge.set(self.lanes.len());
        }
    }

    /// The first delivery, or the placement, says that this worker is the one: what a predecessor left comes first.
    async fn begin_serving(&mut self, status: &Status) {
        if self.serving {
            return;
        }
        if self.look_for_unfinished().await {
            self.serving = true;
            status.serves.store(true, Ordering::SeqCst);
        }
    }

    /// Takes up every unfinished row that is not in memory, and counts anew what waits behind the lanes. After a predecessor
    /// this is what it left; in mid-course, what a lost answer of the database left nobody sure about.
    async fn look_for_unfinished(&mut self) -> bool {
        let started = Instant::now();
        let unfinished = loop {
            let held: Vec<EventKey> = self.held.keys().cloned().collect();
            match self.engine.store.unfinished(&self.bot, &held).await {
                Ok(unfinished) => break unfinished,
                Err(error) => {
                    tracing::warn!(bot = %self.bot, %error, "cannot look for unfinished events; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                        () = self.stop.cancelled() => return false,
                    }
                }
            }
        };
        self.unsure = false;
        self.looked = Instant::now();
        self.lanes.recount(&unfinished.held);
        let (rows, waiting) = (unfinished.rows.len(), unfinished.held.values().sum::<u64>());
        for row in unfinished.rows {
            self.enter(Work {
                row,
                receipt: None,
                started: false,
            });
        }
        // Whatever waits may be due already, and chats with rows behind them have nothing in memory to call for them.
        self.refill = true;
        tracing::debug!(bot = %self.bot, unfinished = rows, waiting, took_ms = started.elapsed().as_millis(), "looked for unfinished events");
        true
    }

    async fn arrive(&mut self, batch: Vec<Delivery>) {
        fail_point("W0", "");
        let mut arrivals = Vec::with_capacity(batch.len());
        let mut receipts = Vec::with_capacity(batch.len());
        for delivery in batch {
            let envelope = match delivery.payload {
                Ok(envelope) => envelope,
                Err(unreadable) => {
                    archive::bury_unreadable(&self.engine, &self.bot, unreadable, delivery.receipt).await;
                    continue;
                }
            };
            if let Some(copies) = self.held.get_mut(&envelope.key) {
                copies.push(delivery.receipt);
                telemetry::DUPLICATES_DROPPED.add(1);
                continue;
            }
            // Entered at once: a copy in the same batch must not be taken up twice.
            self.held.insert(envelope.key.clone(), Vec::new());
            let intent = self.lanes.reserve(&envelope.chat);
            arrivals.push(Arrival { envelope, intent });
            receipts.push(delivery.receipt);
        }
        self.begin(arrivals, receipts).await;
    }

    async fn begin(&mut self, arrivals: Vec<Arrival>, receipts: Vec<Receipt>) {
        if arrivals.is_empty() {
            return;
        }
        let begun = match self.engine.commits.begin(arrivals.clone()).await {
            Ok(begun) => begun,
            // Stopped: all of it comes again. Refused: one bad row among many, so take them up one by one.
            Err(CommitError::Stopped) => return,
            Err(CommitError::Refused(_)) if arrivals.len() > 1 => {
                for (arrival, receipt) in arrivals.into_iter().zip(receipts) {
                    Box::pin(self.begin(vec![arrival], vec![receipt])).await;
                }
                return;
            }
            Err(CommitError::Refused(error)) => {
                for (arrival, receipt) in arrivals.into_iter().zip(receipts) {
                    self.lanes.cancel(&arrival.envelope.chat, arrival.intent);
                    self.held.remove(&arrival.envelope.key);
                    archive::bury_refused(&self.engine, arrival.envelope, &error, receipt).await;
                }
                return;
            }
        };
        fail_point("T1", "");
        for ((arrival, receipt), begun) in arrivals.into_iter().zip(receipts).zip(begun) {
            let envelope = arrival.envelope;
            match begun {
                Begun::Taken(row) => {
                    let started = row.new && arrival.intent == Intent::Start;
                    self.lanes.cancel(&envelope.chat, arrival.intent);
                    if !row.new && row.envelope.chat != envelope.chat {
                        tracing::warn!(event = %envelope.key, "a copy names another chat: the first one counts");
                    }
                    self.enter(Work {
                        row,
                        receipt: Some(receipt),
                        started,
                    });
                }
                Begun::Settled { parked } => {
                    if !(parked && arrival.intent == Intent::Park) {
                        self.lanes.cancel(&envelope.chat, arrival.intent);
                        telemetry::DUPLICATES_DROPPED.add(1);
                        // Or it is our own parking, repeated after its answer was lost.
                        self.unsure |= arrival.intent == Intent::Park;
                    }
                    receipt.ack();
                    self.release(&envelope.key);
                }
            }
        }
    }

    fn enter(&mut self, work: Work) {
        let chat = work.row.envelope.chat.clone();
        self.held.entry(work.row.envelope.key.clone()).or_default();
        self.lanes.enter(&chat, work.row.position, work);
        self.start_next(&chat);
    }

    fn start_next(&mut self, chat: &Arc<str>) {
        if self.stop.is_cancelled() {
            return;
        }
        if let Some(work) = self.lanes.next(chat) {
            self.spawn(chat.clone(), work, false);
        }
    }

    /// Runs an event in a task of its own; its panic ends this attachment, not the process.
    fn spawn(&mut self, chat: Arc<str>, mut work: Work, park: bool) {
        let run = Run {
            engine: self.engine.clone(),
            bot: self.current_bot(),
            handler: self.handler.1.clone(),
            handlers: self.handlers.clone(),
            quarantine: self.quarantine.clone(),
            stop: self.stop.clone(),
            freezes: self.freezes,
        };
        let ended = self.ended.clone();
        self.running += 1;
        self.engine.tracker.spawn(async move {
            let course = async {
                let end = if park {
                    run.park(&mut work).await
                } else {
                    run.run(&mut work).await
                };
                (Some(work), end)
            };
            let (work, end) = AssertUnwindSafe(course)
                .catch_unwind()
                .await
                .unwrap_or((None, End::Stopped));
            // Nobody listens any more once the attachment has ended: the next owner goes by the row.
            drop(ended.send(Ended {
                chat,
                work,
                end,
                parked: park,
            }));
        });
    }

    /// The bot as configured now; its handler is rebuilt when the configuration changed.
    fn current_bot(&mut self) -> Arc<Bot> {
        if let Some(bot) = self.engine.bots.now().get(self.bot.as_str())
            && !Arc::ptr_eq(bot, &self.handler.0)
        {
            self.handler = (bot.clone(), handler_of(bot));
        }
        self.handler.0.clone()
    }

    async fn ended(
        &mut self,
        Ended {
            chat,
            work,
            end,
            parked,
        }: Ended,
    ) {
        self.running -= 1;
        let Some(work) = work else {
            tracing::error!(bot = %self.bot, chat = %chat, "an event's task panicked: the bot is taken up anew");
            self.broken = true;
            return;
        };
        let key = work.row.envelope.key.clone();
        match end {
            End::Settled => self.release(&key),
            End::Waiting { hold } => {
                self.release(&key);
                if hold {
                    self.lanes.behind(&chat, 1);
                    // What stands in memory behind it must not pass it.
                    for work in self.lanes.evict(&chat) {
                        self.spawn(chat.clone(), work, true);
                    }
                }
            }
            End::Lost => self.look_again(work).await,
            // Its row is the next owner's; the delivery must not be acknowledged by anybody.
            End::Stopped => self.broken |= !self.stop.is_cancelled(),
        }
        if !parked {
            self.lanes.ended(&chat);
        }
        self.start_next(&chat);
        self.refill |= self.lanes.wants_refill(&chat);
    }

    /// Somebody else has raised the fence. If they have finished, the delivery can go; if not, the newest owner goes on.
    async fn look_again(&mut self, work: Work) {
        let Some(receipt) = work.receipt else { return };
        let arrival = Arrival {
            envelope: work.row.envelope.clone(),
            intent: Intent::Hold,
        };
        self.lanes.reserve(&arrival.envelope.chat);
        self.begin(vec![arrival], vec![receipt]).await;
    }

    /// The event has left memory: copies of it can be acknowledged, its row says what happened.
    fn release(&mut self, key: &EventKey) {
        for copy in self.held.remove(key).unwrap_or_default() {
            copy.ack();
        }
    }

    async fn refill(&mut self) {
        self.refill = false;
        if self.stop.is_cancelled() || self.giving_back {
            return;
        }
        let full = self.lanes.full();
        match self.engine.store.take_due(&self.bot, &full, REFILL, MAX_DUE).await {
            Ok(rows) => {
                if !rows.is_empty() {
                    fail_point("R3", "");
                }
                self.refill = rows.len() >= MAX_DUE as usize;
                let all = full.is_empty() && !self.refill;
                for row in rows {
                    if row.held {
                        self.lanes.came_back(&row.envelope.chat);
                    }
                    self.enter(Work {
                        row,
                        receipt: None,
                        started: false,
                    });
                }
                self.unsure |= all && self.lanes.is_starved() && self.looked.elapsed() > RECOUNT;
            }
            Err(error) => {
                tracing::warn!(bot = %self.bot, %error, "cannot look into the waiting room");
                // The rows may be taken up all the same.
                self.unsure = true;
            }
        }
    }

    /// Lets what runs come to its end: requests on the wire are answered, outcomes committed, deliveries acknowledged.
    async fn settle_running(&mut self, endings: &mut mpsc::UnboundedReceiver<Ended>) {
        while self.running > 0 {
            let Some(ended) = endings.recv().await else { return };
            self.running -= 1;
            if let Some(work) = ended.work
                && matches!(ended.end, End::Settled | End::Waiting { .. })
            {
                self.release(&work.row.envelope.key);
            }
        }
    }
}
