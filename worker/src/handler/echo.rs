//! `handler: { kind: echo }`: answers a text with itself.

use async_trait::async_trait;

use super::{Handler, HandlerError};
use crate::action::Plan;
use crate::event::Event;

pub(super) struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn plan(&self, event: &Event) -> Result<Plan, HandlerError> {
        Ok(event.text_from_user().map_or_else(Plan::default, |(message, _)| {
            // As received, byte for byte: an echo changes nothing.
            Plan::one(message.reply(message.content.clone()))
        }))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::testing;
    use super::*;
    use crate::action::Action;

    #[tokio::test]
    async fn a_text_from_a_person_is_answered_once_with_exactly_its_content() {
        let mut event = testing::text("", &[]);
        let content = r#"{ "text" : "你好\n<at user_id=\"ou_2\">x</at>" }"#;
        event.message.as_mut().unwrap().content = content.to_owned();
        let plan = Echo.plan(&event).await.unwrap();
        assert_eq!(
            plan.actions,
            [Action::Reply {
                message_id: "om_1".to_owned(),
                chat: "oc_1".to_owned(),
                msg_type: "text".to_owned(),
                content: content.to_owned(),
                in_thread: false,
            }]
        );
    }

    #[tokio::test]
    async fn anything_else_is_left_alone() {
        let mut bot = testing::text("hi", &[]);
        bot.message.as_mut().unwrap().sender.kind = "app".to_owned();
        let mut unknown = testing::text("hi", &[]);
        unknown.message.as_mut().unwrap().sender.kind.clear();
        let mut image = testing::text("hi", &[]);
        image.message.as_mut().unwrap().text = None;
        let click = Event {
            event_type: "card.action.trigger".into(),
            message: None,
        };
        for event in [bot, unknown, image, click] {
            assert!(Echo.plan(&event).await.unwrap().is_empty(), "{event:?}");
        }
    }
}
