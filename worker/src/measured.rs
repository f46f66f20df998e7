//! Lane scheduling, for the crate `loadtest/micro`: behind a feature that nothing that ships has.

use std::sync::Arc;

use openclaw_common::priority::Priority;
use openclaw_common::store::Intent;

use crate::lanes::Lanes;

/// Takes `moves` events through the lanes of these chats, four of each chat in memory at a time; says how many ran.
#[must_use]
pub fn lanes(chats: &[Arc<str>], moves: usize) -> usize {
    let (mut lanes, mut ran, mut position) = (Lanes::default(), 0, 0);
    while ran < moves {
        for chat in chats.iter().cycle().take(chats.len() * 4) {
            position += 1;
            match lanes.reserve(chat, Priority::Answer, false, true) {
                Intent::Park => continue,
                intent => lanes.cancel(chat, Priority::Answer, intent),
            }
            lanes.enter(chat, position, Priority::Answer, position);
        }
        for chat in chats.iter().cycle().take(chats.len() * 4) {
            ran += usize::from(lanes.next(chat).is_some());
            lanes.ended(chat);
        }
    }
    ran
}
