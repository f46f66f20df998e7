//! From a received event to Feishu's door.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use openclaw_common::bot::BotId;
use openclaw_common::config::{Handler, Pattern, Rule};
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_worker::action::Plan;
use openclaw_worker::event::Event;
use openclaw_worker::feishu::Outcome;
use openclaw_worker::handler;
use serde_json::{Value, json};

use super::client::client;
use super::script::Script;

fn envelope(body: &Value) -> Envelope {
    Envelope {
        key: EventKey::new("cli_1", "om_7"),
        bot: BotId::new("bot1").unwrap(),
        origin: Origin::Push,
        event_type: body["header"]["event_type"].as_str().unwrap().into(),
        chat: "oc_7".into(),
        tenant: "".into(),
        created_ms: 0,
        received_ms: 0,
        traceparent: None,
        body: Bytes::from(body.to_string()),
    }
}

fn message(content: &str) -> Value {
    json!({
        "schema": "2.0",
        "header": { "event_id": "e", "event_type": "im.message.receive_v1", "app_id": "cli_1" },
        "event": {
            "sender": { "sender_id": { "open_id": "ou_7" }, "sender_type": "user" },
            "message": { "message_id": "om_7", "chat_id": "oc_7", "chat_type": "p2p", "message_type": "text", "content": content },
        },
    })
}

/// The requests that answer an event, its plan having gone through the Store's form.
async fn requests(handler: &Handler, body: &Value) -> Vec<(String, Value)> {
    let (script, client) = (Script::start().await, client());
    let envelope = envelope(body);
    let event = Event::parse(&envelope, &envelope.body).unwrap();
    let plan = handler::build(handler).unwrap().plan(&event).await.unwrap();
    for action in Plan::decode(&plan.encode()).unwrap().actions {
        let outcome = client.send(&script.bot(), &action, "oc-uuid").await;
        assert!(matches!(outcome, Outcome::Sent { .. }), "{outcome:?}");
    }
    script.sent().into_iter().map(|seen| (seen.path, seen.body)).collect()
}

#[tokio::test]
async fn echo_answers_a_text_once_with_exactly_what_came() {
    let content = "{ \"text\":\"你好\\n\\\"<b>\\u0041\" }";
    let found = requests(&Handler::Echo, &message(content)).await;
    let body = json!({ "msg_type": "text", "content": content, "reply_in_thread": false, "uuid": "oc-uuid" });
    assert_eq!(found, [("/open-apis/im/v1/messages/om_7/reply".to_owned(), body)]);
}

#[tokio::test]
async fn echo_leaves_everything_else_alone() {
    let mut post = message("{}");
    post["event"]["message"]["message_type"] = json!("post");
    let mut bot = message(r#"{"text":"hi"}"#);
    bot["event"]["sender"]["sender_type"] = json!("app");
    let mut read = message(r#"{"text":"hi"}"#);
    read["header"]["event_type"] = json!("im.message.message_read_v1");
    for body in [post, bot, read] {
        assert_eq!(requests(&Handler::Echo, &body).await, [], "{body}");
    }
}

#[tokio::test]
async fn rules_answer_with_the_first_that_matches() {
    let rule = |pattern, reply: &str| Rule {
        pattern,
        reply: reply.to_owned(),
    };
    let rules = Handler::Rules(vec![
        rule(Pattern::Prefix("/help".to_owned()), "{{help}}"),
        rule(Pattern::Regex(r"^\d+$".to_owned()), "{sender} said {text}"),
        rule(Pattern::Keyword(String::new()), "what?"),
    ]);
    for (text, expected) in [
        ("/help me", "{help}"),
        ("42", r#"<at user_id="ou_7"></at> said 42"#),
        ("4 2", "what?"),
    ] {
        let found = requests(&rules, &message(&json!({ "text": text }).to_string())).await;
        assert_eq!(found.len(), 1);
        let content: Value = serde_json::from_str(found[0].1["content"].as_str().unwrap()).unwrap();
        assert_eq!(content, json!({ "text": expected }), "{text}");
    }
}
