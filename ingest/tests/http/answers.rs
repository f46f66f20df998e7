//! What each kind of request is answered with.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use openclaw_common::bot::{BotSet, Bots};
use openclaw_common::config::{Encryption, Rate, Toast};
use openclaw_common::envelope::EventKey;
use openclaw_common::seal::{KeyRing, Part, manner};
use openclaw_common::secret::Secret;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::client::{Push, answer};
use super::world::{Embedded, bot, event, message, plain_bot, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_answered_with_an_empty_object_and_queued_as_it_was_sent() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let body = message(&bot, "om_1");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = Push::event(&bot, &body)
        .header("traceparent", trace)
        .send(node.address)
        .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "{}"));
    assert!(answer.head.contains("content-type: application/json"));
    let events = taken(&backends.queue, &bot, 1).await;
    assert_eq!(events[0].key, EventKey::new("cli_bot1", "om_1"));
    assert_eq!(events[0].body, body.to_string());
    assert_eq!(&*events[0].chat, "oc_1");
    assert_eq!(events[0].traceparent.as_deref(), Some(trace));
    assert!(events[0].received_ms > 1_700_000_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_echoed_in_plain_json_without_a_signature_and_in_time() {
    let backends = Embedded::open().await;
    let (keyed, plain) = (bot("bot1"), plain_bot("bot2"));
    let node = backends.start(&[keyed.clone(), plain.clone()]).await;
    let challenge = |token: &str| json!({ "type": "url_verification", "token": token, "challenge": "a\"b" });
    for (bot, push) in [
        (&keyed, Push::encrypted(&keyed, &challenge("token of bot1"))),
        (
            &plain,
            Push::plain("/webhook/bot2", challenge("token of bot2").to_string()),
        ),
    ] {
        let begun = Instant::now();
        let answer = push.send(node.address).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"challenge":"a\"b"}"#));
        taken(&backends.queue, bot, 0).await;
    }
    let wrong = Push::encrypted(&keyed, &challenge("another token"))
        .send(node.address)
        .await;
    assert_eq!(wrong.status, 401);
    assert!(!wrong.body.contains("a\\\"b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_click_is_answered_with_the_bot_s_toast_after_it_is_queued() {
    let backends = Embedded::open().await;
    let mut toasting = bot("bot1");
    toasting.feishu.card_toast = Some(Toast {
        kind: "success".to_owned(),
        content: "已\"收到\"".to_owned(),
    });
    let mut silent = bot("bot2");
    toasting.security.legacy_cards = true;
    silent.security.legacy_cards = true;
    let node = backends.start(&[toasting.clone(), silent.clone()]).await;
    let toast = r#"{"toast":{"type":"success","content":"已\"收到\""}}"#;
    for (bot, expected) in [(&toasting, toast), (&silent, "{}")] {
        let click = event(
            bot,
            "card.action.trigger",
            &json!({ "context": { "open_chat_id": "oc_9" } }),
        );
        let old = json!({ "open_id": "ou_1", "open_message_id": "om_1", "open_chat_id": "oc_9", "token": "c-1",
                          "action": { "tag": "button" } });
        for push in [Push::event(bot, &click), Push::old_card(bot, &old)] {
            // A click pushed twice gets the same answer.
            for _ in 0..2 {
                let answer = push.send(node.address).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, expected));
            }
        }
        let events = taken(&backends.queue, bot, 2).await;
        assert_eq!(&*events[0].event_type, "card.action.trigger");
        assert_eq!(&*events[1].event_type, "card.action.trigger_v1");
        assert!(events.iter().all(|event| &*event.chat == "oc_9"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_card_click_is_taken_only_from_a_bot_that_wants_it_and_never_decrypted() {
    let backends = Embedded::open().await;
    let (keyed, plain) = (bot("bot1"), plain_bot("bot2"));
    let mut legacy = bot("bot3");
    legacy.security.legacy_cards = true;
    let node = backends.start(&[keyed.clone(), plain.clone(), legacy.clone()]).await;
    let click = json!({ "open_id": "ou_1", "open_message_id": "om_1", "open_chat_id": "oc_9", "token": "c-1" });
    for bot in [&keyed, &plain] {
        let answer = Push::old_card(bot, &click).send(node.address).await;
        assert_eq!(answer.status, 401);
        assert!(
            answer.body.contains("bad_signature") && answer.body.contains("legacy_cards"),
            "{}",
            answer.body
        );
        taken(&backends.queue, bot, 0).await;
    }
    assert_eq!(Push::old_card(&legacy, &click).send(node.address).await.status, 200);
    taken(&backends.queue, &legacy, 1).await;
    // Whoever knows the token alone learns nothing about a ciphertext: whether its padding is right, what it is.
    let encrypt = |plain: &[u8]| openclaw_common::crypto::encrypt("key of bot3", [7; 16], plain);
    let mut broken = encrypt(b"hello");
    broken.replace_range(30..31, if broken[30..31] == *"A" { "B" } else { "A" });
    let event = message(&legacy, "om_2").to_string();
    let mut answers = Vec::new();
    for ciphertext in [
        encrypt(b"hello"),
        broken,
        encrypt(event.as_bytes()),
        encrypt(&[0xff]),
        "AAAA".to_owned(),
    ] {
        answers.push(
            Push::old_card(&legacy, &json!({ "encrypt": ciphertext }))
                .send(node.address)
                .await,
        );
    }
    assert!(
        answers
            .iter()
            .all(|answer| *answer == answers[0] && answer.status == 401),
        "{answers:?}"
    );
    taken(&backends.queue, &legacy, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_has_no_signature_nobody_learns_more_than_that_it_is_no_challenge() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let challenge = |token: &str, text: &str| json!({ "type": "url_verification", "token": token, "challenge": text });
    let encrypt = |plain: &[u8]| openclaw_common::crypto::encrypt("key of bot1", [7; 16], plain);
    let mut broken = encrypt(b"{}");
    broken.replace_range(30..31, if broken[30..31] == *"A" { "B" } else { "A" });
    let long = "x".repeat(257);
    let mut answers = Vec::new();
    for ciphertext in [
        encrypt(b"no JSON"),
        broken,
        encrypt(&[0xff]),
        encrypt(b"{}"),
        encrypt(message(&bot, "om_1").to_string().as_bytes()),
        encrypt(challenge("another token", "c").to_string().as_bytes()),
        encrypt(challenge("token of bot1", &long).to_string().as_bytes()),
        encrypt(challenge("token of bot1", "").to_string().as_bytes()),
        encrypt(challenge("token of bot1", "a\nb").to_string().as_bytes()),
        encrypt(br#"{"encrypt":"abc"}"#),
    ] {
        let push = Push::plain("/webhook/bot1", json!({ "encrypt": ciphertext }).to_string());
        answers.push(push.send(node.address).await);
    }
    assert!(
        answers
            .iter()
            .all(|answer| *answer == answers[0] && answer.status == 401),
        "{answers:?}"
    );
    let longest = challenge("token of bot1", &long[1..]);
    assert_eq!(Push::encrypted(&bot, &longest).send(node.address).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_read_to_its_end_is_the_connection_s_last() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let too_large = Push::plain("/webhook/bot1", vec![b' '; 1024 * 1024 + 1]).forge();
    let compressed = Push::event(&bot, &message(&bot, "om_1")).header("Content-Encoding", "gzip");
    let nobody = Push::event(&bot, &message(&bot, "om_1")).to("/webhook/nobody");
    for (push, status) in [(too_large, 413), (compressed, 415), (nobody, 404)] {
        let answer = push.send(node.address).await;
        assert_eq!(answer.status, status);
        assert!(answer.head.contains("connection: close"), "{}", answer.head);
    }
    // After any other answer it goes on.
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let mut wrong = Push::event(&bot, &message(&bot, "om_1"));
    wrong.body.push(b' ');
    for (push, status) in [(wrong, 401), (Push::event(&bot, &message(&bot, "om_1")), 200)] {
        stream.write_all(&push.bytes()).await.unwrap();
        let answer = answer(&mut stream).await.unwrap();
        assert_eq!(answer.status, status);
        assert!(!answer.head.contains("connection: close"), "{}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn version_1_and_unknown_events_are_queued_too() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let v1 = json!({
        "uuid": "u_1", "token": "token of bot1", "ts": "1502199207.7171419", "type": "event_callback",
        "event": { "type": "p2p_chat_create", "app_id": "cli_bot1", "chat_id": "oc_1" },
    });
    let unknown = event(&bot, "some.day.new_v9", &json!({ "message": ["odd"] }));
    for body in [&v1, &unknown] {
        assert_eq!(Push::event(&bot, body).send(node.address).await.status, 200);
    }
    let events = taken(&backends.queue, &bot, 2).await;
    assert_eq!(
        (&*events[0].key.key, &*events[0].event_type),
        ("u_1", "p2p_chat_create")
    );
    assert_eq!(&*events[1].event_type, "some.day.new_v9");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_status_and_its_body() {
    let backends = Embedded::open().await;
    let keyed = bot("bot1");
    let plain = plain_bot("bot2");
    let mut closed = bot("bot3");
    closed.security.allowed_ips = vec!["203.0.113.0/24".parse().unwrap()];
    let mut limited = bot("bot4");
    limited.security.rate_limit = Some(Rate::per_minute(1));
    let mut full = bot("bot5");
    full.message.queue_size = 0;
    let bots = [keyed.clone(), plain, closed.clone(), limited.clone(), full.clone()];
    let node = backends.start(&bots).await;

    let good = Push::event(&keyed, &message(&keyed, "om_1"));
    let mut tampered = good.clone();
    tampered.body.push(b' ');
    let mut other_app = message(&keyed, "om_1");
    other_app["header"]["app_id"] = json!("cli_other");
    let mut other_token = message(&keyed, "om_1");
    other_token["header"]["token"] = json!("other");
    let mut not_encrypted = good.clone();
    not_encrypted.body = message(&keyed, "om_1").to_string().into();
    let mut garbled = Push::plain(
        "/webhook/bot1",
        r#"{"encrypt":"P37w+VZImNgPEO1RBhJ6RtKl7n6zymIbEG1pReEzghk="}"#,
    );
    let unsigned_garbled = garbled.clone();
    {
        let signature = openclaw_common::crypto::signature_sha256("1", "2", "key of bot1", &garbled.body);
        garbled = garbled
            .header("X-Lark-Request-Timestamp", "1")
            .header("X-Lark-Request-Nonce", "2")
            .header("X-Lark-Signature", &signature);
    }
    assert_eq!(
        Push::event(&limited, &message(&limited, "om_1"))
            .send(node.address)
            .await
            .status,
        200
    );

    let rows: &[(&str, Push, u16, &str)] = &[
        (
            "no JSON",
            Push::plain("/webhook/bot2", "hello"),
            400,
            r#"{"error":{"code":"malformed","message":"the body is not a push: expected value at line 1 column 1"}}"#,
        ),
        (
            "an empty body",
            Push::plain("/webhook/bot1", ""),
            400,
            r#"{"error":{"code":"malformed","message":"the body is not JSON: EOF while parsing a value at line 1 column 0"}}"#,
        ),
        (
            "no push",
            Push::plain("/webhook/bot2", "{}"),
            400,
            r#"{"error":{"code":"malformed","message":"the body is neither an event nor a challenge nor a card click"}}"#,
        ),
        (
            "signed, but encrypted with another key",
            garbled,
            400,
            r#"{"error":{"code":"malformed","message":"the body cannot be decrypted"}}"#,
        ),
        (
            "encrypted with another key and unsigned",
            unsigned_garbled,
            401,
            r#"{"error":{"code":"bad_signature","message":"the push has no signature, and only a URL challenge with the bot's `verification_token` may come without one"}}"#,
        ),
        (
            "encrypted for a bot without a key",
            Push::plain("/webhook/bot2", good.body.clone()),
            400,
            r#"{"error":{"code":"malformed","message":"the body is encrypted, but the bot has no `encrypt_key` in its credentials"}}"#,
        ),
        (
            "one byte more than was signed",
            tampered,
            401,
            r#"{"error":{"code":"bad_signature","message":"the signature does not fit the body: is the bot's `encrypt_key` the one in Feishu's console? (Old card callbacks need `security.legacy_cards: true`.)"}}"#,
        ),
        (
            "not signed",
            Push::encrypted(&keyed, &message(&keyed, "om_1")),
            401,
            r#"{"error":{"code":"bad_signature","message":"the push has no signature, and only a URL challenge with the bot's `verification_token` may come without one"}}"#,
        ),
        (
            "neither signed nor encrypted",
            Push::plain("/webhook/bot1", message(&keyed, "om_1").to_string()),
            401,
            r#"{"error":{"code":"bad_signature","message":"the push has no signature, and only a URL challenge with the bot's `verification_token` may come without one"}}"#,
        ),
        (
            "signed for another body",
            not_encrypted,
            401,
            r#"{"error":{"code":"bad_signature","message":"the signature does not fit the body: is the bot's `encrypt_key` the one in Feishu's console? (Old card callbacks need `security.legacy_cards: true`.)"}}"#,
        ),
        (
            "another token",
            Push::event(&keyed, &other_token),
            401,
            r#"{"error":{"code":"bad_token","message":"the token is not the bot's `verification_token`"}}"#,
        ),
        (
            "another app",
            Push::event(&keyed, &other_app),
            401,
            r#"{"error":{"code":"bad_token","message":"the event belongs to another app than this bot's `app_id`"}}"#,
        ),
        (
            "a forbidden address",
            Push::event(&closed, &message(&closed, "om_1")),
            403,
            r#"{"error":{"code":"forbidden_address","message":"this address is not in `security.allowed_ips`"}}"#,
        ),
        (
            "a forbidden path",
            good.clone().to("/webhookx/bot1"),
            403,
            r#"{"error":{"code":"forbidden_path","message":"this path is not in `security.safe_paths`"}}"#,
        ),
        (
            "an empty segment",
            good.clone().to("/webhook//bot1"),
            403,
            r#"{"error":{"code":"forbidden_path","message":"the path has an empty segment, a dot segment or an escaped slash"}}"#,
        ),
        (
            "a dot segment",
            good.clone().to("/webhook/a/../b/bot1"),
            403,
            r#"{"error":{"code":"forbidden_path","message":"the path has an empty segment, a dot segment or an escaped slash"}}"#,
        ),
        (
            "two bots",
            good.clone().to("/webhook/bot1?bot_id=bot2"),
            403,
            r#"{"error":{"code":"forbidden_path","message":"the path and `bot_id` name different bots"}}"#,
        ),
        (
            "nobody's name",
            good.clone().to("/webhook/nobody"),
            404,
            r#"{"error":{"code":"no_such_bot","message":"no bot is configured under this name: push to /webhook/{bot} or /webhook?bot_id={bot}"}}"#,
        ),
        (
            "no name",
            good.clone().to("/webhook"),
            404,
            r#"{"error":{"code":"no_such_bot","message":"no bot is configured under this name: push to /webhook/{bot} or /webhook?bot_id={bot}"}}"#,
        ),
        (
            "GET",
            good.clone().method("GET"),
            405,
            r#"{"error":{"code":"malformed","message":"events are pushed with POST"}}"#,
        ),
        (
            "too large",
            Push::plain("/webhook/bot1", vec![b' '; 1024 * 1024 + 1]),
            413,
            r#"{"error":{"code":"too_large","message":"the body is larger than 1048576 bytes (`security.max_body`)"}}"#,
        ),
        (
            "compressed",
            good.clone().header("Content-Encoding", "gzip"),
            415,
            r#"{"error":{"code":"unsupported_encoding","message":"content-encoding is not supported: send the body as it is"}}"#,
        ),
        (
            "one too many",
            Push::event(&limited, &message(&limited, "om_2")),
            429,
            r#"{"error":{"code":"rate_limited","message":"the bot gets more events than `security.rate_limit`"}}"#,
        ),
        (
            "a full queue",
            Push::event(&full, &message(&full, "om_1")),
            503,
            r#"{"error":{"code":"queue_full","message":"the bot's queue is full (`message.queue_size`): push the event again later"}}"#,
        ),
    ];
    for (what, push, status, body) in rows {
        let answer = push.send(node.address).await;
        assert_eq!((answer.status, answer.body.as_str()), (*status, *body), "{what}");
        assert!(answer.head.contains("content-type: application/json"), "{what}");
        assert_eq!(*status == 405, answer.head.contains("allow: post"), "{what}");
    }
    for bot in [&keyed, &closed, &full] {
        taken(&backends.queue, bot, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bots_come_and_go_while_the_node_runs() {
    let backends = Embedded::open().await;
    let (one, two) = (bot("bot1"), bot("bot2"));
    let set = |bots: &[&openclaw_common::bot::Bot]| {
        Arc::new(BotSet::new(bots.iter().map(|bot| Arc::new((*bot).clone())), false))
    };
    let (change, current) = watch::channel(set(&[&one]));
    let mut setup = backends.setup(&[]);
    setup.bots = Bots::following(current);
    let node = setup.start().await;
    let push = |bot, id: &str| Push::event(bot, &message(bot, id));
    assert_eq!(push(&one, "om_1").send(node.address).await.status, 200);
    assert_eq!(push(&two, "om_1").send(node.address).await.status, 404);
    change.send(set(&[&two])).unwrap();
    assert_eq!(push(&one, "om_2").send(node.address).await.status, 404);
    assert_eq!(push(&two, "om_1").send(node.address).await.status, 200);
    let mut changed = one.clone();
    changed.credentials.encrypt_key = Some(Secret::new("a new key"));
    change.send(set(&[&changed, &two])).unwrap();
    assert_eq!(push(&one, "om_3").send(node.address).await.status, 401);
    assert_eq!(push(&changed, "om_3").send(node.address).await.status, 200);
    taken(&backends.queue, &one, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bots_are_named_by_path_by_query_or_not_at_all() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let single = {
        let mut setup = backends.setup(&[]);
        setup.bots = Bots::fixed(BotSet::new([Arc::new(bot.clone())], true));
        setup.start().await
    };
    let many = backends.start(std::slice::from_ref(&bot)).await;
    let push = Push::event(&bot, &message(&bot, "om_1"));
    for (node, path, status) in [
        (&many, "/webhook/bot1", 200),
        (&many, "/webhook?bot_id=bot1", 200),
        (&many, "/webhook?bot_id=other", 404),
        (&single, "/webhook", 200),
        (&single, "/webhook?bot_id=other", 200),
        (&single, "/webhook/other", 404),
    ] {
        assert_eq!(push.clone().to(path).send(node.address).await.status, status, "{path}");
    }
    taken(&backends.queue, &bot, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_ring_the_queue_holds_no_readable_body() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let ring = || {
        let key = Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        KeyRing::new(&Encryption {
            keys: [("2026a".to_owned(), key)].into(),
            active: "2026a".to_owned(),
            accept_plain_until_ms: None,
        })
        .unwrap()
    };
    let mut setup = backends.setup(std::slice::from_ref(&bot));
    setup.keys = ring();
    let node = setup.start().await;
    let body = message(&bot, "om_1");
    assert_eq!(Push::event(&bot, &body).send(node.address).await.status, 200);
    let sealed = taken(&backends.queue, &bot, 1).await.remove(0);
    assert!(manner(&sealed.body).is_some_and(|manner| manner.ends_with(b"2026a")));
    assert_eq!(
        ring().open(&sealed, Part::Body, &sealed.body).unwrap(),
        body.to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_served_beside_the_webhook() {
    let backends = Embedded::open().await;
    let node = backends.start(&[bot("bot1")]).await;
    for (path, expected) in [
        ("/healthz", r#"{"status":"ok"}"#),
        ("/readyz", r#"{"ready":true,"missing":[],"degraded":[]}"#),
    ] {
        let answer = Push::plain(path, "").method("GET").send(node.address).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, expected));
    }
}
