#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use openclaw_common::bot::{BotId, Credentials};
use openclaw_common::config::{Feishu, Handler, Message, Quota, Security};
use openclaw_common::secret::Secret;
use serde_json::{Value, json};

use super::*;

fn bot(encrypt_key: Option<&str>) -> Bot {
    Bot {
        id: BotId::new("bot1").unwrap(),
        credentials: Credentials {
            app_id: "cli_1".into(),
            app_secret: Secret::new("s"),
            verification_token: Secret::new("vtoken"),
            encrypt_key: encrypt_key.map(Secret::new),
        },
        message: Message::default(),
        quota: Quota::default(),
        handler: Handler::default(),
        security: Security {
            allow_plaintext: encrypt_key.is_none(),
            ..Security::default()
        },
        feishu: Feishu::default(),
    }
}

fn push(bot: &Bot, proof: Proof, body: &str) -> Result<Push, Refusal> {
    let body = body.to_owned().into();
    identify(bot, &Opened { body, proof })
}

fn signed(body: &Value) -> (Envelope, bool) {
    match push(&bot(Some("key")), Proof::Signed, &body.to_string()).unwrap() {
        Push::Event { envelope, card } => (envelope, card),
        Push::Challenge(challenge) => panic!("a challenge: {challenge}"),
    }
}

fn code(bot: &Bot, proof: Proof, body: &Value) -> &'static str {
    push(bot, proof, &body.to_string()).unwrap_err().code.as_str()
}

fn v2(event_type: &str, event: &Value) -> Value {
    json!({
        "schema": "2.0",
        "header": {
            "event_id": "ev_1", "event_type": event_type, "create_time": "1763800000123", "token": "vtoken",
            "app_id": "cli_1", "tenant_key": "tenant_1",
        },
        "event": event,
    })
}

#[test]
fn a_message_is_known_by_its_message_id_and_belongs_to_its_chat() {
    let body = v2(
        "im.message.receive_v1",
        &json!({
            "sender": { "sender_id": { "open_id": "ou_1" } },
            "message": { "message_id": "om_1", "chat_id": "oc_1", "content": "{\"text\":\"hi\"}",
                         "mentions": [{ "id": { "open_id": "ou_2" } }] },
        }),
    );
    let (envelope, card) = signed(&body);
    assert!(!card);
    assert_eq!(envelope.key, EventKey::new("cli_1", "om_1"));
    assert_eq!(&*envelope.chat, "oc_1");
    assert_eq!(&*envelope.event_type, "im.message.receive_v1");
    assert_eq!(&*envelope.tenant, "tenant_1");
    assert_eq!(envelope.created_ms, 1_763_800_000_123);
    assert_eq!(envelope.bot.as_str(), "bot1");
    assert_eq!(envelope.body, body.to_string());
}

#[test]
fn other_events_are_known_by_their_event_id_and_lanes_follow_chat_then_person() {
    for (event_type, event, lane) in [
        (
            "card.action.trigger",
            json!({
                "operator": { "open_id": "ou_1" },
                "action": { "value": { "chat_id": "oc_forged", "open_chat_id": "oc_forged" } },
                "context": { "open_message_id": "om_9", "open_chat_id": "oc_2" },
            }),
            "oc_2",
        ),
        (
            "im.chat.member.bot.added_v1",
            json!({ "chat_id": "oc_3", "operator_id": { "open_id": "ou_1" } }),
            "oc_3",
        ),
        (
            "im.message.reaction.created_v1",
            json!({ "message_id": "om_9", "user_id": { "open_id": "ou_1" } }),
            "ou_1",
        ),
        (
            "application.bot.menu_v6",
            json!({ "operator": { "operator_id": { "open_id": "ou_4" } }, "timestamp": 1 }),
            "ou_4",
        ),
        (
            "im.message.message_read_v1",
            json!({ "reader": { "reader_id": { "open_id": "ou_5" } } }),
            "ou_5",
        ),
        (
            "url.preview.get",
            json!({ "context": { "open_chat_id": "oc_6" } }),
            "oc_6",
        ),
        (
            "contact.user.created_v3",
            json!({ "object": { "open_id": "ou_7" } }),
            "ev_1",
        ),
        (
            "a.type.nobody.knows",
            json!({ "message": "a string", "chat_id": { "odd": true }, "operator": [1, null] }),
            "ev_1",
        ),
        ("an.event.without.content", Value::Null, "ev_1"),
    ] {
        let (envelope, card) = signed(&v2(event_type, &event));
        assert_eq!(&*envelope.key.key, "ev_1", "{event_type}");
        assert_eq!(&*envelope.chat, lane, "{event_type}");
        assert_eq!(card, event_type == "card.action.trigger");
    }
}

#[test]
fn v1_events_are_known_by_their_uuid() {
    let body = json!({
        "uuid": "u_1", "token": "vtoken", "ts": "1502199207.7171419", "type": "event_callback",
        "event": { "type": "p2p_chat_create", "app_id": "cli_1", "chat_id": "oc_1", "tenant_key": "t_1",
                   "operator": { "open_id": "ou_1" } },
    });
    let (envelope, _) = signed(&body);
    assert_eq!(&*envelope.key.key, "u_1");
    assert_eq!(&*envelope.event_type, "p2p_chat_create");
    assert_eq!(&*envelope.chat, "oc_1");
    assert_eq!(&*envelope.tenant, "t_1");
    assert_eq!(envelope.created_ms, 1_502_199_207_717);
}

