//! Exchanges and queues (`docs/design/delivery.md` §2), and the memory of what is declared.
//!
//! Declared arguments never change: a queue that exists with others answers 406 for ever. The names carry the version
//! instead. Only arguments that mean the same from RabbitMQ 3.10 to 4.x are sent, and `x-delivery-limit` always, because
//! the default of 4.x silently drops after 20 deliveries.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::link::Session;
use openclaw_common::bot::BotId;
use openclaw_common::queue::QueueError;
use openclaw_common::time;

/// The exchange every event is published to, with the bot's id as routing key.
pub(super) const EVENTS: &str = "openclaw.v1.events";
/// Exchange and queue of what the broker gave up on.
pub(super) const DEAD: &str = "openclaw.v1.dead";
/// Exchange and queue of events whose bot has no queue.
pub(super) const UNROUTED: &str = "openclaw.v1.unrouted";

/// Redeliveries before the broker gives an event up. Poison is counted in the Store; this is only the backstop against a
/// crash loop, far above what hand-overs add.
const DELIVERY_LIMIT: i64 = 1_000;

/// The portable spelling of "unlimited": -1 means "none at all" before RabbitMQ 4 (`docs/design/delivery.md` §1).
const UNLIMITED: i64 = 1_000_000;

/// A declaration that was refused is not tried again for this long, or every publish of the bot would close a channel.
const REFUSAL_MEMORY: Duration = Duration::from_secs(1);

/// How long a deleted queue is left to its consumers, who hear of the deletion within milliseconds and declare it again half a
/// second later.
const MOURNING: Duration = Duration::from_secs(3);

/// Why something could not be declared.
#[derive(Clone, Debug)]
pub(super) enum DeclareError {
    /// The broker will not have it, now or later: somebody must act.
    Refused(QueueError),
    /// The broker was at something else (it stops, elects a leader, another process declares the same): it heals by itself.
    Passing(QueueError),
    /// The bot's queue was deleted a moment ago: whoever consumes from it declares it again.
    JustDeleted,
}

impl From<DeclareError> for QueueError {
    fn from(error: DeclareError) -> Self {
        match error {
            DeclareError::Refused(error) | DeclareError::Passing(error) => error,
            DeclareError::JustDeleted => QueueError("the bot's queue was just deleted".to_owned()),
        }
    }
}

/// The queue of one bot.
pub(super) fn bot_queue(bot: &BotId) -> String {
    format!("openclaw.v1.bot.{bot}")
}

/// Declares what all bots share.
pub(super) async fn declare_shared(channel: &Channel) -> Result<(), DeclareError> {
    exchange(channel, UNROUTED, ExchangeKind::Fanout, FieldTable::default()).await?;
    queue(channel, UNROUTED, unrouted_arguments(), UNROUTED, "").await?;
    exchange(channel, DEAD, ExchangeKind::Fanout, FieldTable::default()).await?;
    queue(channel, DEAD, dead_arguments(), DEAD, "").await?;
    exchange(channel, EVENTS, ExchangeKind::Direct, events_arguments()).await
}

pub(super) fn unrouted_arguments() -> FieldTable {
    arguments([("x-delivery-limit", UNLIMITED.into())])
}

pub(super) fn dead_arguments() -> FieldTable {
    let mut single = unrouted_arguments();
    single.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    single
}

pub(super) fn events_arguments() -> FieldTable {
    // What finds no queue goes to `unrouted` instead of nowhere: so publishes need not be `mandatory`, whose returns
    // lapin pairs with the wrong publish as soon as two are in flight (`docs/design/delivery.md` §1).
    let mut alternate = FieldTable::default();
    alternate.insert("alternate-exchange".into(), text(UNROUTED));
    alternate
}

/// Declares one bot's queue and routes its events there.
pub(super) async fn declare_bot(channel: &Channel, bot: &BotId) -> Result<(), DeclareError> {
    queue(channel, &bot_queue(bot), bot_arguments(), EVENTS, bot.as_str()).await
}

