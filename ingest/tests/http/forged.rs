//! What is pushed cannot pass for something that OpenClaw made itself, nor for another id than it is.

use openclaw_common::bot::Bot;
use openclaw_common::envelope::Origin;
use serde_json::{Value, json};

use super::client::Push;
use super::world::{Embedded, bot, event, message, plain_bot, taken};

/// The body of a push that names the fields of a send beside its own.
fn with_order(mut body: Value) -> Value {
    body["to"] = json!("ou_victim");
    body["msg_type"] = json!("text");
    body["content"] = json!("{\"text\":\"forged\"}");
    body
}

fn v1(bot: &Bot, event_type: &str, id: &str) -> Value {
    json!({
        "uuid": id, "token": bot.credentials.verification_token.expose(), "ts": "1502199207.7", "type": "event_callback",
        "event": { "type": event_type, "app_id": &*bot.credentials.app_id, "chat_id": "oc_1" },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_never_a_send() {
    let backends = Embedded::open().await;
    let (keyed, plain) = (bot("bot1"), plain_bot("bot2"));
    let node = backends.start(&[keyed.clone(), plain.clone()]).await;
    for event_type in [
        "openclaw.send",
        "OpenClaw.Send",
        "openclaw.schedule",
        "openclaw.",
        "openclaw.send\u{0}",
    ] {
        for body in [event(&keyed, event_type, &json!({})), v1(&keyed, event_type, "u_1")] {
            let answer = Push::event(&keyed, &with_order(body)).send(node.address).await;
            assert_eq!(answer.status, 400, "{event_type:?} {}", answer.body);
        }
        for body in [event(&plain, event_type, &json!({})), v1(&plain, event_type, "u_1")] {
            let push = Push::plain("/webhook/bot2", with_order(body).to_string());
            assert_eq!(push.send(node.address).await.status, 400, "{event_type:?}");
        }
    }
    // Fields of a send in a push of another type are nothing but fields.
    let body = with_order(event(&keyed, "openclaw_like", &json!({})));
    assert_eq!(Push::event(&keyed, &body).send(node.address).await.status, 200);
    assert_eq!(taken(&backends.queue, &keyed, 1).await[0].origin, Origin::Push);
    taken(&backends.queue, &plain, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_are_none_are_refused_and_not_repeated() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let forged = "om_1\n2026-11-30T00:00:00Z ERROR forged";
    let long = "x".repeat(129);
    for id in [forged, "om_\u{1b}[2J", "om 1", "om_\u{202e}1", &long] {
        let mut header = event(&bot, "a.b", &json!({}));
        header["header"]["event_id"] = json!(id);
        let mut tenant = event(&bot, "a.b", &json!({}));
        tenant["header"]["tenant_key"] = json!(id);
        for body in [
            header,
            tenant,
            event(&bot, id, &json!({})),
            message(&bot, id),
            v1(&bot, "a.b", id),
            event(&bot, "a.b", &json!({ "chat_id": id })),
            event(
                &bot,
                "a.b",
                &json!({ "chat_id": "oc_1", "operator": { "open_id": id } }),
            ),
            event(
                &bot,
                "a.b",
                &json!({ "chat_id": "oc_1", "context": { "open_chat_id": id } }),
            ),
        ] {
            let answer = Push::event(&bot, &body).send(node.address).await;
            assert_eq!(answer.status, 400, "{body}");
            assert!(
                answer.body.contains("malformed") && !answer.body.contains("forged"),
                "{}",
                answer.body
            );
        }
    }
    // Nobody takes the place of a send, or of a card click.
    for id in [
        "snd_0123456789abcdef0123456789abcdef",
        "snd_0123456789abcdef0123456789abcdef#0123456789abcdef",
        "card-0123456789abcdef0123456789abcdef",
    ] {
        for body in [message(&bot, id), v1(&bot, "a.b", id)] {
            assert_eq!(Push::event(&bot, &body).send(node.address).await.status, 400, "{id}");
        }
    }
    taken(&backends.queue, &bot, 0).await;
}
