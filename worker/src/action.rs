//! What a handler wants done: a plan of actions.
//!
//! A plan is committed to the Store before its first send and read back after a crash, by this version of the program or
//! by a later one: its encoding is versioned, and every version ever written stays decodable (`tests/golden`).

use bytes::Bytes;
use openclaw_common::outside;
use serde::{Deserialize, Serialize};

/// The version that [`Plan::encode`] writes.
const VERSION: u32 = 1;

/// A handler's answer to one event: what to send, in this order. Empty: nothing to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Sent one after the other.
    pub actions: Vec<Action>,
}

/// One call of Feishu's Open API with a visible effect.
///
/// `content` is JSON **text**, as Feishu wants it: the client puts it into the request as a string.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new message.
    Create {
        /// A chat (`oc_`), a person (`ou_`, `on_`, an address with `@`, else a `user_id`).
        to: String,
        /// `text`, `post`, `interactive`, …
        msg_type: String,
        /// JSON text.
        content: String,
    },
    /// An answer to a message.
    Reply {
        /// The message that is answered.
        message_id: String,
        /// The chat it stands in; quotas count it.
        chat: String,
        /// `text`, `post`, `interactive`, …
        msg_type: String,
        /// JSON text.
        content: String,
        /// Whether the answer opens or continues a topic.
        #[serde(default)]
        in_thread: bool,
    },
    /// Other words for one of our own text or post messages; at most 20 times a message.
    Edit {
        /// Our message.
        message_id: String,
        /// `text` or `post`.
        msg_type: String,
        /// JSON text.
        content: String,
    },
    /// Another card in place of one we sent within 14 days.
    PatchCard {
        /// Our message.
        message_id: String,
        /// The card, JSON text.
        content: String,
    },
    /// Another card in answer to a click, within 30 minutes of it, at most twice.
    UpdateCard {
        /// From the click's event; whoever holds it may change the card, so it is never shown.
        token: String,
        /// The card.
        card: serde_json::Value,
    },
    /// An emoji under a message.
    React {
        /// The message.
        message_id: String,
        /// Feishu's name of it, such as `SMILE`.
        emoji: String,
    },
}

/// The stored plan cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A newer version of this program wrote it: finish the roll-out (or undo it with an empty queue), then it goes on.
    #[error("the plan has version {0}, this program knows up to {VERSION}: a newer worker wrote it")]
    Newer(u32),
    /// It was damaged in the database: never readable.
    #[error("the plan is not readable: {}", outside::json_fault(.0))]
    Damaged(#[from] serde_json::Error),
}

#[derive(Serialize)]
struct Encoded<'a> {
    v: u32,
    actions: &'a [Action],
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct V1 {
    actions: Vec<Action>,
}

impl Plan {
    /// A plan of one action.
    #[must_use]
    pub fn one(action: Action) -> Self {
        Self { actions: vec![action] }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// The form the Store keeps: `{"v":1,"actions":[…]}`.
    #[must_use]
    #[expect(clippy::expect_used, reason = "strings and JSON values always serialise")]
    pub fn encode(&self) -> Bytes {
        let encoded = Encoded {
            v: VERSION,
            actions: &self.actions,
        };
        serde_json::to_vec(&encoded).expect("a plan serialises").into()
    }

    /// Reads what any version up to this one wrote.
    ///
    /// # Errors
    /// When a newer program wrote it, or when it is damaged.
    pub fn decode(encoded: &[u8]) -> Result<Self, PlanError> {
        // The version first: a newer plan may hold actions that would look like damage.
        match serde_json::from_slice::<Version>(encoded)?.v {
            VERSION => serde_json::from_slice::<V1>(encoded)
                .map(|plan| Self { actions: plan.actions })
                .map_err(PlanError::Damaged),
            newer => Err(PlanError::Newer(newer)),
        }
    }
}

impl Action {
    /// Its name in reports and in the Store.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Reply { .. } => "reply",
            Self::Edit { .. } => "edit",
            Self::PatchCard { .. } => "patch_card",
            Self::UpdateCard { .. } => "update_card",
            Self::React { .. } => "react",
        }
    }

    /// Whom or what it goes to, for reports: the receiver, else the chat, else the message.
    #[must_use]
    pub fn target(&self) -> &str {
        match self {
            Self::Create { to, .. } => to,
            Self::Reply { chat, .. } => chat,
            Self::Edit { message_id, .. } | Self::PatchCard { message_id, .. } | Self::React { message_id, .. } => {
                message_id
            }
            Self::UpdateCard { .. } => "card",
        }
    }

    /// The message it acts upon, if it acts upon one.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        match self {
            Self::Reply { message_id, .. }
            | Self::Edit { message_id, .. }
            | Self::PatchCard { message_id, .. }
            | Self::React { message_id, .. } => Some(message_id),
            Self::Create { .. } | Self::UpdateCard { .. } => None,
        }
    }

    /// Whether Feishu keeps a repeat within the hour from being seen twice. The others change something in place, so that a
    /// repeat shows the same thing again.
    #[must_use]
    pub fn carries_uuid(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Reply { .. })
    }
}

