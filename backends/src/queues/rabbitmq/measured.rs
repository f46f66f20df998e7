//! The codec, for the crate `loadtest/micro`: behind a feature that nothing that ships has.

use std::sync::Arc;

use lapin::message::Delivery;

use super::codec;
use openclaw_common::envelope::Envelope;

/// To an AMQP message and back.
#[must_use]
pub fn round_trip(envelope: &Envelope) -> Option<Arc<Envelope>> {
    let (properties, body) = codec::message(&envelope.bot, std::iter::once(envelope));
    let mut delivery = Delivery::mock(1, "".into(), "".into(), false, body.into_owned());
    delivery.properties = properties;
    codec::envelopes(&mut delivery).ok()?.pop()
}
