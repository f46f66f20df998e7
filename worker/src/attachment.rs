//! One attachment to a bot's queue: deliveries into lanes, lanes into tasks, endings into what comes next.
//!
//! Crash-only: when the link to the broker goes, everything in memory is dropped and found again the way a crash would
//! find it, as redelivered messages and as unfinished rows. There is no second recovery path.

mod arrivals;
mod throughput;
mod waiting_room;

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, OptionFuture};
use openclaw_common::bot::{Bot, BotId};
use openclaw_common::envelope::EventKey;
use openclaw_common::queue::{Deliveries, Delivery, Receipt, Source};
use openclaw_common::quota::{self, Urgency};
use openclaw_common::store::UNFINISHED_PAGE;
use openclaw_common::telemetry;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::action::Plan;
use crate::anchor::Anchor;
use crate::engine::Engine;
use crate::event::Event;
use crate::handler::{Handler, HandlerError};
use crate::lanes::{Lanes, Started};
use crate::levels;
use crate::process::{End, Run, Work};
use crate::runner::{Command, Runner, Status};
use crate::silence::Silence;
use throughput::Throughput;

/// Deliveries taken up in one commit.
const MAX_ARRIVALS: usize = 256;
/// Between two tries to read unfinished rows.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The safety net: a row that is neither finished nor waiting nor in memory is nobody's, and there should be none.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long a bot that is to be given back may take to become idle.
const GIVE_BACK_PATIENCE: Duration = Duration::from_secs(10);

/// Why an attachment ended.
pub(crate) enum Detached {
    /// The link went: attach again.
    Lost,
    /// Given back, or revoked.
    Done,
    /// The worker stops: the consumer must stay attached until the connection is cut.
    Draining(Deliveries),
}

/// One attachment to the bot's queue: everything here is forgotten when it ends.
pub(crate) struct Attachment {
    engine: Arc<Engine>,
    bot: BotId,
    lanes: Lanes<Work>,
    /// Every event in memory, with further deliveries of it (copies, or the delivery of a row found unfinished).
    held: HashMap<EventKey, Vec<Receipt>>,
    anchor: Anchor,
    handler: (Arc<Bot>, Arc<dyn Handler>),
    handlers: Arc<Semaphore>,
    quarantine: Arc<Semaphore>,
    ended: mpsc::UnboundedSender<Ended>,
    endings: mpsc::UnboundedReceiver<Ended>,
    /// Endings that came while something else was waited for, and had to wait for that.
    put_off: VecDeque<Ended>,
    /// Ends the waits of this attachment's events.
    stop: CancellationToken,
    running: usize,
    serving: bool,
    refill: bool,
    /// Since when the bot is to be given back, as soon as nothing is held.
    giving_back: Option<Instant>,
    /// An answer of the database was lost: rows may be ours that are not in memory, or counts wrong.
    unsure: bool,
    looked: Instant,
    /// Something here cannot go on: the attachment ends and the bot is taken up anew.
    broken: bool,
    freezes: u64,
    gauge: LaneGauge,
    /// Chats with events on their way from memory into the waiting room.
    evicting: HashMap<Arc<str>, usize>,
    prefetch: usize,
    throughput: Throughput,
    /// The waiting room may hold more of what no person waits for than memory had room for: new ones go behind it.
    crowded: bool,
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
    pub(crate) fn new(runner: &Runner, bot: &Arc<Bot>, prefetch: u16) -> Self {
        let (ended, endings) = mpsc::unbounded_channel();
        let engine = runner.engine.clone();
        Self {
            bot: runner.bot.clone(),
            lanes: Lanes::default(),
            held: HashMap::new(),
            anchor: Anchor::default(),
            handler: (bot.clone(), handler_of(&engine, bot)),
            handlers: Arc::new(Semaphore::new(engine.config.server.workers)),
            quarantine: Arc::new(Semaphore::new(1)),
            ended,
            endings,
            put_off: VecDeque::new(),
            stop: engine.drain.child_token(),
            running: 0,
            serving: false,
            refill: false,
            giving_back: None,
            evicting: HashMap::new(),
            prefetch: usize::from(prefetch),
            throughput: Throughput::new(prefetch, Instant::now()),
            crowded: false,
            unsure: false,
            looked: Instant::now(),
            broken: false,
            freezes: engine.pulse.freezes(),
            gauge: LaneGauge::default(),
            engine,
        }
    }

