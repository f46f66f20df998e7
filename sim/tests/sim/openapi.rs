use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use openclaw_common::bot::Credentials;
use openclaw_common::secret::Secret;
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::ledger::Level;
use openclaw_sim::rolling::{SECOND_US, max_in_any_window};
use openclaw_sim::{Api, Limits, Options, UnknownMessages};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{APP, Running, eventually, text_body};

const CREATE: &str = "/open-apis/im/v1/messages?receive_id_type=chat_id";
const TOKEN: &str = "/open-apis/auth/v3/tenant_access_token/internal";

async fn started() -> (Running, String) {
    let running = Running::start(Options::default()).await;
    let token = running.token(APP).await;
    (running, token)
}

#[tokio::test]
async fn the_sixth_message_of_a_rolling_second_in_a_chat_is_refused_and_the_limit_frees_after_exactly_one_second() {
    let limits = Limits {
        app_per_second: None,
        app_per_minute: None,
        ..Limits::default()
    };
    let running = Running::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let one = running.token(APP).await;
    let two = running.token("cli_two").await;
    let begun = Instant::now();
    let mut refused = 0;
    // Two bots share the chat: hammer until a second batch has passed.
    for turn in 0.. {
        let token = if turn % 2 == 0 { &one } else { &two };
        let reply = running.create(token, "oc_1", "x", None).await.unwrap();
        if reply.status() != 200 {
            assert_eq!((reply.status(), reply.code()), (400, 230_020));
            assert!(reply.json()["msg"].as_str().unwrap().ends_with("ext=chat rate limit"));
            refused += 1;
        }
        if running.sim.ledger(|ledger| ledger.messages().len()) == 10 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the limit never freed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused > 0, "nothing was refused");
    let times: Vec<u64> = running
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.at_us).collect());
    assert_eq!(max_in_any_window(times.iter().copied(), SECOND_US), 5);
    let gap = times[5] - times[0];
    assert!(
        (SECOND_US..SECOND_US + 100_000).contains(&gap),
        "the sixth came after {gap} us"
    );
    assert!(
        running.sim.ledger(|ledger| ledger.peak_of(Level::Chat, "oc_1")) > 5,
        "arrivals count, refused ones too"
    );
}

#[tokio::test]
async fn the_gateway_refuses_the_51st_call_of_a_second_and_says_when_to_come_back() {
    let running = Arc::new(Running::start(Options::default()).await);
    let token = running.token(APP).await;
    let mut calls = JoinSet::new();
    for chat in 0..80 {
        let (running, token) = (running.clone(), token.clone());
        calls.spawn(async move { running.create(&token, &format!("oc_{chat}"), "x", None).await.unwrap() });
    }
    let answers = calls.join_all().await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status() != 200).collect();
    assert!(!refused.is_empty());
    for refused in refused {
        assert_eq!((refused.status(), refused.code()), (429, 99_991_400));
        assert_eq!(refused.header("x-ogw-ratelimit-limit"), "50");
        assert_eq!(refused.header("x-ogw-ratelimit-reset"), "1");
        assert!(!refused.header("x-tt-logid").is_empty());
    }
    let times = running
        .sim
        .ledger(|ledger| ledger.messages().map(|message| message.at_us).collect::<Vec<_>>());
    assert_eq!(max_in_any_window(times, SECOND_US), 50);
    // The limit is per API: a reply still passes.
    running.sim.add_message("om_user", "oc_elsewhere");
    assert_eq!(running.reply(&token, "om_user", "x", None).await.unwrap().code(), 0);
}

#[tokio::test]
async fn the_minute_limit_names_the_minute() {
    let limits = Limits {
        app_per_second: None,
        app_per_minute: Some(3),
        ..Limits::off()
    };
    let running = Running::start(Options {
        limits,
        ..Options::default()
    })
    .await;
    let token = running.token(APP).await;
    for _ in 0..3 {
        assert_eq!(running.create(&token, "oc_1", "x", None).await.unwrap().code(), 0);
    }
    let refused = running.create(&token, "oc_1", "x", None).await.unwrap();
    assert_eq!(
        (refused.code(), refused.header("x-ogw-ratelimit-limit")),
        (99_991_400, "3")
    );
    assert_eq!(refused.header("x-ogw-ratelimit-reset"), "60");
}

