//! The publishing role of a connection: a few confirm channels, each with a task that writes what waits as one burst.
//!
//! A bot's publishes share one channel (hash of its id), which keeps their order. Publishes are persistent and not
//! `mandatory`: the alternate exchange makes unroutable impossible. Every [`lapin::PublisherConfirm`] is awaited by
//! itself and must be an Ack: `wait_for_confirms` hides nacks (`docs/design/delivery.md` §1).

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::codec;
use super::line::{Answer, Backlog, Job, Line};
use super::link::{CALL_TIMEOUT, CLOSE_TIMEOUT, Role, Session, within};
use super::packing::Packing;
use super::topology::{self, DeclareError, Declared, Declarer};
use openclaw_common::bot::BotId;
use openclaw_common::envelope::Envelope;
use openclaw_common::fail_point::fail_point;
use openclaw_common::queue::{PublishError, QueueError};

/// Confirm channels. One saturates at 24,000 msgs/s over 20 queues, four reach 28,000 to 33,000 (`docs/design/delivery.md` §11).
const CHANNELS: usize = 4;

/// Publishes that may wait for a channel to take them up, beside the places of each bot ([`Line`]). What comes on top is
/// refused at once: it would time out anyway.
const WAITING: usize = 1024;

/// How long the first event of a bot is tried again when it is certain that there is no copy. A queue that another process has
/// begun to make a moment ago exists already and takes nothing yet: the broker rejects what is published to it.
const FIRST: Duration = Duration::from_secs(1);

/// Between two tries of what passes by itself.
const AGAIN: Duration = Duration::from_millis(50);

/// Publishes taken up at once, at most.
const BURST: usize = 128;

/// One epoch of the publishing connection.
#[derive(Debug)]
pub(super) struct Publisher {
    session: Arc<Session>,
    lanes: Vec<mpsc::Sender<Job>>,
    lines: RwLock<HashMap<BotId, Arc<Line>>>,
    declared: Arc<Declared>,
    declarer: Declarer,
    tasks: TaskTracker,
}

impl Role for Publisher {
    type Setup = (Arc<Declared>, Arc<Packing>);

    async fn open(session: Arc<Session>, (declared, packing): &Self::Setup) -> Result<Self, QueueError> {
        topology::declare_shared(&session.channel().await?).await?;
        declared.clear();
        let tasks = TaskTracker::new();
        let mut lanes = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let channel = session.channel().await?;
            let confirm = channel.confirm_select(ConfirmSelectOptions::default());
            within(CALL_TIMEOUT, "asking for confirms", confirm).await?;
            let (sender, jobs) = mpsc::channel(WAITING);
            tasks.spawn(Lane::new(channel, Arc::clone(&session), Arc::clone(packing)).run(jobs));
            lanes.push(sender);
        }
        Ok(Self {
            session,
            lanes,
            lines: RwLock::default(),
            declared: Arc::clone(declared),
            declarer: Declarer::default(),
            tasks,
        })
    }

    async fn finish(&self) {
        self.session.ended.cancel();
        self.tasks.close();
        if timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("publishes are still unconfirmed; closing without them");
        }
        self.session.close().await;
        // A closed connection has failed every confirm that was still out.
        self.tasks.wait().await;
    }
}

impl Publisher {
    /// Publishes one event and waits for its confirm until `deadline`.
    pub(super) async fn publish(&self, envelope: Arc<Envelope>, deadline: Instant) -> Result<(), PublishError> {
        match timeout_at(deadline, self.declare(&envelope.bot)).await {
            // Without a queue it is safe in `unrouted`, from where the worker brings it.
            Ok(Ok(()) | Err(DeclareError::JustDeleted)) => {}
            Ok(Err(error)) => return Err(PublishError::Refused(QueueError::from(error).0)),
            Err(_) => {
                return Err(PublishError::Refused(
                    "declaring the bot's queue took too long".to_owned(),
                ));
            }
        }
        let line = self.line(&envelope.bot);
        let first = deadline.min(Instant::now() + FIRST);
        loop {
            let result = self.publish_once(Arc::clone(&envelope), &line, deadline).await;
            let again = matches!(result, Err(PublishError::Refused(_)))
                && !line.is_proved()
                && !self.session.ended.is_cancelled()
                && Instant::now() + AGAIN < first;
            if !again {
                return result;
            }
            sleep(AGAIN).await;
        }
    }