    /// Serves until the consumer ends, the bot is taken away, or the worker drains.
    pub(crate) async fn serve(mut self, runner: &mut Runner, mut deliveries: Deliveries) -> Detached {
        let _stop = self.stop.clone().drop_guard();
        let drain = self.engine.drain.clone();
        // Its turn to look into the waiting room, while it wants one.
        let mut turn: Option<BoxFuture<'static, _>> = None;
        let status = runner.status.clone();
        let source = Source::Bot(self.bot.clone());
        let mut silence = Silence::new(self.engine.queue.clone(), source, deliveries.places(), move || {
            status.is_alone()
        });
        loop {
            if self.giving_back.is_some() && self.lanes.is_idle() {
                match deliveries.try_next() {
                    Some(delivery) => self.deliver(delivery, &mut deliveries, &runner.status).await,
                    None => return Detached::Done,
                }
            }
            // A busy bot is not given back: it would stand still until it is idle. The placement asks again.
            self.giving_back = self.giving_back.filter(|since| since.elapsed() < GIVE_BACK_PATIENCE);
            if self.broken || deliveries.has_ended() || self.engine.pulse.freezes() != self.freezes {
                return Detached::Lost;
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => {
                    self.settle_running().await;
                    return Detached::Draining(deliveries);
                }
                () = runner.revoked.cancelled() => {
                    self.stop.cancel();
                    self.settle_running().await;
                    return Detached::Done;
                }
                Some(ended) = self.endings.recv() => {
                    self.ended(ended).await;
                    while let Ok(ended) = self.endings.try_recv() {
                        self.ended(ended).await;
                    }
                }
                Some(command) = runner.commands.recv() => match command {
                    Command::Serve if !self.serving => self.begin_serving(&runner.status, false).await,
                    Command::Serve => {}
                    Command::Due => self.refill = true,
                    Command::GiveBack => self.giving_back = self.giving_back.or(Some(Instant::now())),
                },
                Some(turned) = OptionFuture::from(turn.as_mut()) => {
                    turn = None;
                    // Never closed.
                    if let Ok(turned) = turned {
                        self.refill(turned).await;
                    }
                }
                delivery = deliveries.next() => {
                    let Some(delivery) = delivery else { return Detached::Lost };
                    silence.heard();
                    tokio::select! {
                        () = self.deliver(delivery, &mut deliveries, &runner.status) => {}
                        () = drain.cancelled() => {}
                    }
                }
                () = tokio::time::sleep_until((self.looked + LOOK_EVERY).into()), if self.serving => self.unsure = true,
                () = tokio::time::sleep_until(self.throughput.due().into()), if self.is_short() => {}
                () = silence.is_proved() => return Detached::Lost,
            }
            while let Some(ended) = self.put_off.pop_front() {
                self.ended(ended).await;
            }
            if self.throughput.is_slow_at(Instant::now(), self.is_short()) {
                self.make_room();
            }
            // What is on its way into the waiting room is not counted there yet: its ending wakes this loop.
            if self.unsure && self.serving && self.evicting.is_empty() {
                let found = self.look_for_unfinished().await;
                telemetry::SWEPT.add(found.unwrap_or(0));
            }
            if self.refill && self.serving && turn.is_none() {
                turn = Some(self.engine.looks.clone().acquire_owned().boxed());
            }
            self.gauge.set(self.lanes.len());
            runner.status.set_holds(!self.held.is_empty());
            self.anchor.tend(self.is_busy());
        }
    }