pub(super) fn bot_arguments() -> FieldTable {
    arguments([
        ("x-delivery-limit", DELIVERY_LIMIT.into()),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-dead-letter-exchange", text(DEAD)),
        ("x-dead-letter-strategy", text("at-least-once")),
        // Without it at-least-once silently becomes at-most-once (`docs/design/delivery.md` §2).
        ("x-overflow", text("reject-publish")),
    ])
}

/// How many messages of `name` are ready, or `None` when there is no such queue. A missing queue closes the channel.
pub(super) async fn ready(channel: &Channel, name: &str) -> Result<Option<u64>, QueueError> {
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    match channel.queue_declare(name.into(), passive, FieldTable::default()).await {
        Ok(queue) => Ok(Some(queue.message_count().into())),
        Err(error) if soft_error(&error) == Some(&AMQPSoftError::NOTFOUND) => Ok(None),
        Err(error) => Err(QueueError(format!("looking at `{name}`: {error}"))),
    }
}

async fn exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: FieldTable,
) -> Result<(), DeclareError> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    channel
        .exchange_declare(name.into(), kind, durable, arguments)
        .await
        .map_err(|error| refused("exchange", name, &error))
}

/// Declares a durable queue and binds it to `exchange`.
async fn queue(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
    exchange: &str,
    routing_key: &str,
) -> Result<(), DeclareError> {
    channel
        .queue_declare(name.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .map_err(|error| refused("queue", name, &error))?;
    channel
        .queue_bind(
            name.into(),
            exchange.into(),
            routing_key.into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .map_err(|error| refused("binding of queue", name, &error))
}

fn arguments<const N: usize>(extra: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), text("quorum"));
    for (name, value) in extra {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn refused(what: &str, name: &str, error: &lapin::Error) -> DeclareError {
    let hint = match soft_error(error) {
        Some(AMQPSoftError::PRECONDITIONFAILED) => {
            "it exists with other properties or a feature flag is off (`rabbitmqctl enable_feature_flag all`): \
             empty and delete it, it is declared again by itself"
        }
        Some(AMQPSoftError::ACCESSREFUSED) => "the broker's user may not configure it",
        _ => {
            return DeclareError::Passing(QueueError(format!(
                "the {what} `{name}` could not be declared: {error}"
            )));
        }
    };
    DeclareError::Refused(QueueError(format!(
        "the broker refused the {what} `{name}`: {error}; {hint}"
    )))
}

fn soft_error(error: &lapin::Error) -> Option<&AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => match error.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}

/// Whether the broker has ended the whole connection because of one call: so it answers who wants to consume from a quorum
/// queue that has no leader.
pub(super) fn is_fatal(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if matches!(error.kind(), AMQPErrorKind::Hard(AMQPHardError::INTERNALERROR)))
}

/// Whether the broker says that there is no such exchange or queue.
pub(super) fn is_missing(error: &lapin::Error) -> bool {
    soft_error(error) == Some(&AMQPSoftError::NOTFOUND)
}

/// Whether the broker says that its user may not do that.
pub(super) fn is_refused(error: &lapin::Error) -> bool {
    soft_error(error) == Some(&AMQPSoftError::ACCESSREFUSED)
}

/// Which bots' queues are known to exist. Shared by both links: whoever learns that one is gone says so here.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// With the time at which they were, in Unix milliseconds.
    bots: RwLock<HashMap<BotId, i64>>,
    /// Since when a queue that was there is missing.
    missing: RwLock<HashMap<BotId, Instant>>,
    turns: RwLock<HashMap<BotId, Arc<Mutex<()>>>>,
}

impl Declared {
    fn contains(&self, bot: &BotId) -> bool {
        self.bots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(bot)
    }

    /// The queue is there.
    pub(super) fn insert(&self, bot: &BotId) {
        self.missing.write().unwrap_or_else(PoisonError::into_inner).remove(bot);
        self.bots
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(bot.clone(), time::now_ms());
    }