    /// Makes sure that the bot has a queue, for as long as it takes.
    pub(super) async fn prepare(&self, bot: &BotId) -> Result<(), QueueError> {
        match timeout(CALL_TIMEOUT, self.declare(bot)).await {
            Ok(declared) => Ok(declared?),
            Err(_) => Err(QueueError("declaring the bot's queue took too long".to_owned())),
        }
    }

    async fn declare(&self, bot: &BotId) -> Result<(), DeclareError> {
        loop {
            match self.declarer.ensure(&self.session, &self.declared, bot).await {
                Err(DeclareError::Passing(_)) if !self.session.ended.is_cancelled() => sleep(AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    async fn publish_once(
        &self,
        envelope: Arc<Envelope>,
        line: &Arc<Line>,
        deadline: Instant,
    ) -> Result<(), PublishError> {
        let place = line.place(deadline).await?;
        let lane = &self.lanes[lane_of(&envelope.bot, self.lanes.len())];
        let (answer, answered) = oneshot::channel();
        let job = Job {
            envelope,
            answer,
            line: Arc::clone(line),
            place,
        };
        lane.try_send(job).map_err(|error| {
            PublishError::Refused(match error {
                mpsc::error::TrySendError::Full(_) => format!("{WAITING} publishes are waiting already"),
                mpsc::error::TrySendError::Closed(_) => "the connection just ended".to_owned(),
            })
        })?;
        match timeout_at(deadline, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(PublishError::Unknown(
                "the connection ended before the confirm".to_owned(),
            )),
            Err(_) => {
                line.miss();
                Err(PublishError::Unknown(
                    "the broker's confirm did not come in time".to_owned(),
                ))
            }
        }
    }

    fn line(&self, bot: &BotId) -> Arc<Line> {
        if let Some(line) = self.lines.read().unwrap_or_else(PoisonError::into_inner).get(bot) {
            return Arc::clone(line);
        }
        let mut lines = self.lines.write().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(bot.clone()).or_insert_with(|| Arc::new(Line::new()));
        Arc::clone(line)
    }
}

fn lane_of(bot: &BotId, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    bot.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or(0)
}

/// One confirm channel and the bots whose publishes it carries.
struct Lane {
    channel: Arc<Channel>,
    session: Arc<Session>,
    packing: Arc<Packing>,
    /// Of every bot that has published here.
    backlogs: HashMap<BotId, Backlog>,
    /// When to look at whose backlog, though nothing comes and nothing is confirmed.
    looks: BinaryHeap<Reverse<(Instant, BotId)>>,
    unconfirmed: FuturesUnordered<Pin<Box<dyn Future<Output = BotId> + Send>>>,
}

impl Lane {
    fn new(channel: Channel, session: Arc<Session>, packing: Arc<Packing>) -> Self {
        Self {
            channel: Arc::new(channel),
            session,
            packing,
            backlogs: HashMap::new(),
            looks: BinaryHeap::new(),
            unconfirmed: FuturesUnordered::new(),
        }
    }

    /// Writes what waits, awaits what is written, until the session ends.
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut burst = Vec::with_capacity(BURST);
        // Whose next message may go out by now.
        let mut due: Vec<BotId> = Vec::new();
        let session = Arc::clone(&self.session);
        let mut ended = std::pin::pin!(session.ended.cancelled());
        loop {
            let look_at = self.looks.peek().map(|Reverse((at, _))| *at);
            tokio::select! {
                biased;
                () = &mut ended => break,
                Some(bot) = self.unconfirmed.next(), if !self.unconfirmed.is_empty() => self.confirmed(bot, &mut due),
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() => {}
                taken = jobs.recv_many(&mut burst, BURST) => if taken == 0 { break },
            }
            let now = Instant::now();
            // Confirms come in groups, and what has come meanwhile goes out with it.
            while let Some(Some(bot)) = self.unconfirmed.next().now_or_never() {
                self.confirmed(bot, &mut due);
            }
            while let Some(look) = self.looks.peek_mut()
                && look.0.0 <= now
            {
                due.push(PeekMut::pop(look).0.1);
            }
            while burst.len() < BURST
                && let Ok(job) = jobs.try_recv()
            {
                burst.push(job);
            }
            for job in burst.drain(..) {
                let bot = &job.envelope.bot;
                if due.last() != Some(bot) {
                    due.push(bot.clone());
                }
                self.backlogs.entry(bot.clone()).or_default().push(job);
            }
            if !self.channel.status().connected() {
                session.give_up("a publishing channel was closed");
                break;
            }
            for bot in due.drain(..) {
                self.write(&bot, now);
            }
        }
        jobs.close();
        for job in self.backlogs.into_values().flat_map(Backlog::into_jobs) {
            refuse(job);
        }
        while let Some(job) = jobs.recv().await {
            refuse(job);
        }
        // Confirms may still come while the connection is closed politely; a lost one has failed all of them already.
        while self.unconfirmed.next().await.is_some() {}
    }

    fn confirmed(&mut self, bot: BotId, due: &mut Vec<BotId>) {
        if let Some(backlog) = self.backlogs.get_mut(&bot) {
            backlog.ended();
        }
        due.push(bot);
    }

    /// Writes the messages of `bot` whose turn it is.
    fn write(&mut self, bot: &BotId, now: Instant) {
        let Some(backlog) = self.backlogs.get_mut(bot) else {
            return;
        };
        while let Some(events) = backlog.next(now) {
            self.packing.wrote(bot, events.len());
            let mut publishing = Box::pin(publish(Arc::clone(&self.channel), bot.clone(), events));
            // The first poll puts the frames into lapin's buffer: polling here, in turn, keeps the order and makes the
            // whole burst one write. `FuturesUnordered` polls again with a real waker.
            let first = publishing.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            if first.is_pending() {
                self.unconfirmed.push(publishing);
            } else {
                backlog.ended();
            }
        }
        if let Some(at) = backlog.look() {
            self.looks.push(Reverse((at, bot.clone())));
        }
    }
}

/// Certainly never written.
fn refuse(job: Job) {
    let ended = PublishError::Refused("the connection just ended".to_owned());
    answer(job.answer, Err(ended));
}

/// Writes one message, awaits its confirm and answers the callers.
async fn publish(channel: Arc<Channel>, bot: BotId, events: Vec<Job>) -> BotId {
    let result = async {
        let (properties, body) = codec::message(&bot, events.iter().map(|job| &*job.envelope));
        let sent = channel
            .basic_publish(
                topology::EVENTS.into(),
                bot.as_str().into(),
                BasicPublishOptions::default(),
                &body,
                properties,
            )
            .await;
        drop(body);
        for job in &events {
            fail_point("I2", &job.envelope.key.key);
        }
        sent?.await
    };
    let result = match result.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Refused("the broker returned it".to_owned())),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Refused("the broker rejected it (nack)".to_owned())),
        // Confirm mode was asked for when the channel was opened: this would be our bug, and no copy is proven.
        Ok(Confirmation::NotRequested) => Err(PublishError::Refused("the channel gives no confirms".to_owned())),
        Err(error) => Err(PublishError::Unknown(error.to_string())),
    };
    let (heard, stored) = (!matches!(result, Err(PublishError::Unknown(_))), result.is_ok());
    for Job {
        answer: to,
        line,
        place,
        ..
    } in events
    {
        if heard {
            line.heard();
        }
        if stored {
            line.prove();
        }
        // The next one's turn, before this one's caller goes on.
        drop(place);
        answer(to, result.clone());
    }
    bot
}

/// The caller may have gone meanwhile; then nobody wants the answer.
fn answer(to: Answer, result: Result<(), PublishError>) {
    to.send(result).ok();
}
