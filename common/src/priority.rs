//! Who goes first when a bot cannot send everything at once.

use crate::envelope::{Envelope, Origin};

/// How urgent an event is. Lower comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// A person waits for it.
    #[default]
    Answer,
    /// A program asked for it: the send API.
    Notification,
    /// An operator sent it again: it is late already, and live traffic is not.
    Replay,
}

impl Priority {
    /// The priority of an event that was replayed so many times.
    #[must_use]
    pub fn of(envelope: &Envelope, replay_generation: u32) -> Self {
        if replay_generation > 0 {
            Self::Replay
        } else {
            match envelope.origin {
                Origin::Push => Self::Answer,
                Origin::Send => Self::Notification,
            }
        }
    }

    /// As stored.
    #[must_use]
    pub fn as_number(self) -> i16 {
        match self {
            Self::Answer => 0,
            Self::Notification => 1,
            Self::Replay => 2,
        }
    }

    /// The inverse of [`Priority::as_number`]; what is unknown can wait.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        match number {
            0 => Self::Answer,
            1 => Self::Notification,
            _ => Self::Replay,
        }
    }
}