#[tokio::test]
async fn a_person_has_one_limit_by_open_id_and_by_p2p_chat() {
    let (running, token) = started().await;
    running.sim.add_p2p("oc_dialogue", "ou_7");
    let by_user = "/open-apis/im/v1/messages?receive_id_type=open_id";
    for _ in 0..3 {
        let sent = running
            .call(Method::POST, by_user, Some(&token), &text_body(Some("ou_7"), "x", None))
            .await;
        assert_eq!(sent.unwrap().json()["data"]["chat_id"], "oc_dialogue");
        let last = running.create(&token, "oc_dialogue", "x", None).await.unwrap();
        if last.status() != 200 {
            assert_eq!(last.code(), 230_020);
        }
    }
    assert_eq!(running.sim.ledger(|ledger| ledger.messages().len()), 5);
    assert_eq!(running.sim.ledger(|ledger| ledger.peak_of(Level::User, "ou_7")), 6);
}

#[tokio::test]
async fn a_card_takes_five_patches_a_second() {
    let (running, token) = started().await;
    let body =
        json!({"receive_id": "oc_1", "msg_type": "interactive", "content": "{\"config\":{\"update_multi\":true}}"});
    let card = running
        .call(Method::POST, CREATE, Some(&token), &body)
        .await
        .unwrap()
        .message_id();
    let path = format!("/open-apis/im/v1/messages/{card}");
    let new = json!({"content": "{\"elements\":[]}"});
    for _ in 0..5 {
        assert_eq!(
            running
                .call(Method::PATCH, &path, Some(&token), &new)
                .await
                .unwrap()
                .code(),
            0
        );
    }
    assert_eq!(
        running
            .call(Method::PATCH, &path, Some(&token), &new)
            .await
            .unwrap()
            .code(),
        230_020
    );
    let content = running
        .sim
        .ledger(|ledger| ledger.messages().next().unwrap().content.clone());
    assert_eq!(&*content, "{\"elements\":[]}");
    assert_eq!(running.sim.ledger(|ledger| ledger.peak_of(Level::Card, &card)), 6);
}

#[tokio::test]
async fn a_repeated_uuid_gets_the_first_message_until_its_hour_is_over() {
    // An hour in a second.
    let options = Options {
        time_scale: 3_600.0,
        ..Options::default()
    };
    let running = Running::start(options).await;
    let token = running.token(APP).await;
    let first = running
        .create(&token, "oc_1", "x", Some("u1"))
        .await
        .unwrap()
        .message_id();
    let again = running
        .create(&token, "oc_1", "x", Some("u1"))
        .await
        .unwrap()
        .message_id();
    assert_eq!(first, again);
    assert_eq!(
        running
            .sim
            .ledger(|ledger| (ledger.totals().visible, ledger.totals().collapsed)),
        (1, 1)
    );
    // Another app's uuid is another uuid.
    let other = running.token("cli_two").await;
    assert_ne!(
        running
            .create(&other, "oc_1", "x", Some("u1"))
            .await
            .unwrap()
            .message_id(),
        first
    );
    tokio::time::sleep(Duration::from_millis(1010)).await;
    assert_ne!(
        running
            .create(&token, "oc_1", "x", Some("u1"))
            .await
            .unwrap()
            .message_id(),
        first
    );
    assert_eq!(running.sim.ledger(|ledger| ledger.totals().repeated_uuids), 1);
}

