//! The pure part of accepting, for the crate `loadtest/micro`: behind a feature that nothing that ships has.

use axum::http::HeaderMap;
use bytes::Bytes;
use openclaw_common::bot::Bot;
use openclaw_common::envelope::Envelope;

use crate::identify::{Push, identify};
use crate::verify;

/// Verify, decrypt, identify; none for what is refused or no event.
#[must_use]
pub fn envelope(bot: &Bot, headers: &HeaderMap, raw: Bytes) -> Option<Envelope> {
    let opened = verify::open(bot, headers, raw).ok()?;
    match identify(bot, &opened).ok()? {
        Push::Event { envelope, .. } => Some(envelope),
        Push::Challenge(_) => None,
    }
}
