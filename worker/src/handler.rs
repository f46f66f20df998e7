//! Handlers: the product's own logic, which turns an event into a plan. They send nothing themselves.

use std::sync::{Arc, Mutex, PoisonError, Weak};

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

/// The handlers that are in use, each once for all bots with the same settings: a thousand bots that inherit the node's rules
/// hold them compiled once.
#[derive(Default)]
pub(crate) struct Handlers(Mutex<Vec<(config::Handler, Weak<dyn Handler>)>>);

impl Handlers {
    /// The handler with these settings.
    ///
    /// # Errors
    /// As [`build`].
    pub(crate) fn of(&self, settings: &config::Handler) -> Result<Arc<dyn Handler>, RuleError> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|(_, handler)| handler.strong_count() > 0);
        let same = used.iter().find(|(others, _)| others == settings);
        if let Some(handler) = same.and_then(|(_, handler)| handler.upgrade()) {
            return Ok(handler);
        }
        let handler = build(settings)?;
        used.push((settings.clone(), Arc::downgrade(&handler)));
        Ok(handler)
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use openclaw_common::config::{Handler as Settings, Pattern, Rule};

    use super::*;

    fn settings(keyword: &str) -> Settings {
        Settings::Rules(vec![Rule {
            pattern: Pattern::Keyword(keyword.to_owned()),
            reply: "yes".to_owned(),
        }])
    }

    #[test]
    fn bots_with_the_same_settings_share_a_handler_as_long_as_one_uses_it() {
        let handlers = Handlers::default();
        let first = handlers.of(&settings("one")).unwrap();
        assert!(Arc::ptr_eq(&first, &handlers.of(&settings("one")).unwrap()));
        let other = handlers.of(&settings("two")).unwrap();
        assert!(!Arc::ptr_eq(&first, &other));
        drop(first);
        handlers.of(&Settings::Echo).unwrap();
        assert_eq!(handlers.0.lock().unwrap().len(), 2, "what nobody uses is forgotten");
    }
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
