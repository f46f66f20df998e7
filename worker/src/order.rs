//! Sends that somebody asked for: a plan without a handler, a time before which it must not go out, and the second body
//! under one `Idempotency-Key`, which never goes out.

use std::sync::Arc;
use std::time::Duration;

use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::queue::Receipt;
use openclaw_common::seal::Part;
use openclaw_common::send::SendOrder;
use openclaw_common::store::{Burial, Row};
use openclaw_common::{telemetry, time};

use crate::action::{Action, Plan};
use crate::archive;
use crate::engine::Engine;
use crate::event::MESSAGE;

/// The dead letter's class of a second body.
pub(crate) const CONFLICT: &str = "idempotency_conflict";
/// Stands between the first body's key and the print of another one. No key that ingest makes has it.
const OTHER: char = '!';
/// Between two tries to read the first copy, whose row may be on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Whether this event is a send that somebody asked for.
pub(crate) fn is_order(envelope: &Envelope) -> bool {
    envelope.origin == Origin::Send
}

/// Whether it is a message that somebody has sent, or we.
pub(crate) fn is_message(envelope: &Envelope) -> bool {
    &*envelope.event_type == MESSAGE
}

/// Whether this row is that of a second body: replayed or not, it is not sent.
pub(crate) fn is_conflict(row: &Row) -> bool {
    is_order(&row.envelope) && row.envelope.key.key.contains(OTHER)
}

/// What is to be sent; `None` for what nobody asked for.
pub(crate) fn read(engine: &Engine, row: &Row) -> Option<Result<SendOrder, String>> {
    let envelope = &row.envelope;
    let decode = || {
        let body = engine.keys.open(envelope, Part::Body, &envelope.body);
        let body = body.map_err(|error| error.to_string())?;
        SendOrder::decode(&body).map_err(|error| error.to_string())
    };
    is_order(envelope).then(decode)
}

/// How long the event must still wait for its `send_at`, and how long it had to wait in all.
pub(crate) fn scheduled(engine: &Engine, row: &Row) -> (Duration, Duration) {
    let Some(Ok(SendOrder {
        send_at_ms: Some(at), ..
    })) = read(engine, row)
    else {
        return (Duration::ZERO, Duration::ZERO);
    };
    let until = |from: i64| Duration::from_millis(u64::try_from(at.saturating_sub(from)).unwrap_or(0));
    (until(time::now_ms()), until(row.envelope.received_ms))
}

/// One new message, and nothing else.
pub(crate) fn plan(order: SendOrder) -> Plan {
    Plan::one(Action::Create {
        to: order.to,
        msg_type: order.msg_type,
        content: order.content,
    })
}

/// Whether a delivery brings what its row has.
pub(crate) fn is_same(engine: &Engine, first: &Envelope, second: &Envelope) -> bool {
    let opened = |envelope: &Envelope| engine.keys.open(envelope, Part::Body, &envelope.body);
    match (opened(first), opened(second)) {
        (Ok(first), Ok(second)) => first == second,
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(event = %first.key, %error, "two sends under one key cannot be compared: the first one counts");
            true
        }
    }
}

/// A delivery of an order that has a row already: a repeat is acknowledged, another body becomes a dead letter first.
pub(crate) fn settle(engine: &Arc<Engine>, second: Arc<Envelope>, receipt: Receipt) {
    let engine = engine.clone();
    engine.tracker.clone().spawn(async move {
        let drain = engine.drain.clone();
        // Stopped: the delivery comes again.
        drain.run_until_cancelled(compare(&engine, &second, receipt)).await;
    });
}

async fn compare(engine: &Engine, second: &Envelope, receipt: Receipt) {
    let first = loop {
        match engine.store.inspect(&second.key).await {
            Ok(Some(first)) => break first.envelope,
            Ok(None) => {}
            Err(error) => tracing::debug!(event = %second.key, %error, "cannot look at the first copy of a send yet"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    if is_same(engine, &first, second) {
        telemetry::DUPLICATES_DROPPED.add(1);
        receipt.ack();
        return;
    }
    match other(engine, second) {
        Ok(envelope) => {
            let error = format!(
                "another message was sent under this Idempotency-Key: {}",
                second.key.key
            );
            let burial = Burial {
                envelope: Arc::new(envelope),
                class: CONFLICT,
                error,
            };
            archive::bury(engine, burial, receipt).await;
            tracing::warn!(event = %second.key, "a second send under one key is kept and not sent");
        }
        // Left unacknowledged: the broker keeps it.
        Err(error) => tracing::error!(event = %second.key, error, "a second send under one key cannot be kept"),
    }
}

/// The second body under a key of its own.
fn other(engine: &Engine, second: &Envelope) -> Result<Envelope, String> {
    let body = engine.keys.open(second, Part::Body, &second.body);
    let body = body.map_err(|error| error.to_string())?;
    let print = blake3::hash(&body).to_hex();
    let EventKey { app_id, key } = &second.key;
    let mut other = Envelope {
        key: EventKey::new(app_id.clone(), format!("{key}{OTHER}{}", &print[..16])),
        ..second.clone()
    };
    let sealed = engine.keys.seal(&other, Part::Body, body);
    other.body = sealed.map_err(|error| error.to_string())?;
    Ok(other)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use openclaw_common::bot::BotId;
    use openclaw_common::envelope::SEND;
    use openclaw_common::priority::Priority;

    use super::*;

    #[test]
    fn what_was_pushed_is_no_order_whatever_its_type_and_body_say() {
        let order = SendOrder {
            to: "ou_victim".to_owned(),
            msg_type: "text".to_owned(),
            content: "{}".to_owned(),
            send_at_ms: None,
        };
        let of = |origin| Envelope {
            key: EventKey::new("cli_1", "ev_1"),
            origin,
            bot: BotId::new("bot1").unwrap(),
            event_type: SEND.into(),
            chat: "oc_1".into(),
            tenant: "".into(),
            created_ms: 0,
            received_ms: 0,
            traceparent: None,
            body: order.encode(),
        };
        assert!(is_order(&of(Origin::Send)) && !is_order(&of(Origin::Push)));
        assert_eq!(Priority::of(&of(Origin::Push), 0), Priority::Answer);
    }
}
