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
//! | `packing` | what an answer is packed in although nobody asked for it |
//!
//! Every way a send can end is an [`Outcome`]; there are no other errors. What matters most in it is whether a copy of the
//! message may exist although nobody said so (*ambiguous*): only the same uuid makes another try safe then, and only for an
//! hour.

use std::time::Duration;

mod answer;
mod checkup;
mod client;
mod code;
mod packing;
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
    /// Not begun: a token, or something else it needs first, is not there. No request was made, or only one that was refused
    /// for its token; no attempt is used.
    Unready {
        /// When to ask again.
        wait: Duration,
        /// Feishu's code, if it answered.
        code: Option<i64>,
        /// One sentence for the operator.
        message: String,
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
            Self::Unready { .. } => "unready",
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
            Self::Unready { code, .. } | Self::Transient { code, .. } | Self::Permanent { code, .. } => *code,
        }
    }

    /// How long it says to wait; nothing where it does not say.
    #[must_use]
    pub fn wait(&self) -> Duration {
        match self {
            Self::Unready { wait, .. } => *wait,
            Self::Limited { pause, .. } => pause.unwrap_or_default(),
            Self::Sent { .. } | Self::Transient { .. } | Self::Permanent { .. } => Duration::ZERO,
        }
    }

    /// One sentence for the operator.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Sent { .. } => "",
            Self::Limited { .. } => "the platform's limit",
            Self::Unready { message, .. } | Self::Transient { message, .. } | Self::Permanent { message, .. } => {
                message
            }
        }
    }
}
