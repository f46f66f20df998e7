//! Feishu's Open API as a sender sees it.
//!
//! | module | job |
//! |---|---|
//! | `client` | one action, one request, one [`Outcome`] |
//! | `token` | tenant access tokens, shared by all workers |
//! | `answer` | what an HTTP answer means |
//! | `code` | Feishu's error codes, as one table |
//! | `transport` | connections, deadlines, limits |
//! | `checkup` | what `openclaw check` asks about each bot |
//!
//! Every way a send can end is an [`Outcome`]; there are no other errors. What matters most in it is whether a copy of the
//! message may exist although nobody said so (*ambiguous*): only the same uuid makes another try safe then, and only for an
//! hour.

use std::time::Duration;

mod answer;
mod checkup;
mod client;
mod code;
mod token;
mod transport;

pub use checkup::Examiner;
pub use client::Client;
pub use transport::ClientError;

/// How one send ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Feishu has it.
    Sent {
        /// The visible message, where the action makes or changes one and Feishu names it.
        message_id: Option<String>,
        /// The chat it stands in, where Feishu names it.
        chat_id: Option<String>,
    },
    /// The platform's limit; this request was not carried out. Pause that scope for every worker; no attempt is used.
    Limited {
        /// What is to be paused.
        scope: Scope,
        /// For how long, if Feishu says: more than 0, at most an hour. `None`: choose and double.
        pause: Option<Duration>,
        /// Feishu's code; 429 when the answer had none.
        code: i64,
    },
    /// Try again later; an attempt is used.
    Transient {
        /// Whether this request may have been carried out.
        ambiguous: bool,
        /// Feishu's code, if it answered.
        code: Option<i64>,
        /// One sentence for the operator.
        message: String,
    },
    /// Never for this message; this request was not carried out.
    Permanent {
        /// Feishu's code, if it answered.
        code: Option<i64>,
        /// One sentence for the operator.
        message: String,
        /// Whether all messages of the bot end like this until somebody changes the app, the tenant or the configuration.
        needs_operator: bool,
    },
}

/// What a platform limit covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Calls of this API by the app.
    Api,
    /// The receiver of this one: its chat or person.
    Chat,
    /// The tenant's month: nothing passes until an operator acts.
    Tenant,
}

impl Outcome {
    /// Its name in metrics and rows.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::Limited { .. } => "limited",
            Self::Transient { ambiguous: true, .. } => "ambiguous",
            Self::Transient { ambiguous: false, .. } => "transient",
            Self::Permanent { .. } => "permanent",
        }
    }

    /// Whether it says only that this bot cannot send there, so that another one perhaps can.
    #[must_use]
    pub fn is_about_this_bot(&self) -> bool {
        match self {
            Self::Permanent {
                code: Some(code),
                needs_operator,
                ..
            } => code::is_about_one_bot(*code, *needs_operator),
            _ => false,
        }
    }

    /// Feishu's code, if it answered with one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Sent { .. } => None,
            Self::Limited { code, .. } => Some(*code),
            Self::Transient { code, .. } | Self::Permanent { code, .. } => *code,
        }
    }

    /// One sentence for the operator.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Sent { .. } => "",
            Self::Limited { .. } => "the platform's limit",
            Self::Transient { message, .. } | Self::Permanent { message, .. } => message,
        }
    }
}