#[tokio::test]
async fn a_repeat_while_the_first_is_in_flight_is_told_so_and_the_first_finishes_though_its_caller_hung_up() {
    let (running, token) = started().await;
    let held = Fault::hold(Duration::from_millis(600));
    running
        .sim
        .fault(
            Scope {
                times: Some(1),
                ..Scope::default()
            },
            held,
        )
        .unwrap();
    tokio::select! {
        answer = running.create(&token, "oc_1", "x", Some("u1")) => panic!("not held: {answer:?}"),
        () = eventually("the first is in flight", || running.sim.faults()[0].fired == 1) => {}
    }
    let repeat = running.create(&token, "oc_1", "x", Some("u1")).await.unwrap();
    assert_eq!((repeat.status(), repeat.code()), (400, 230_049));
    eventually("the held message appears", || {
        running.sim.ledger(|ledger| ledger.totals().visible) == 1
    })
    .await;
    assert_eq!(running.create(&token, "oc_1", "x", Some("u1")).await.unwrap().code(), 0);
    assert_eq!(running.sim.ledger(|ledger| ledger.totals().visible), 1);
}

#[tokio::test]
async fn the_same_token_is_handed_out_until_a_quarter_is_left_and_then_both_are_valid() {
    let options = Options {
        token_lifetime: Duration::from_millis(3000),
        ..Options::default()
    };
    let running = Running::start(options).await;
    let first = running.token(APP).await;
    assert_eq!(running.token(APP).await, first);
    tokio::time::sleep(Duration::from_millis(2300)).await;
    let second = running.token(APP).await;
    assert_ne!(second, first);
    assert_eq!(running.create(&first, "oc_1", "x", None).await.unwrap().code(), 0);
    assert_eq!(running.create(&second, "oc_1", "x", None).await.unwrap().code(), 0);
    tokio::time::sleep(Duration::from_millis(750)).await;
    let expired = running.create(&first, "oc_1", "x", None).await.unwrap();
    assert_eq!((expired.status(), expired.code()), (400, 99_991_663));
    assert_eq!(running.create(&second, "oc_1", "x", None).await.unwrap().code(), 0);
}

#[tokio::test]
async fn token_answers_are_flat_and_refuse_unknown_apps_and_wrong_secrets_with_http_200() {
    let known = Credentials {
        app_id: "cli_known".into(),
        app_secret: Secret::new("right"),
        verification_token: Secret::new("vt"),
        encrypt_key: None,
    };
    let running = Running::start(Options {
        apps: vec![known],
        ..Options::default()
    })
    .await;
    let ask = async |app: &str, secret: &str| {
        running
            .call(Method::POST, TOKEN, None, &json!({"app_id": app, "app_secret": secret}))
            .await
            .unwrap()
    };
    let good = ask("cli_known", "right").await;
    assert_eq!(good.json()["expire"], 7200);
    assert!(good.json()["tenant_access_token"].as_str().unwrap().starts_with("t-"));
    let wrong = ask("cli_known", "wrong").await;
    assert_eq!((wrong.status(), wrong.code()), (200, 10014));
    let unknown = ask("cli_other", "right").await;
    assert_eq!((unknown.status(), unknown.code()), (200, 10003));
}

#[tokio::test]
async fn calls_without_a_valid_token_get_the_documented_codes() {
    let (running, token) = started().await;
    let body = text_body(Some("oc_1"), "x", None);
    let code = async |token: Option<&str>| running.call(Method::POST, CREATE, token, &body).await.unwrap().code();
    assert_eq!(code(None).await, 99_991_661);
    assert_eq!(code(Some("t-unknown")).await, 99_991_663);
    assert_eq!(code(Some("u-somebody")).await, 99_991_668);
    assert_eq!(code(Some("nonsense")).await, 99_991_671);
    running.sim.revoke_tokens(Some(APP));
    assert_eq!(code(Some(&token)).await, 99_991_663);
    assert_ne!(
        running.token(APP).await,
        token,
        "a revoked token must not be handed out again"
    );
    assert_eq!(running.sim.ledger(|ledger| ledger.messages().len()), 0);
}

