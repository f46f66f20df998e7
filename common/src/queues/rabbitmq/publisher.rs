//! The publishing role of a connection: a few confirm channels, each with a task that writes what waits as one burst.
//!
//! A bot's publishes share one channel (hash of its id), which keeps their order. Publishes are persistent and not
//! `mandatory`: the alternate exchange makes unroutable impossible. Every [`lapin::PublisherConfirm`] is awaited by
//! itself and must be an Ack: `wait_for_confirms` hides nacks (`reliability.md` §0.2).

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::codec;
use super::link::{CALL_TIMEOUT, CLOSE_TIMEOUT, Role, Session, within};
use super::topology::{self, Declared, Declarer};
use crate::bot::BotId;
use crate::envelope::Envelope;
use crate::fail_point::fail_point;
use crate::queue::{PublishError, QueueError};

/// Confirm channels. One saturates at 24,000 msgs/s over 20 queues, four reach 28,000 to 33,000 (`feasibility.md` §4a).
const CHANNELS: usize = 4;

/// Unconfirmed publishes a bot. A queue without a leader confirms nothing and refuses nothing, and when 32 wait for it
/// RabbitMQ reads no more from the connection (`quorum_commands_soft_limit`). For a single bot 16 give 45 % of what 128
/// give, for 20 bots the machine is the limit (`feasibility.md` §4a).
const WINDOW: usize = 24;

/// Publishes that may wait for a channel. What comes on top is refused at once: it would time out anyway.
const WAITING: usize = 1024;

/// Publishes written at once, at most.
const BURST: usize = 128;

type Answer = oneshot::Sender<Result<(), PublishError>>;

struct Job {
    envelope: Arc<Envelope>,
    answer: Answer,
    line: Arc<Line>,
    /// Kept until the confirm, whether or not anybody still waits for it.
    place: OwnedSemaphorePermit,
}

/// One bot's share of its channel.
#[derive(Debug)]
struct Line {
    places: Arc<Semaphore>,
    /// A confirm did not come in time, and none has come since.
    stuck: AtomicBool,
}

impl Line {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(WINDOW)),
            stuck: AtomicBool::new(false),
        }
    }

    /// A place among the bot's unconfirmed publishes.
    async fn place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, PublishError> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        // Nobody waits for a queue that is known to confirm nothing: what waits here is kept from other bots' events.
        if !self.stuck.load(Ordering::Relaxed)
            && let Ok(Ok(place)) = timeout_at(deadline, Arc::clone(&self.places).acquire_owned()).await
        {
            return Ok(place);
        }
        Err(PublishError::Refused(format!(
            "{WINDOW} earlier events of the bot are not confirmed: has its queue no leader?"
        )))
    }
}

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
    type Setup = Arc<Declared>;

    async fn open(session: Arc<Session>, declared: &Self::Setup) -> Result<Self, QueueError> {
        topology::declare_shared(&session.channel().await?).await?;
        declared.clear();
        let tasks = TaskTracker::new();
        let mut lanes = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let channel = session.channel().await?;
            let confirm = channel.confirm_select(ConfirmSelectOptions::default());
            within(CALL_TIMEOUT, "asking for confirms", confirm).await?;
            let (sender, jobs) = mpsc::channel(WAITING);
            tasks.spawn(run_lane(channel, jobs, Arc::clone(&session)));
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
        let declaring = self.declarer.ensure(&self.session, &self.declared, &envelope.bot);
        match timeout_at(deadline, declaring).await {
            Ok(Ok(())) => {}
            Ok(Err(QueueError(reason))) => return Err(PublishError::Refused(reason)),
            Err(_) => {
                return Err(PublishError::Refused(
                    "declaring the bot's queue took too long".to_owned(),
                ));
            }
        }
        let line = self.line(&envelope.bot);
        let place = line.place(deadline).await?;
        let lane = &self.lanes[lane_of(&envelope.bot, self.lanes.len())];
        let (answer, answered) = oneshot::channel();
        let job = Job {
            envelope,
            answer,
            line: Arc::clone(&line),
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
                line.stuck.store(true, Ordering::Relaxed);
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

/// Writes what waits, awaits what is written, until the session ends.
async fn run_lane(channel: Channel, mut jobs: mpsc::Receiver<Job>, session: Arc<Session>) {
    let mut unconfirmed = FuturesUnordered::new();
    let mut burst = Vec::with_capacity(BURST);
    let mut ended = std::pin::pin!(session.ended.cancelled());
    loop {
        tokio::select! {
            biased;
            () = &mut ended => break,
            // Confirms first: they come in groups, and so does what their callers publish next.
            Some(()) = unconfirmed.next(), if !unconfirmed.is_empty() => {}
            taken = jobs.recv_many(&mut burst, BURST) => {
                if taken == 0 {
                    break;
                }
                // A caller that gave up before its turn has nothing to lose: not writing is certainly no copy.
                for job in burst.drain(..).filter(|job| !job.answer.is_closed()) {
                    if !channel.status().connected() {
                        session.give_up("a publishing channel was closed");
                        answer(job.answer, Err(PublishError::Refused("the channel is closed".to_owned())));
                        continue;
                    }
                    let mut publishing = Box::pin(publish(&channel, job));
                    // The first poll puts the frames into lapin's buffer: polling here, in turn, keeps the order and
                    // makes the whole burst one write. `FuturesUnordered` polls again with a real waker.
                    if publishing.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
                        unconfirmed.push(publishing);
                    }
                }
            }
        }
    }
    jobs.close();
    while let Some(job) = jobs.recv().await {
        answer(
            job.answer,
            Err(PublishError::Refused("the connection just ended".to_owned())),
        );
    }
    // Confirms may still come while the connection is closed politely; a lost one has failed all of them already.
    while unconfirmed.next().await.is_some() {}
}

/// Writes one publish, awaits its confirm and answers the caller.
async fn publish(channel: &Channel, job: Job) {
    let Job {
        envelope,
        answer: to,
        line,
        place,
    } = job;
    let result = async {
        let sent = channel
            .basic_publish(
                topology::EVENTS.into(),
                envelope.bot.as_str().into(),
                BasicPublishOptions::default(),
                &envelope.body,
                codec::properties(&envelope),
            )
            .await;
        fail_point("I2", &envelope.key.key);
        sent?.await
    };
    let result = result.await;
    // The next one's turn, before this one's caller goes on.
    drop(place);
    answer(
        to,
        match result {
            Ok(Confirmation::Ack(None)) => {
                line.stuck.store(false, Ordering::Relaxed);
                Ok(())
            }
            Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Refused("the broker returned it".to_owned())),
            Ok(Confirmation::Nack(_)) => Err(PublishError::Refused("the broker rejected it (nack)".to_owned())),
            // Confirm mode was asked for when the channel was opened: this would be our bug, and no copy is proven.
            Ok(Confirmation::NotRequested) => Err(PublishError::Refused("the channel gives no confirms".to_owned())),
            Err(error) => Err(PublishError::Unknown(error.to_string())),
        },
    );
}

/// The caller may have gone meanwhile; then nobody wants the answer.
fn answer(to: Answer, result: Result<(), PublishError>) {
    to.send(result).ok();
}