    /// The right to declare the bot's queue, to one at a time: RabbitMQ tells the second one that the queue exists while the
    /// first one's is still being made, and ends the connection of whoever consumes from it then.
    pub(super) async fn turn(&self, bot: &BotId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(bot.clone()).or_default())
        };
        turn.lock_owned().await
    }

    /// Whether the queue was deleted so lately that its consumers may not know yet. RabbitMQ 3.10 makes a consumer of a deleted
    /// queue one of the queue that is declared in its place meanwhile, and drops what that one delivers: the bot would be silent until the
    /// connection ends. So it is left to them to declare it again; meanwhile events are safe in `unrouted`.
    fn is_just_deleted(&self, bot: &BotId) -> bool {
        let missing = self.missing.read().unwrap_or_else(PoisonError::into_inner);
        missing.get(bot).is_some_and(|since| since.elapsed() < MOURNING)
    }

    /// A look at the queue did not find it. If it was there before, it was deleted.
    pub(super) fn forget(&self, bot: &BotId) {
        let before = self.bots.write().unwrap_or_else(PoisonError::into_inner).remove(bot);
        if before.is_some() {
            self.mourn(bot);
        }
    }

    /// An event that was received then found no queue of its bot. One from before the queue was declared says nothing new.
    pub(super) fn found_missing(&self, bot: &BotId, received_ms: i64) {
        let mut bots = self.bots.write().unwrap_or_else(PoisonError::into_inner);
        if bots.get(bot).is_none_or(|declared_ms| *declared_ms <= received_ms) {
            bots.remove(bot);
            drop(bots);
            self.mourn(bot);
        }
    }

    fn mourn(&self, bot: &BotId) {
        let mut missing = self.missing.write().unwrap_or_else(PoisonError::into_inner);
        missing.entry(bot.clone()).or_insert_with(Instant::now);
    }

    /// Another broker may stand behind a new connection.
    pub(super) fn clear(&self) {
        self.bots.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Declares bots' queues for one epoch, on a channel of its own: a refused declaration closes its channel, and must not
/// take other bots' publishes with it.
#[derive(Debug, Default)]
pub(super) struct Declarer(Mutex<DeclarerState>);

#[derive(Debug, Default)]
struct DeclarerState {
    channel: Option<Channel>,
    refused: HashMap<BotId, (Instant, QueueError)>,
}

impl Declarer {
    /// Makes sure `bot` has a queue. Publishes that arrive together wait for one declaration.
    pub(super) async fn ensure(&self, session: &Session, declared: &Declared, bot: &BotId) -> Result<(), DeclareError> {
        if declared.contains(bot) {
            return Ok(());
        }
        if declared.is_just_deleted(bot) {
            return Err(DeclareError::JustDeleted);
        }
        let mut state = self.0.lock().await;
        if declared.contains(bot) {
            return Ok(());
        }
        if let Some((at, error)) = state.refused.get(bot)
            && at.elapsed() < REFUSAL_MEMORY
        {
            return Err(DeclareError::Refused(error.clone()));
        }
        // Taken out, so that a caller that gives up in the middle leaves no half-used channel behind.
        let channel = match state.channel.take() {
            Some(channel) if channel.status().connected() => channel,
            _ => session.channel().await.map_err(DeclareError::Passing)?,
        };
        let turn = declared.turn(bot).await;
        let outcome = declare_bot(&channel, bot).await;
        drop(turn);
        match &outcome {
            Ok(()) => {
                state.channel = Some(channel);
                state.refused.remove(bot);
                declared.insert(bot);
            }
            Err(DeclareError::Refused(error)) => {
                // Said once, until it goes well.
                let before = state.refused.insert(bot.clone(), (Instant::now(), error.clone()));
                if before.is_none() {
                    tracing::error!(bot = %bot, %error, "events of bot {bot} cannot be stored: its queue cannot be declared");
                }
            }
            Err(DeclareError::Passing(error)) => {
                tracing::debug!(bot = %bot, %error, "the bot's queue is not declared yet");
            }
            Err(DeclareError::JustDeleted) => {}
        }
        outcome
    }
}
