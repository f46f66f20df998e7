//! Messages that never became an event's row: what the broker gave up on, what nobody can read, what has no queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openclaw_common::backoff::Reconnect;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::fail_point::fail_point;
use openclaw_common::queue::{Deliveries, Delivery, Receipt, Source, Unreadable};
use openclaw_common::store::{Burial, StoreError};
use openclaw_common::{telemetry, time};

use crate::engine::Engine;
use crate::silence::Silence;

/// Held unacknowledged while their bot is not known.
const PREFETCH: u16 = 256;
/// A bot that has not appeared for so long is not coming (`docs/design/delivery.md` §10).
const HOPE: Duration = Duration::from_secs(10 * 60);
const LOOK: Duration = Duration::from_secs(1);
/// A queue that was deleted is there again by then.
const PATIENCE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(2);

/// Brings what the broker itself killed into the table of dead letters.
pub(crate) async fn archive_dead(engine: Arc<Engine>) {
    loop {
        let mut deliveries = attach(&engine, Source::Dead).await;
        // Of all workers the broker feeds one, and only what it has fed knows that it is the one.
        let fed = Arc::new(AtomicBool::new(false));
        let is_fed = Arc::clone(&fed);
        let mut silence = silence_of(&engine, Source::Dead, &deliveries, move || {
            is_fed.load(Ordering::Relaxed)
        });
        while let Some(delivery) = next(&mut deliveries, &mut silence).await {
            fed.store(true, Ordering::Relaxed);
            match delivery.payload {
                Ok(envelope) => {
                    let error = "the broker handed it out too often without an end".to_owned();
                    bury(
                        &engine,
                        Burial {
                            envelope,
                            class: "delivery_limit",
                            error,
                        },
                        delivery.receipt,
                    )
                    .await;
                }
                Err(unreadable) => bury_unreadable(&engine, &unknown_bot(), unreadable, delivery.receipt).await,
            }
        }
    }
}

/// Gives events without a queue a second chance: their bot may have been configured meanwhile.
pub(crate) async fn route_unrouted(engine: Arc<Engine>) {
    loop {
        let mut deliveries = attach(&engine, Source::Unrouted).await;
        let mut silence = silence_of(&engine, Source::Unrouted, &deliveries, || true);
        let mut waiting: VecDeque<(Instant, Arc<Envelope>, Receipt)> = VecDeque::new();
        loop {
            tokio::select! {
                delivery = next(&mut deliveries, &mut silence) => {
                    let Some(Delivery { payload, receipt, .. }) = delivery else { break };
                    match payload {
                        Ok(envelope) => waiting.push_back((Instant::now(), envelope, receipt)),
                        Err(unreadable) => bury_unreadable(&engine, &unknown_bot(), unreadable, receipt).await,
                    }
                }
                () = tokio::time::sleep(LOOK), if !waiting.is_empty() => {}
            }
            for _ in 0..waiting.len() {
                let Some((since, envelope, receipt)) = waiting.pop_front() else {
                    break;
                };
                if engine.bots.now().served(envelope.bot.as_str()).is_some() {
                    // Not while its queue is missing: it would come straight back.
                    match route(&engine, &envelope).await {
                        Ok(()) => receipt.ack(),
                        Err(error) => {
                            if since.elapsed() > PATIENCE {
                                tracing::warn!(event = %envelope.key, %error, "cannot route an unrouted event yet");
                            }
                            waiting.push_back((since, envelope, receipt));
                        }
                    }
                } else if since.elapsed() > HOPE {
                    let error = format!("no bot `{}` is configured", envelope.bot);
                    bury(
                        &engine,
                        Burial {
                            envelope,
                            class: "no_such_bot",
                            error,
                        },
                        receipt,
                    )
                    .await;
                } else {
                    waiting.push_back((since, envelope, receipt));
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "at most the prefetch")]
            telemetry::UNROUTED_MESSAGES.set(waiting.len() as f64);
        }
    }
}

async fn route(engine: &Engine, envelope: &Arc<Envelope>) -> Result<(), String> {
    let prepared = engine.queue.prepare(&envelope.bot).await;
    prepared.map_err(|error| error.to_string())?;
    let published = engine.queue.publish(envelope.clone()).await;
    published.map_err(|error| error.to_string())
}

/// A delivery that no event can be read from: its bytes become a dead letter.
pub(crate) async fn bury_unreadable(engine: &Engine, bot: &BotId, unreadable: Unreadable, receipt: Receipt) {
    // A message is named after the first of its events, and that may be in another message too.
    let hash = blake3::hash(&unreadable.body).to_hex();
    let key = match unreadable.message_id {
        Some(id) => format!("{id} {}", &hash[..16]),
        None => hash.to_string(),
    };
    let envelope = Envelope {
        key: EventKey::new("unreadable", key),
        bot: bot.clone(),
        origin: Origin::Push,
        event_type: "unreadable".into(),
        chat: "".into(),
        tenant: "".into(),
        created_ms: 0,
        received_ms: time::now_ms(),
        traceparent: None,
        body: unreadable.body,
    };
    bury(
        engine,
        Burial {
            envelope: Arc::new(envelope),
            class: "unreadable",
            error: unreadable.reason,
        },
        receipt,
    )
    .await;
}

/// An event whose row the database refuses for good.
pub(crate) async fn bury_refused(engine: &Engine, envelope: Arc<Envelope>, error: &StoreError, receipt: Receipt) {
    bury(
        engine,
        Burial {
            envelope,
            class: "unreadable",
            error: error.to_string(),
        },
        receipt,
    )
    .await;
}

/// Commits the dead letter, then acknowledges: until then the broker keeps the message.
pub(crate) async fn bury(engine: &Engine, burial: Burial, receipt: Receipt) {
    let class = burial.class;
    fail_point("D0", "");
    tracing::error!(event = %burial.envelope.key, bot = %burial.envelope.bot, class, error = burial.error, "message given up: see the dead letters");
    let burials = [burial];
    loop {
        match engine.store.bury(&burials).await {
            Ok(()) => {
                fail_point("D2", "");
                telemetry::DEAD_LETTERS.add(class);
                receipt.ack();
                return;
            }
            Err(StoreError::Internal(error)) => {
                // Left unacknowledged: the broker keeps it, which is better than losing it.
                tracing::error!(
                    error,
                    "the database refuses a dead letter; the message stays in the queue"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write a dead letter yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

fn silence_of(
    engine: &Engine,
    source: Source,
    deliveries: &Deliveries,
    fed: impl Fn() -> bool + Send + Sync + 'static,
) -> Silence {
    Silence::new(engine.queue.clone(), source, deliveries.places(), fed)
}

/// The next delivery; `None` when the consumer has ended, or is deaf. Cancel-safe.
async fn next(deliveries: &mut Deliveries, silence: &mut Silence) -> Option<Delivery> {
    tokio::select! {
        biased;
        delivery = deliveries.next() => {
            silence.heard();
            delivery
        }
        () = silence.is_proved() => None,
    }
}

async fn attach(engine: &Engine, source: Source) -> Deliveries {
    let mut reconnect = Reconnect::new(RETRY, LONGEST_RETRY);
    loop {
        match engine.queue.consume(source.clone(), PREFETCH).await {
            Ok(deliveries) => return deliveries,
            Err(error) => {
                tracing::debug!(%error, ?source, "cannot attach yet");
                tokio::time::sleep(reconnect.wait()).await;
            }
        }
    }
}

fn unknown_bot() -> BotId {
    BotId::unknown()
}