#[tokio::test]
async fn fields_are_validated_as_the_platform_does() {
    let (running, token) = started().await;
    let code = async |path: &str, body: Value| {
        running
            .call(Method::POST, path, Some(&token), &body)
            .await
            .unwrap()
            .code()
    };
    let text = |content: &str| json!({"receive_id": "oc_1", "msg_type": "text", "content": content});
    assert_eq!(
        code("/open-apis/im/v1/messages", text("{\"text\":\"x\"}")).await,
        99_992_402
    );
    assert_eq!(
        code(CREATE, json!({"msg_type": "text", "content": "{\"text\":\"x\"}"})).await,
        99_992_402
    );
    assert_eq!(
        code(CREATE, json!({"receive_id": "oc_1", "content": "{}"})).await,
        99_992_402
    );
    assert_eq!(
        code(
            CREATE,
            json!({"receive_id": "oc_1", "msg_type": "text", "content": {"text": "x"}})
        )
        .await,
        99_992_402
    );
    assert_eq!(
        code(CREATE, text_body(Some("oc_1"), "x", Some(&"u".repeat(51)))).await,
        99_992_402
    );
    assert_eq!(
        code(CREATE, text_body(Some("oc_1"), "x", Some(&"u".repeat(50)))).await,
        0
    );
    assert_eq!(code(CREATE, text("not json")).await, 230_001);
    assert_eq!(code(CREATE, text("{\"words\":\"x\"}")).await, 230_001);
    assert_eq!(
        code(
            CREATE,
            json!({"receive_id": "oc_1", "msg_type": "telegram", "content": "{}"})
        )
        .await,
        230_001
    );
    assert_eq!(
        code(
            CREATE,
            json!({"receive_id": "oc_1", "msg_type": "post", "content": "{\"post\":{}}"})
        )
        .await,
        230_001
    );
    assert_eq!(code(CREATE, text_body(Some("ou_1"), "x", None)).await, 230_001);
    assert_eq!(
        code(CREATE, text_body(Some("oc_1"), &"x".repeat(150 * 1024), None)).await,
        230_025
    );
    let card = json!({"receive_id": "oc_1", "msg_type": "interactive", "content": json!({"x": "x".repeat(30 * 1024)}).to_string()});
    assert_eq!(code(CREATE, card).await, 230_025);
    assert_eq!(
        code("/open-apis/im/v1/messages/om_unknown/reply", text_body(None, "x", None)).await,
        99_992_354
    );
    running.sim.set_member(APP, "oc_1", false);
    assert_eq!(code(CREATE, text("{\"text\":\"x\"}")).await, 230_002);
    running.sim.set_member(APP, "oc_1", true);
    assert_eq!(code(CREATE, text("{\"text\":\"x\"}")).await, 0);
}

#[tokio::test]
async fn a_wrong_path_or_method_is_a_plain_404() {
    let (running, token) = started().await;
    for (method, path) in [(Method::GET, CREATE), (Method::POST, "/open-apis/im/v9/messages")] {
        let reply = running.call(method, path, Some(&token), &json!({})).await.unwrap();
        assert_eq!((reply.status(), &*reply.0.body), (404, &b"404 page not found"[..]));
    }
}

#[tokio::test]
async fn replies_go_to_the_chat_of_the_message_and_recalled_ones_cannot_be_answered() {
    let (running, token) = started().await;
    running.sim.add_message("om_user", "oc_9");
    let reply = running.reply(&token, "om_user", "hello", None).await.unwrap();
    assert_eq!(reply.json()["data"]["chat_id"], "oc_9");
    assert_eq!(reply.json()["data"]["parent_id"], "om_user");
    let seen = running
        .sim
        .ledger(|ledger| ledger.messages_in("oc_9").next().unwrap().clone());
    assert_eq!(
        (seen.reply_to.as_deref(), &*seen.content),
        (Some("om_user"), "{\"text\":\"hello\"}")
    );
    running.sim.recall("om_user");
    assert_eq!(
        running.reply(&token, "om_user", "x", None).await.unwrap().code(),
        230_011
    );
}

#[tokio::test]
async fn unknown_messages_have_a_chat_of_their_own_where_derivation_is_allowed() {
    let options = Options {
        unknown_messages: UnknownMessages::Derive,
        ..Options::default()
    };
    let running = Running::start(options).await;
    let token = running.token(APP).await;
    let pushed = running
        .reply(&token, "om_sim0000002a_11_oc_bot_7", "x", None)
        .await
        .unwrap();
    assert_eq!(pushed.json()["data"]["chat_id"], "oc_bot_7");
    assert_eq!(
        running.reply(&token, "om_other", "x", None).await.unwrap().json()["data"]["chat_id"],
        "oc_of_om_other"
    );
}

