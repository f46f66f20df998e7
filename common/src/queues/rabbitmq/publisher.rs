//! The publishing role of a connection: a few confirm channels.
//!
//! A bot's publishes share one channel (hash of its id), which keeps their order. Publishes are persistent and not
//! `mandatory`: the alternate exchange makes unroutable impossible. Every [`lapin::PublisherConfirm`] is awaited by
//! itself and must be an Ack: `wait_for_confirms` hides nacks (`reliability.md` §0.2).
//!
//! Publishes that meet become one burst in lapin's own buffer: while its thread writes, what comes next gathers there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use tokio::sync::Semaphore;
use tokio::time::timeout;
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

/// Unconfirmed publishes a channel; further ones wait. More buys latency only (`feasibility.md` §4a).
const WINDOW: usize = 128;

/// One epoch of the publishing connection.
#[derive(Debug)]
pub(super) struct Publisher {
    session: Arc<Session>,
    lanes: Vec<Lane>,
    declared: Arc<Declared>,
    declarer: Declarer,
    /// Publishes that have not ended.
    open: TaskTracker,
}

#[derive(Debug)]
struct Lane {
    channel: Channel,
    room: Semaphore,
}

/// How far a publish has come: what its end without an answer means.
#[derive(Clone, Copy)]
enum Stage {
    Declaring,
    Waiting,
    Written,
}

impl Stage {
    fn late(self) -> PublishError {
        match self {
            Self::Declaring => PublishError::Refused("declaring the bot's queue took too long".to_owned()),
            Self::Waiting => PublishError::Refused(format!("{WINDOW} publishes before it are unconfirmed")),
            Self::Written => PublishError::Unknown("the broker's confirm did not come in time".to_owned()),
        }
    }
}

impl Role for Publisher {
    type Setup = Arc<Declared>;

    async fn open(session: Arc<Session>, declared: &Self::Setup) -> Result<Self, QueueError> {
        topology::declare_shared(&session.channel().await?).await?;
        declared.clear();
        let mut lanes = Vec::with_capacity(CHANNELS);
        for _ in 0..CHANNELS {
            let channel = session.channel().await?;
            let confirm = channel.confirm_select(ConfirmSelectOptions::default());
            within(CALL_TIMEOUT, "asking for confirms", confirm).await?;
            let room = Semaphore::new(WINDOW);
            lanes.push(Lane { channel, room });
        }
        Ok(Self {
            session,
            lanes,
            declared: Arc::clone(declared),
            declarer: Declarer::default(),
            open: TaskTracker::new(),
        })
    }

    async fn finish(&self) {
        self.session.ended.cancel();
        self.lanes.iter().for_each(|lane| lane.room.close());
        self.open.close();
        // Confirms may still come.
        if timeout(CLOSE_TIMEOUT, self.open.wait()).await.is_err() {
            tracing::warn!("publishes are still unconfirmed; closing without them");
        }
        self.session.close().await;
        // A closed connection has failed every confirm that was still out.
        self.open.wait().await;
    }
}

impl Publisher {
    /// Publishes one event and waits for its confirm, within `limit`.
    pub(super) async fn publish(&self, envelope: &Envelope, limit: Duration) -> Result<(), PublishError> {
        let mut stage = Stage::Declaring;
        let publishing = self.open.track_future(self.run(envelope, &mut stage));
        let ended = timeout(limit, publishing).await;
        ended.unwrap_or_else(|_| Err(stage.late()))
    }

    async fn run(&self, envelope: &Envelope, stage: &mut Stage) -> Result<(), PublishError> {
        let declaring = self.declarer.ensure(&self.session, &self.declared, &envelope.bot);
        declaring
            .await
            .map_err(|QueueError(reason)| PublishError::Refused(reason))?;
        *stage = Stage::Waiting;
        let Lane { channel, room } = &self.lanes[lane_of(&envelope.bot, self.lanes.len())];
        let room = room.acquire().await;
        if room.is_err() || self.session.ended.is_cancelled() {
            return Err(PublishError::Refused("the connection just ended".to_owned()));
        }
        if !channel.status().connected() {
            self.session.give_up("a publishing channel was closed");
            return Err(PublishError::Refused("the channel is closed".to_owned()));
        }
        *stage = Stage::Written;
        confirmed(channel, envelope).await
    }
}

fn lane_of(bot: &BotId, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    bot.hash(&mut hasher);
    usize::try_from(hasher.finish() % lanes as u64).unwrap_or(0)
}

/// Writes one publish and awaits its confirm.
async fn confirmed(channel: &Channel, envelope: &Envelope) -> Result<(), PublishError> {
    let confirm = async {
        // Its first poll puts the frames into lapin's buffer, all or none.
        let sent = channel
            .basic_publish(
                topology::EVENTS.into(),
                envelope.bot.as_str().into(),
                BasicPublishOptions::default(),
                &envelope.body,
                codec::properties(envelope),
            )
            .await;
        fail_point("I2", &envelope.key.key);
        sent?.await
    };
    match confirm.await {
        Ok(Confirmation::Ack(None)) => Ok(()),
        Ok(Confirmation::Ack(Some(_))) => Err(PublishError::Refused("the broker returned it".to_owned())),
        Ok(Confirmation::Nack(_)) => Err(PublishError::Refused("the broker rejected it (nack)".to_owned())),
        // Confirm mode was asked for when the channel was opened: this would be our bug, and no copy is proven.
        Ok(Confirmation::NotRequested) => Err(PublishError::Refused("the channel gives no confirms".to_owned())),
        Err(error) => Err(PublishError::Unknown(error.to_string())),
    }
}