    /// Takes up a delivery and whatever stands behind it.
    async fn deliver(&mut self, first: Delivery, deliveries: &mut Deliveries, status: &Status) {
        let mut batch = vec![first];
        while batch.len() < MAX_ARRIVALS
            && let Some(delivery) = deliveries.try_next()
        {
            batch.push(delivery);
        }
        // The first delivery proves that this is the active consumer: whatever was looked up before, a predecessor may have
        // left more since.
        if !status.proved() {
            status.set_receives();
            self.begin_serving(status, true).await;
        }
        self.arrive(batch).await;
    }

    /// The first delivery, or the placement, says that this worker is the one: what a predecessor left comes first.
    async fn begin_serving(&mut self, status: &Status, proved: bool) {
        if let Some(found) = self.look_for_unfinished().await {
            self.serving = true;
            status.set_serves(proved);
            tracing::info!(bot = %self.bot, unfinished = found, "serving");
        }
    }

    /// Takes up every unfinished row that is not in memory, and counts anew what waits behind the lanes. After a predecessor
    /// this is what it left; in mid-course, what a lost answer of the database left nobody sure about.
    async fn look_for_unfinished(&mut self) -> Option<u64> {
        let mut found = 0;
        let behind = loop {
            let held: Vec<EventKey> = self.held.keys().cloned().collect();
            match self.engine.store.unfinished(&self.bot, &held).await {
                Ok(unfinished) => {
                    let evicting = &self.evicting;
                    self.lanes.recount(&unfinished.held, |chat| evicting.contains_key(chat));
                    let rows = unfinished.rows.len();
                    found += rows as u64;
                    for row in unfinished.rows {
                        self.hold(Work {
                            row,
                            receipt: None,
                            started: false,
                        });
                    }
                    // A full page: there may be more, and nothing may start before all are in their lanes.
                    if rows < UNFINISHED_PAGE {
                        break unfinished.held;
                    }
                }
                Err(error) => {
                    tracing::warn!(bot = %self.bot, %error, "cannot look for unfinished events; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                        () = self.stop.cancelled() => return None,
                    }
                }
            }
        };
        // A retry that waits, and later events that were in memory when the last owner went: they go behind it again.
        for (chat, behind) in &behind {
            if behind.first.is_some_and(|first| self.lanes.has_after(chat, first)) {
                self.evict(chat);
            }
        }
        self.unsure = false;
        self.looked = Instant::now();
        if found > 0 && !self.serving {
            // A predecessor may have died with requests on the wire: they may arrive until nobody waits for them any more.
            for key in levels::senders(&self.handler.0, &self.engine.bots.now()) {
                self.engine.quota.pause(&key, quota::QUIET).await;
            }
        }
        for chat in self.lanes.ready() {
            self.start_next(&chat);
        }
        // Whatever waits may be due already, and chats with rows behind them have nothing in memory to call for them.
        self.refill = true;
        Some(found)
    }

    fn enter(&mut self, work: Work) {
        let chat = work.row.envelope.chat.clone();
        self.hold(work);
        self.start_next(&chat);
    }

    fn hold(&mut self, work: Work) {
        self.held.entry(work.row.envelope.key.clone()).or_default();
        let chat = work.row.envelope.chat.clone();
        let (position, priority) = (work.row.position, work.row.priority());
        self.lanes.enter(&chat, position, priority, work);
    }

    fn start_next(&mut self, chat: &Arc<str>) {
        if self.stop.is_cancelled() {
            return;
        }
        if let Some(Started { event, urgency }) = self.lanes.next(chat) {
            self.spawn(chat.clone(), event, urgency, false);
        }
    }

