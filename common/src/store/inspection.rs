//! An event looked at without being taken up: nothing in it changes. Who works on it gets a [`super::Row`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{ActionState, State};
use crate::envelope::Envelope;

/// How an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Finished tries since it was last replayed.
    pub attempt: u32,
    /// How often it was replayed.
    pub replay_generation: u32,
    /// Until a waiting event is due, zero when it is; `None`: it does not wait.
    pub due_in: Option<Duration>,
}

/// An event as a person looks at it.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The event, its body as stored.
    pub envelope: Arc<Envelope>,
    /// How it stands.
    pub state: State,
    /// Its plan as stored; the worker crate wrote it.
    pub plan: Option<Bytes>,
    /// Its actions by index; empty without a plan.
    pub actions: Vec<ActionReport>,
}

/// An action as a person looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionReport {
    /// Its place in the plan.
    pub index: u32,
    /// `create`, `reply`, …
    pub kind: String,
    /// Whom it goes to.
    pub target: String,
    /// The uuid its requests carry.
    pub uuid: String,
    /// How it stands.
    pub state: ActionState,
    /// Tries since the event was last replayed.
    pub tries: u32,
    /// Feishu's last code.
    pub code: Option<i64>,
    /// Feishu's id of the visible message.
    pub message_id: Option<String>,
    /// The member of a pool that it went out through.
    pub sender: Option<String>,
    /// When this uuid was first tried, Unix milliseconds.
    pub first_tried_ms: Option<i64>,
    /// When Feishu took it, Unix milliseconds.
    pub sent_ms: Option<i64>,
}