/// Feishu's `receive_id_type` for a receiver, by the form of its id (the rule of the official SDKs).
#[must_use]
pub fn receive_id_type(to: &str) -> &'static str {
    if to.starts_with("oc_") {
        "chat_id"
    } else if to.starts_with("ou_") {
        "open_id"
    } else if to.starts_with("on_") {
        "union_id"
    } else if to.contains('@') {
        "email"
    } else {
        "user_id"
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// What version 1 wrote. This file is never changed: rows like it lie in databases.
    const V1: &str = include_str!("../tests/golden/plan_v1.json");

    fn every_action() -> Plan {
        Plan {
            actions: vec![
                Action::Create {
                    to: "oc_1".into(),
                    msg_type: "text".into(),
                    content: r#"{"text":"你好 \"there\""}"#.into(),
                },
                Action::Reply {
                    message_id: "om_1".into(),
                    chat: "oc_1".into(),
                    msg_type: "text".into(),
                    content: r#"{"text":"yes"}"#.into(),
                    in_thread: true,
                },
                Action::Edit {
                    message_id: "om_2".into(),
                    msg_type: "post".into(),
                    content: r#"{"zh_cn":{}}"#.into(),
                },
                Action::PatchCard {
                    message_id: "om_3".into(),
                    content: r#"{"elements":[]}"#.into(),
                },
                Action::UpdateCard {
                    token: "c-1".into(),
                    card: serde_json::json!({"elements": []}),
                },
                Action::React {
                    message_id: "om_4".into(),
                    emoji: "SMILE".into(),
                },
            ],
        }
    }

    #[test]
    fn what_version_1_wrote_is_read_and_written_byte_for_byte() {
        let plan = every_action();
        assert_eq!(Plan::decode(V1.trim_end().as_bytes()).unwrap(), plan);
        assert_eq!(plan.encode(), V1.trim_end());
    }

    #[test]
    fn a_reply_without_the_optional_field_and_with_an_unknown_one_is_read() {
        let text =
            r#"{"v":1,"actions":[{"reply":{"message_id":"m","chat":"c","msg_type":"text","content":"{}","new":1}}]}"#;
        let plan = Plan::decode(text.as_bytes()).unwrap();
        assert!(matches!(&plan.actions[0], Action::Reply { in_thread: false, .. }));
    }

    #[test]
    fn a_newer_plan_is_told_from_a_damaged_one() {
        let newer = Plan::decode(br#"{"v":2,"actions":[{"dance":{}}]}"#);
        assert!(matches!(newer, Err(PlanError::Newer(2))), "{newer:?}");
        for damaged in ["", "{}", r#"{"v":1}"#, r#"{"v":1,"actions":[{"dance":{}}]}"#] {
            assert!(
                matches!(Plan::decode(damaged.as_bytes()), Err(PlanError::Damaged(_))),
                "{damaged}"
            );
        }
    }

    #[test]
    fn only_new_messages_carry_a_uuid() {
        let carriers: Vec<_> = every_action()
            .actions
            .iter()
            .filter(|a| a.carries_uuid())
            .map(Action::kind)
            .collect();
        assert_eq!(carriers, ["create", "reply"]);
    }

    #[test]
    fn the_receiver_type_follows_the_form_of_the_id() {
        let ids = ["oc_1", "ou_1", "on_1", "li@example.com", "u7"];
        assert_eq!(
            ids.map(receive_id_type),
            ["chat_id", "open_id", "union_id", "email", "user_id"]
        );
    }

    #[test]
    fn a_card_token_is_no_target() {
        let targets: Vec<_> = every_action()
            .actions
            .iter()
            .map(|action| action.target().to_owned())
            .collect();
        assert_eq!(targets, ["oc_1", "oc_1", "om_2", "om_3", "card", "om_4"]);
    }
}