#[test]
fn a_v2_header_wins_over_a_challenge_in_the_same_body() {
    let mut body = v2("contact.user.created_v3", &json!({}));
    body["type"] = json!("url_verification");
    body["challenge"] = json!("1212");
    assert_eq!(&*signed(&body).0.key.key, "ev_1");
}

#[test]
fn a_challenge_is_echoed_only_for_the_right_token() {
    let body = |token: &str| json!({ "type": "url_verification", "token": token, "challenge": "a \"b\" \\ c" });
    for (bot, proof, refused) in [
        (bot(Some("key")), Proof::Unsigned, "bad_signature"),
        (bot(Some("key")), Proof::Signed, "bad_token"),
        (bot(None), Proof::Unsigned, "bad_token"),
    ] {
        let challenge = push(&bot, proof, &body("vtoken").to_string()).unwrap();
        assert!(matches!(challenge, Push::Challenge(text) if text == "a \"b\" \\ c"));
        assert_eq!(code(&bot, proof, &body("wrong")), refused);
        assert_eq!(
            code(&bot, proof, &json!({ "type": "url_verification", "challenge": "c" })),
            refused
        );
    }
}

#[test]
fn an_old_card_click_needs_its_own_signature() {
    let body = json!({
        "open_id": "ou_1", "open_message_id": "om_1", "open_chat_id": "oc_1", "tenant_key": "t_1",
        "token": "c-secret", "action": { "value": { "chat_id": "oc_forged" } },
    });
    for bot in [bot(Some("key")), bot(None)] {
        assert_eq!(code(&bot, Proof::Unsigned, &body), "bad_signature");
        let Ok(Push::Event { envelope, card: true }) = push(&bot, Proof::SignedCard, &body.to_string()) else {
            panic!("no card");
        };
        assert_eq!(&*envelope.event_type, "card.action.trigger_v1");
        assert_eq!(&*envelope.chat, "oc_1");
        assert!(envelope.key.key.starts_with("card-") && !envelope.key.key.contains("secret"));
    }
}

#[test]
fn nothing_but_the_right_proof_token_and_app_passes() {
    let good = v2("im.chat.updated_v1", &json!({}));
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let keyed = bot(Some("key"));
    assert_eq!(code(&keyed, Proof::Unsigned, &good), "bad_signature");
    assert_eq!(code(&keyed, Proof::SignedCard, &good), "bad_signature");
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/token", json!("wrong"))),
        "bad_token"
    );
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/token", json!(null))),
        "bad_token"
    );
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/app_id", json!("cli_2"))),
        "bad_token"
    );
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/event_id", json!(""))),
        "malformed"
    );
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/event_type", json!(7.5))),
        "malformed"
    );
    assert_eq!(
        code(&keyed, Proof::Signed, &with("/header/event_id", json!("x".repeat(129)))),
        "malformed"
    );
    assert_eq!(code(&keyed, Proof::Signed, &with("/header", json!("x"))), "malformed");
    assert_eq!(code(&keyed, Proof::Signed, &json!({ "schema": "2.0" })), "malformed");
    assert_eq!(code(&keyed, Proof::Signed, &json!({ "hello": "world" })), "malformed");
    assert_eq!(
        code(&keyed, Proof::Unsigned, &json!({ "hello": "world" })),
        "bad_signature"
    );
    assert_eq!(
        code(&bot(None), Proof::Unsigned, &json!({ "encrypt": "abc" })),
        "malformed"
    );
    assert!(push(&bot(None), Proof::Unsigned, &good.to_string()).is_ok());
    let mut closed = bot(None);
    closed.security.allow_plaintext = false;
    assert_eq!(code(&closed, Proof::Unsigned, &good), "bad_signature");
}

#[test]
fn a_repeated_key_of_the_envelope_is_malformed() {
    let good = v2("im.chat.updated_v1", &json!({})).to_string();
    for (once, twice) in [
        (r#""schema":"2.0""#, r#""schema":"2.0","schema":"2.0""#),
        (r#""app_id":"cli_1""#, r#""app_id":"cli_2","app_id":"cli_1""#),
        (r#""event":{}"#, r#""event":{},"event":{}"#),
    ] {
        let body = good.replace(once, twice);
        assert_ne!(body, good);
        let refusal = push(&bot(Some("key")), Proof::Signed, &body).unwrap_err();
        assert!(refusal.message.contains("duplicate field"), "{}", refusal.message);
    }
}

#[test]
fn deep_nesting_is_harmless() {
    for body in [
        "[".repeat(500_000),
        "{\"a\":".repeat(500_000),
        format!("{{\"event\":{}", "{\"operator\":".repeat(500_000)),
    ] {
        assert_eq!(
            push(&bot(None), Proof::Unsigned, &body).unwrap_err().code.as_str(),
            "malformed"
        );
    }
}

#[test]
fn times_are_read_by_their_number_of_digits() {
    for (text, expected) in [
        ("1763800000", 1_763_800_000_000),
        ("1763800000123", 1_763_800_000_123),
        ("1603977298000000", 1_603_977_298_000),
        ("1502199207.7171419", 1_502_199_207_717),
        ("1502199207.7", 1_502_199_207_700),
        ("1502199207.", 1_502_199_207_000),
        ("", 0),
        ("soon", 0),
        ("99999999999999999999999", 0),
    ] {
        assert_eq!(unix_ms(text), expected, "{text}");
    }
}
