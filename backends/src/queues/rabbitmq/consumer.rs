//! The consuming role of a connection: a channel and a task for each consumer, and looks at queue depths.
//!
//! Acknowledgements are collected for a moment and sent together: one `multiple` ack costs the broker as much as one
//! single (`docs/design/delivery.md` §11: 24,000 msgs/s singly, 80,000 together).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryFutureExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::{Ack, Ledger};
use super::codec;
use super::link::{CALL_TIMEOUT, CLOSE_TIMEOUT, Role, Session, within};
use super::suspects::Suspects;
use super::topology::{self, Declared};
use openclaw_common::queue::{Deliveries, Delivery, Detach, Places, QueueError, Receipt, Source};
use openclaw_common::telemetry;

/// How long an acknowledgement waits for company. The broker's part of an event that is drained: 60 µs with 2 ms, 48 with
/// 10, 40 with 25, and no less with 50.
const ACK_LINGER: Duration = Duration::from_millis(25);
/// How long one waits for those before it, so that all go as one: lanes end nearly in the order of their deliveries.
const GAP_LINGER: Duration = Duration::from_millis(500);

/// Queues this process declares at a time. A worker that declared its 2,000 new bots' queues all at once found the broker
/// at it for longer than [`CALL_TIMEOUT`]; tried again, a queue that is not yet up ends the connection of its consumer.
const DECLARING: usize = 32;

/// One epoch of the consuming connection.
#[derive(Debug)]
pub(super) struct Consumers {
    session: Arc<Session>,
    declaring: Semaphore,
    /// For passive declares alone: a missing queue closes the channel.
    looking: Mutex<Option<Channel>>,
    declared: Arc<Declared>,
    suspects: Arc<Suspects>,
    /// Cancelled when the process leaves: flush, then hold still until the connection is cut.
    leaving: CancellationToken,
    /// Consumers that have not flushed their last acknowledgements yet.
    unflushed: TaskTracker,
    tasks: TaskTracker,
}

impl Role for Consumers {
    type Setup = (Arc<Declared>, Arc<Suspects>);