#[tokio::test]
async fn edits_stop_after_twenty_and_belong_to_the_author() {
    let running = Running::start(Options {
        limits: Limits::off(),
        ..Options::default()
    })
    .await;
    let token = running.token(APP).await;
    let message = running.create(&token, "oc_1", "x", None).await.unwrap().message_id();
    let path = format!("/open-apis/im/v1/messages/{message}");
    let other = running.token("cli_two").await;
    let body = text_body(None, "y", None);
    assert_eq!(
        running
            .call(Method::PUT, &path, Some(&other), &body)
            .await
            .unwrap()
            .code(),
        230_017
    );
    for _ in 0..20 {
        assert_eq!(
            running
                .call(Method::PUT, &path, Some(&token), &body)
                .await
                .unwrap()
                .code(),
            0
        );
    }
    assert_eq!(
        running
            .call(Method::PUT, &path, Some(&token), &body)
            .await
            .unwrap()
            .code(),
        230_072
    );
    let not_a_card = running
        .call(Method::PATCH, &path, Some(&token), &json!({"content": "{}"}))
        .await
        .unwrap();
    assert_eq!(not_a_card.code(), 230_001);
    assert_eq!(
        running
            .call(Method::DELETE, &path, Some(&token), &json!({}))
            .await
            .unwrap()
            .code(),
        0
    );
    assert!(running.sim.ledger(|ledger| ledger.messages().next().unwrap().recalled));
}

#[tokio::test]
async fn a_card_older_than_fourteen_days_cannot_be_patched() {
    // Fourteen days in 100 ms.
    let options = Options {
        time_scale: 12_096_000.0,
        ..Options::default()
    };
    let running = Running::start(options).await;
    let token = running.token(APP).await;
    let body = json!({"receive_id": "oc_1", "msg_type": "interactive", "content": "{}"});
    let card = running
        .call(Method::POST, CREATE, Some(&token), &body)
        .await
        .unwrap()
        .message_id();
    tokio::time::sleep(Duration::from_millis(110)).await;
    let path = format!("/open-apis/im/v1/messages/{card}");
    let patched = running
        .call(Method::PATCH, &path, Some(&token), &json!({"content": "{}"}))
        .await
        .unwrap();
    assert_eq!(patched.code(), 230_031);
}

#[tokio::test]
async fn a_card_token_works_twice_and_only_after_the_callback_was_answered() {
    let (running, token) = started().await;
    running.sim.add_card_token("c-1", APP, "om_card");
    let update = async |card_token: &str, token: &str| {
        let body = json!({"token": card_token, "card": {"elements": []}});
        running
            .call(
                Method::POST,
                "/open-apis/interactive/v1/card/update",
                Some(token),
                &body,
            )
            .await
            .unwrap()
            .code()
    };
    assert_eq!(update("c-1", &token).await, 300_020);
    running.sim.card_answered("c-1");
    assert_eq!(update("c-1", &running.token("cli_two").await).await, 200_310);
    assert_eq!(update("c-1", &token).await, 0);
    assert_eq!(update("c-1", &token).await, 0);
    assert_eq!(update("c-1", &token).await, 300_040);
    assert_eq!(update("c-none", &token).await, 300_020);
}

#[tokio::test]
async fn reactions_are_answered_and_show_no_message() {
    let (running, token) = started().await;
    running.sim.add_message("om_user", "oc_9");
    let path = "/open-apis/im/v1/messages/om_user/reactions";
    let body = json!({"reaction_type": {"emoji_type": "THUMBSUP"}});
    let reaction = running.call(Method::POST, path, Some(&token), &body).await.unwrap();
    assert_eq!(reaction.json()["data"]["reaction_type"]["emoji_type"], "THUMBSUP");
    assert_eq!(
        running
            .call(Method::POST, path, Some(&token), &json!({}))
            .await
            .unwrap()
            .code(),
        99_992_402
    );
    running.sim.ledger(|ledger| {
        assert_eq!(ledger.messages().len(), 0);
        assert_eq!(ledger.totals().apis[Api::React.name()], 2);
    });
}

