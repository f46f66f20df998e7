//! The codec, for the crate `micro`: behind a feature that nothing that ships has.

use std::sync::Arc;

use lapin::message::Delivery;

use super::codec;
use crate::envelope::Envelope;

/// To an AMQP message and back.
#[must_use]
pub fn round_trip(envelope: &Envelope) -> Option<Arc<Envelope>> {
    let mut delivery = Delivery::mock(1, "".into(), "".into(), false, envelope.body.to_vec());
    delivery.properties = codec::properties(envelope);
    codec::envelope(&mut delivery).ok()
}