    /// Runs an event in a task of its own; its panic ends this attachment, not the process.
    fn spawn(&mut self, chat: Arc<str>, mut work: Work, urgency: Urgency, park: bool) {
        let run = Run {
            engine: self.engine.clone(),
            bot: self.current_bot(),
            handler: self.handler.1.clone(),
            handlers: self.handlers.clone(),
            quarantine: self.quarantine.clone(),
            stop: self.stop.clone(),
            freezes: self.freezes,
            urgency,
            anchor: self.anchor.clone(),
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
        if let Some(bot) = self.engine.bots.now().served(self.bot.as_str())
            && !Arc::ptr_eq(bot, &self.handler.0)
        {
            self.handler = (bot.clone(), handler_of(&self.engine, bot));
        }
        self.handler.0.clone()
    }

    /// Waits for the database. Chats go on meanwhile: where a commit takes long, none waits for that of another's events.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                Some(ended) = self.endings.recv() => self.ended_meanwhile(ended),
            }
        }
    }

    /// An event has ended while others are being taken up. When it is done with, nothing about it concerns them: they stand
    /// after it. All else has to wait for them.
    fn ended_meanwhile(&mut self, ended: Ended) {
        match ended {
            Ended {
                chat,
                work: Some(work),
                end: End::Settled,
                parked: false,
            } => {
                self.running -= 1;
                self.release(&work.row.envelope.key);
                self.goes_on(&chat);
            }
            other => self.put_off.push_back(other),
        }
    }

    /// The chat's running event has left it.
    fn goes_on(&mut self, chat: &Arc<str>) {
        self.lanes.ended(chat);
        self.throughput.ended();
        self.start_next(chat);
        self.refill |= self.wants_refill(chat);
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
        if parked {
            self.evicted(&chat, end);
        }
        match end {
            End::Settled => self.release(&key),
            End::Waiting { hold } => {
                self.release(&key);
                if hold && !parked {
                    self.lanes.behind(&chat, 1, work.row.priority());
                    self.evict(&chat);
                }
            }
            End::Lost => self.look_again(work).await,
            // Its row is the next owner's; the delivery must not be acknowledged by anybody.
            End::Stopped => self.broken |= !self.stop.is_cancelled(),
        }
        if parked {
            self.start_next(&chat);
            self.refill |= self.wants_refill(&chat);
        } else {
            self.goes_on(&chat);
        }
    }

    /// The event has left memory: copies of it can be acknowledged, its row says what happened.
    fn release(&mut self, key: &EventKey) {
        for copy in self.held.remove(key).unwrap_or_default() {
            self.anchor.settle(copy);
        }
    }

    /// Whether a successor would have something to do at once: in memory, or behind a lane.
    fn is_busy(&self) -> bool {
        !self.held.is_empty() || self.lanes.len() > 0
    }

    /// Lets what runs come to its end: requests on the wire are answered, outcomes committed, deliveries acknowledged.
    async fn settle_running(&mut self) {
        let mut handed_over = false;
        while self.running > 0 {
            let next = match self.put_off.pop_front() {
                Some(ended) => Some(ended),
                None => self.endings.recv().await,
            };
            let Some(ended) = next else { return };
            self.running -= 1;
            let Some(work) = ended.work else { continue };
            if matches!(ended.end, End::Settled | End::Waiting { .. }) {
                self.release(&work.row.envelope.key);
            } else {
                handed_over |= work.receipt.is_some();
            }
        }
        handed_over |= self.lanes.queued().any(|work| work.receipt.is_some());
        // A successor that is handed unfinished work needs nothing finished beside it; and when nothing is left that it could
        // begin at once, the others must find nothing in the queue.
        self.anchor.tend(!self.held.is_empty() && !handed_over);
    }
}

/// The bot's handler. Its rules were compiled once when the configuration was read; should that ever not be enough, the
/// events wait for a better configuration instead of being answered wrongly.
fn handler_of(engine: &Engine, bot: &Bot) -> Arc<dyn Handler> {
    engine.handlers.of(&bot.handler).unwrap_or_else(|error| {
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
