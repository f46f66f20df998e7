//! Handlers: the product's own logic, which turns an event into a plan. They send nothing themselves.

use std::sync::Arc;

use async_trait::async_trait;
use openclaw_common::config;

use crate::action::Plan;
use crate::event::Event;

mod echo;
mod rules;

pub use rules::RuleError;

/// Turns events into plans. Runs again after a crash that came before its plan was committed, so it must not have effects
/// of its own that may not be repeated.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What to do about `event`; an empty plan when nothing.
    ///
    /// # Errors
    /// When it cannot tell; the error says whether a later try may.
    async fn plan(&self, event: &Event) -> Result<Plan, HandlerError>;
}

/// A handler could not make a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// Something it needs is away: try again later.
    #[error("{0}")]
    Retry(String),
    /// It will never have a plan for this event.
    #[error("{0}")]
    Refused(String),
}

/// Makes the handler that a bot's configuration names.
///
/// # Errors
/// The operator's: a rule cannot be used.
pub fn build(handler: &config::Handler) -> Result<Arc<dyn Handler>, RuleError> {
    Ok(match handler {
        config::Handler::Echo => Arc::new(echo::Echo),
        config::Handler::Rules(rules) => Arc::new(rules::Rules::compile(rules)?),
    })
}

/// Neighbours of every handler's tests.
#[cfg(test)]
pub(crate) mod testing {
    use crate::event::{Event, Mention, Message, Sender};

    /// A person's text in a group; `mentions` are (key, name).
    pub(crate) fn text(text: &str, mentions: &[(&str, &str)]) -> Event {
        let mut event = message("text", &serde_json::json!({ "text": text }).to_string(), mentions);
        if let Some(message) = &mut event.message {
            message.text = Some(text.to_owned());
        }
        event
    }

    /// A person's post there.
    pub(crate) fn post(content: &str, mentions: &[(&str, &str)]) -> Event {
        message("post", content, mentions)
    }

    /// A person's message of any type there.
    pub(crate) fn message(message_type: &str, content: &str, mentions: &[(&str, &str)]) -> Event {
        let mention = |(key, name): &(&str, &str)| Mention {
            key: (*key).to_owned(),
            name: (*name).to_owned(),
        };
        Event {
            event_type: "im.message.receive_v1".into(),
            message: Some(Message {
                message_id: "om_1".to_owned(),
                chat_id: "oc_1".to_owned(),
                chat_type: "group".to_owned(),
                message_type: message_type.to_owned(),
                content: content.to_owned(),
                text: None,
                mentions: mentions.iter().map(mention).collect(),
                sender: Sender {
                    open_id: "ou_1".to_owned(),
                    kind: "user".to_owned(),
                },
            }),
        }
    }
}