#[tokio::test]
async fn the_ledger_is_bounded_and_its_totals_are_not() {
    let options = Options {
        keep: 10,
        limits: Limits::off(),
        ..Options::default()
    };
    let running = Running::start(options).await;
    let token = running.token(APP).await;
    for turn in 0..25 {
        assert_eq!(
            running
                .create(&token, "oc_1", &turn.to_string(), None)
                .await
                .unwrap()
                .code(),
            0
        );
    }
    running.sim.ledger(|ledger| {
        assert_eq!((ledger.messages().len(), ledger.forgotten_messages()), (10, 15));
        assert_eq!(ledger.totals().visible, 25);
        assert_eq!(&*ledger.messages().next().unwrap().content, "{\"text\":\"15\"}");
        assert_eq!(ledger.peak_of(Level::Bot, APP), 25);
    });
}

#[tokio::test]
async fn the_admin_api_shows_and_steers() {
    let (running, token) = started().await;
    let post = async |path: &str, body: Value| running.call(Method::POST, path, None, &body).await.unwrap();
    let get = async |path: &str| running.call(Method::GET, path, None, &json!({})).await.unwrap().json();
    assert_eq!(
        post("/sim/messages", json!([{"message_id": "om_u", "chat_id": "oc_9"}]))
            .await
            .status(),
        204
    );
    assert_eq!(running.reply(&token, "om_u", "x", Some("u1")).await.unwrap().code(), 0);
    assert_eq!(get("/sim/messages?chat=oc_9").await.as_array().unwrap().len(), 1);
    assert_eq!(get("/sim/messages?chat=oc_8").await.as_array().unwrap().len(), 0);
    assert_eq!(get("/sim/messages?uuid=u1").await[0]["reply_to"], "om_u");
    assert_eq!(get("/sim/calls?app=cli_one").await[1]["api"], "reply");
    let ledger = get("/sim/ledger").await;
    assert_eq!(ledger["totals"]["visible"], 1);
    assert_eq!(
        ledger["max_per_second"]["chat"][0],
        json!({"key": "oc_9", "count": 1, "at_us": ledger["max_per_second"]["chat"][0]["at_us"]})
    );
    assert_eq!(
        post("/sim/limits", json!({"chat_per_second": 1, "user_per_second": "off"}))
            .await
            .json()["chat_per_second"],
        1
    );
    assert_eq!(get("/sim/limits").await["user_per_second"], "off");
    assert_eq!(running.create(&token, "oc_8", "x", None).await.unwrap().code(), 0);
    assert_eq!(running.create(&token, "oc_8", "x", None).await.unwrap().code(), 230_020);
    let rule = json!({"fault": "code", "code": 230_099, "chat": "oc_7", "nth": 2});
    let id = post("/sim/faults", rule).await.json()["id"].as_u64().unwrap();
    post("/sim/limits", json!({"chat_per_second": "off"})).await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(running.create(&token, "oc_7", "x", None).await.unwrap().code());
    }
    assert_eq!(codes, [0, 230_099, 0]);
    assert_eq!(
        get("/sim/faults").await,
        json!([{"id": id, "fault": "code", "seen": 3, "fired": 1}])
    );
    let cleared = running
        .call(Method::DELETE, &format!("/sim/faults?id={id}"), None, &json!({}))
        .await
        .unwrap();
    assert_eq!(cleared.json(), json!({"removed": 1}));
    assert_eq!(post("/sim/faults", json!({"fault": "nonsense"})).await.status(), 400);
    assert_eq!(post("/sim/tokens/revoke", json!({})).await.status(), 204);
    assert_eq!(
        running.create(&token, "oc_1", "x", None).await.unwrap().code(),
        99_991_663
    );
}
