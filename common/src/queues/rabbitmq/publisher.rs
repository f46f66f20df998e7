//! The publishing role of a connection: a few confirm channels, each with a task that writes what waits as one burst.
//!
//! A bot's publishes share one channel (hash of its id), which keeps their order. Publishes are persistent and not
//! `mandatory`: the alternate exchange makes unroutable impossible. Every [`lapin::PublisherConfirm`] is awaited by
//! itself and must be an Ack: `wait_for_confirms` hides nacks (`reliability.md` §0.2).

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::task::{Context, Waker};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
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

/// Unconfirmed publishes a channel. More buys latency only (`feasibility.md` §4a).
const WINDOW: usize = 128;

/// Publishes that may wait for a channel's window. What comes on top is refused at once: it would time out anyway.
const WAITING: usize = 1024;

type Answer = oneshot::Sender<Result<(), PublishError>>;

struct Job {
    envelope: Arc<Envelope>,
    answer: Answer,
}

/// One epoch of the publishing connection.
#[derive(Debug)]
pub(super) struct Publisher {
    session: Arc<Session>,
    lanes: Vec<mpsc::Sender<Job>>,
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
        let lane = &self.lanes[lane_of(&envelope.bot, self.lanes.len())];
        let (answer, answered) = oneshot::channel();
        lane.try_send(Job { envelope, answer }).map_err(|error| {
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
            Err(_) => Err(PublishError::Unknown(
                "the broker's confirm did not come in time".to_owned(),
            )),
        }
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
    let mut burst = Vec::with_capacity(WINDOW);
    let mut ended = std::pin::pin!(session.ended.cancelled());
    loop {
        let room = WINDOW - unconfirmed.len();
        tokio::select! {
            biased;
            () = &mut ended => break,
            // Confirms first: they come in groups, and so does what their callers publish next.
            Some(()) = unconfirmed.next(), if !unconfirmed.is_empty() => {}
            taken = jobs.recv_many(&mut burst, room), if room > 0 => {
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
async fn publish(channel: &Channel, Job { envelope, answer: to }: Job) {
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
    answer(
        to,
        match result.await {
            Ok(Confirmation::Ack(None)) => Ok(()),
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