    async fn open(session: Arc<Session>, (declared, suspects): &Self::Setup) -> Result<Self, QueueError> {
        topology::declare_shared(&session.channel().await?).await?;
        Ok(Self {
            session,
            declaring: Semaphore::new(DECLARING),
            looking: Mutex::default(),
            declared: Arc::clone(declared),
            suspects: Arc::clone(suspects),
            leaving: CancellationToken::new(),
            unflushed: TaskTracker::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Flushes acknowledgements and cuts the connection. A polite end may put what the consumers still hold behind later
    /// messages (`docs/design/delivery.md` §6): lapin sends a `basic.cancel` for whatever is dropped.
    async fn finish(&self) {
        self.leaving.cancel();
        self.unflushed.close();
        if timeout(CLOSE_TIMEOUT, self.unflushed.wait()).await.is_err() {
            tracing::warn!("the broker did not take the last acknowledgements; their events come again");
        }
        self.session.cut();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Consumers {
    /// Attaches a consumer.
    pub(super) async fn consume(&self, source: Source, prefetch: u16) -> Result<Deliveries, QueueError> {
        // 0 would mean "no limit" to the broker.
        let prefetch = prefetch.max(1);
        if self.suspects.holds(&queue_of(&source)) {
            self.try_apart(&source).await?;
        }
        let (channel, consumer) = self.attach(&self.session, &source, prefetch).await?;
        Ok(self.serve(source, prefetch, channel, consumer))
    }

    /// Attaches for a moment, where it harms nobody else. What is delivered meanwhile comes again in its place.
    async fn try_apart(&self, source: &Source) -> Result<(), QueueError> {
        let _place = self.suspects.apart.acquire().await;
        let session = self.session.apart().await?;
        let attached = self.attach(&session, source, 1).await;
        session.cut();
        attached?;
        self.suspects.clear(&queue_of(source));
        Ok(())
    }

    async fn attach(
        &self,
        session: &Session,
        source: &Source,
        prefetch: u16,
    ) -> Result<(Channel, Consumer), QueueError> {
        let queue = queue_of(source);
        // Never closed. The time limit begins behind it.
        let place = self.declaring.acquire().await.ok();
        let attempt = Attempt {
            channel: Some(session.channel().await?),
            tasks: self.tasks.clone(),
        };
        match timeout(CALL_TIMEOUT, self.consume_on(attempt, place, source, &queue, prefetch)).await {
            Ok(attached) => attached,
            Err(_) => {
                // It may end a connection, or only hang: at the next try it harms nobody else.
                self.suspects.add(&queue);
                Err(QueueError(format!(
                    "consuming `{queue}`: the broker answers too slowly"
                )))
            }
        }
    }

    async fn consume_on(
        &self,
        mut attempt: Attempt,
        place: Option<SemaphorePermit<'_>>,
        source: &Source,
        queue: &str,
        prefetch: u16,
    ) -> Result<(Channel, Consumer), QueueError> {
        let gone = || QueueError(format!("consuming `{queue}`: its channel is gone"));
        let channel = attempt.channel.as_ref().ok_or_else(gone)?;
        // Not from memory: the queue may have been deleted, which is how the last consumer ended.
        topology::declare_shared(channel).await?;
        if let Source::Bot(bot) = source {
            let _turn = self.declared.turn(bot).await;
            topology::declare_bot(channel, bot).await?;
            self.declared.insert(bot);
        }
        // Consuming may hang, if the queue has no leader: the others shall not wait for it.
        drop(place);
        // A limit for each consumer: quorum queues answer a limit for the whole channel by closing the connection.
        let limiting = channel.basic_qos(prefetch, BasicQosOptions::default());
        within(CALL_TIMEOUT, "setting the prefetch", limiting).await?;
        let options = BasicConsumeOptions::default();
        let consuming = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consuming = consuming.inspect_err(|error| {
            if topology::is_fatal(error) && self.suspects.add(queue) {
                tracing::warn!(
                    queue,
                    "the broker ends the connection of whoever consumes: has the queue no leader?"
                );
            }
        });
        let consumer = within(CALL_TIMEOUT, "consuming", consuming).await?;
        Ok((attempt.channel.take().ok_or_else(gone)?, consumer))
    }

    fn serve(&self, source: Source, prefetch: u16, channel: Channel, consumer: Consumer) -> Deliveries {
        let (deliveries, receiver) = mpsc::channel(usize::from(prefetch));
        let places = Arc::new(Places::new(usize::from(prefetch)));
        let (settled, acks) = mpsc::unbounded_channel();
        let ended = self.session.ended.child_token();
        let detached = CancellationToken::new();
        let attached = Attached {
            source,
            prefetch: usize::from(prefetch),
            channel,
            session: Arc::clone(&self.session),
            declared: Arc::clone(&self.declared),
            deliveries,
            held_back: VecDeque::new(),
            places: Arc::clone(&places),
            settled,
            acks,
            ledger: Ledger::default(),
            ended: ended.clone(),
            detached: detached.clone(),
            leaving: self.leaving.clone(),
        };
        let unflushed = self.unflushed.token();
        self.tasks.spawn(async move {
            let channel = attached.run(consumer).await;
            drop(unflushed);
            channel.end().await;
        });
        Deliveries::new(receiver, places, Detach::new(move || detached.cancel())).until(ended)
    }

    /// How many messages of a queue are ready; `None` when there is no such queue.
    pub(super) async fn ready(&self, source: &Source) -> Result<Option<u64>, QueueError> {
        let queue = &queue_of(source);
        let look = async {
            let mut looking = self.looking.lock().await;
            // Taken out, so that a look that fails or is given up leaves no dead channel behind.
            let channel = match looking.take() {
                Some(channel) if channel.status().connected() => channel,
                _ => self.session.channel().await?,
            };
            let ready = topology::ready(&channel, queue).await?;
            if ready.is_some() {
                *looking = Some(channel);
            }
            Ok(ready)
        };
        match timeout(CALL_TIMEOUT, look).await {
            Ok(ready) => ready,
            Err(_) => Err(QueueError(format!(
                "looking at `{queue}`: the broker answers too slowly"
            ))),
        }
    }
}

/// A channel on which a consumer may have been begun. Given up, by a timeout or because the bot was taken away meanwhile, it
/// is closed: the broker would still attach the consumer, lapin would keep it for nobody, and what is delivered to it would
/// wait until the connection ends.
struct Attempt {
    channel: Option<Channel>,
    tasks: TaskTracker,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Outside of a runtime the connection is gone as well.
        if let (Some(channel), Ok(runtime)) = (self.channel.take(), Handle::try_current()) {
            let closing = async move {
                // Answered when the broker is through with what was begun; ends with the connection at the latest.
                if channel.status().connected()
                    && let Err(error) = channel.close(200, "given up".into()).await
                {
                    tracing::debug!(%error, "closing a channel that was given up");
                }
            };
            self.tasks.spawn_on(closing, &runtime);
        }
    }
}

fn queue_of(source: &Source) -> String {
    match source {
        Source::Bot(bot) => topology::bot_queue(bot),
        Source::Unrouted => topology::UNROUTED.to_owned(),
        Source::Dead => topology::DEAD.to_owned(),
    }
}

/// One consumer's state, owned by its task.
struct Attached {
    source: Source,
    prefetch: usize,
    channel: Channel,
    session: Arc<Session>,
    declared: Arc<Declared>,
    deliveries: mpsc::Sender<Delivery>,
    /// Events of messages that are here, beyond what the worker may have at a time.
    held_back: VecDeque<Delivery>,
    /// How many the worker may have, and has.
    places: Arc<Places>,
    settled: mpsc::UnboundedSender<u64>,
    /// Unbounded so that acknowledging never blocks; holds at most `prefetch` tags, as each event is settled once.
    acks: mpsc::UnboundedReceiver<u64>,
    ledger: Ledger,
    ended: CancellationToken,
    detached: CancellationToken,
    leaving: CancellationToken,
}

/// How a consumer leaves the connection.
enum Leave {
    /// Its stream is over, or nobody wants it any more: the channel is closed, without a `basic.cancel` before. A
    /// cancelled consumer keeps what it holds while the standby gets what follows; a closed channel gives it back first
    /// (3.10.8: 40 of 40 in order; with a cancel 100 ms earlier 20 of 20 out of order).
    Close(Channel, Consumer),
    /// The process leaves: nothing more is said until the connection is cut.
    HoldStill(Channel, Consumer, Arc<Session>),
}

impl Leave {
    async fn end(self) {
        match self {
            Self::Close(channel, consumer) => {
                if channel.status().connected()
                    && let Err(error) =
                        within(CLOSE_TIMEOUT, "closing a channel", channel.close(200, "bye".into())).await
                {
                    tracing::debug!(%error, "detaching a consumer");
                }
                // Dropping it earlier would send the cancel.
                drop(consumer);
            }
            Self::HoldStill(channel, consumer, session) => {
                session.ended.cancelled().await;
                // Dropping either would say goodbye, so both live until nothing can be said.
                drop((channel, consumer));
            }
        }
    }
}

impl Attached {
    async fn run(mut self, mut consumer: Consumer) -> Leave {
        // When the next acknowledgements go out: those before the first gap, and all.
        let (mut prefix_at, mut all_at): (Option<Instant>, Option<Instant>) = (None, None);
        let leaving = loop {
            let flush_at = prefix_at.into_iter().chain(all_at).min();
            tokio::select! {
                biased;
                () = self.ended.cancelled() => break false,
                () = self.leaving.cancelled() => break true,
                () = self.detached.cancelled() => break false,
                () = tokio::time::sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                    if !self.collect() {
                        break false;
                    }
                    let all = all_at.is_some_and(|at| at <= Instant::now()) || self.ledger.is_short(self.prefetch);
                    let acks = if all { self.ledger.flush() } else { self.ledger.flush_prefix().into_iter().collect() };
                    self.send(acks).await;
                    prefix_at = None;
                    all_at = (self.ledger.waiting() > 0).then(|| all_at.unwrap_or_else(|| Instant::now() + GAP_LINGER));
                }
                Some(tag) = self.acks.recv() => {
                    self.settle(tag);
                    if !self.collect() {
                        break false;
                    }
                    if self.ledger.waiting() > 0 {
                        prefix_at.get_or_insert_with(|| Instant::now() + ACK_LINGER);
                    }
                }
                message = consumer.next() => match message {
                    Some(Ok(message)) => {
                        if !self.take(message) || !self.hand_out() {
                            break false;
                        }
                    }
                    Some(Err(error)) => {
                        self.say_ended("error", &error.to_string());
                        break false;
                    }
                    None => {
                        self.say_ended("cancelled", "the broker cancelled it: its queue was deleted, or lost its leader");
                        break false;
                    }
                },
            }
        };
        // From here on receipts do nothing; what was acknowledged before is still sent.
        self.acks.close();
        while let Ok(tag) = self.acks.try_recv() {
            self.settle(tag);
        }
        let acks = self.ledger.flush();
        self.send(acks).await;
        self.ended.cancel();
        if leaving {
            self.await_acks_taken().await;
            Leave::HoldStill(self.channel, consumer, self.session)
        } else {
            Leave::Close(self.channel, consumer)
        }
    }

    /// Takes the events of one message; false when the broker sends more messages than were asked for.
    fn take(&mut self, mut message: lapin::message::Delivery) -> bool {
        let tag = message.delivery_tag;
        let redelivered = codec::redelivered(&message);
        let payloads = match codec::envelopes(&mut message) {
            Ok(envelopes) => envelopes.into_iter().map(Ok).collect(),
            Err(unreadable) => vec![Err(unreadable)],
        };
        if self.source == Source::Unrouted
            && let Some(Ok(envelope)) = payloads.first()
        {
            self.declared.found_missing(&envelope.bot, envelope.received_ms);
        }
        self.ledger.delivered(tag, payloads.len());
        if self.ledger.out() > self.prefetch {
            tracing::warn!(source = ?self.source, prefetch = self.prefetch, "the broker exceeds the prefetch");
            telemetry::CONSUMERS_LOST.add("error");
            return false;
        }
        self.held_back.extend(payloads.into_iter().map(|payload| {
            let settled = self.settled.clone();
            let receipt = Receipt::new(move || {
                // The task is gone when the consumer has ended: then the message comes again and this is void.
                settled.send(tag).ok();
            });
            Delivery {
                payload,
                redelivered,
                receipt,
            }
        }));
        true
    }

    /// Hands the worker what it may have; false when there is no worker any more.
    fn hand_out(&mut self) -> bool {
        while self.places.free() > 0
            && let Some(delivery) = self.held_back.pop_front()
        {
            // There is room: the channel is as long as the prefetch.
            if self.deliveries.try_send(delivery).is_err() {
                return false;
            }
            self.places.take();
        }
        !self.deliveries.is_closed()
    }

    fn settle(&mut self, tag: u64) {
        self.places.give_back();
        self.ledger.settle(tag);
    }

    /// Takes every acknowledgement that is here and hands out what that makes room for; false when there is no worker any
    /// more. Nothing else may take one: with nothing more to acknowledge, what is held back would wait for ever.
    fn collect(&mut self) -> bool {
        while let Ok(tag) = self.acks.try_recv() {
            self.settle(tag);
        }
        self.hand_out()
    }

    async fn send(&self, acks: Vec<Ack>) {
        for ack in acks {
            let options = BasicAckOptions { multiple: ack.multiple };
            let sending = self.channel.basic_ack(ack.tag, options);
            if let Err(error) = within(CALL_TIMEOUT, "acknowledging", sending).await {
                // Their events come again after the link's end, and the Store knows them.
                if !self.ended.is_cancelled() {
                    tracing::warn!(source = ?self.source, %error, "acknowledgements were lost");
                }
                return;
            }
        }
    }

    /// The broker works a channel's frames off in order: once it answers a call, it has taken every ack before it.
    async fn await_acks_taken(&self) {
        let prefetch = u16::try_from(self.prefetch).unwrap_or(u16::MAX);
        let asking = self.channel.basic_qos(prefetch, BasicQosOptions::default());
        if let Err(error) = within(CALL_TIMEOUT, "flushing acknowledgements", asking).await {
            tracing::warn!(source = ?self.source, %error, "acknowledgements may be lost; their events come again");
        }
    }

    /// That the whole connection is gone is said once, elsewhere.
    fn say_ended(&self, cause: &'static str, reason: &str) {
        if !self.ended.is_cancelled() && self.session.is_connected() {
            tracing::warn!(source = ?self.source, reason, "a consumer ended; another one is attached");
            telemetry::CONSUMERS_LOST.add(cause);
        }
    }
}
