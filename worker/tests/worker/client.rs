//! Every way a send can end, over a real socket.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_worker::action::Action;
use openclaw_worker::feishu::{Client, Outcome, Scope};
use serde_json::json;

use super::script::{Reply, Script, answer, bot, coded, nobody};

/// A client with a cache of its own.
pub(crate) fn client() -> Client {
    client_on(Arc::new(Memory::new()))
}

/// A client that shares `cache`.
pub(crate) fn client_on(cache: Arc<dyn openclaw_common::cache::Cache>) -> Client {
    // Another test of this process may have been first.
    rustls::crypto::ring::default_provider().install_default().ok();
    Client::new(cache).unwrap()
}

/// A reply, the commonest action.
pub(crate) fn reply() -> Action {
    Action::Reply {
        message_id: "om_1".to_owned(),
        chat: "oc_1".to_owned(),
        msg_type: "text".to_owned(),
        content: r#"{"text":"hi"}"#.to_owned(),
        in_thread: false,
    }
}

/// How a reply that gets this answer ends.
async fn ends(script: &Script, client: &Client, answer: Reply) -> Outcome {
    script.next_send(answer);
    client.send(&script.bot(), &reply(), "oc-uuid").await
}

/// The classes of the protocol sheet's error table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// R, of the app's API.
    Api,
    /// R, of the chat.
    Chat,
    /// B, definitely not carried out.
    B,
    /// B, ambiguous.
    BAmbiguous,
    /// P and G.
    P,
    /// PA.
    PA,
    /// The tenant's month.
    Tenant,
    /// No request was made.
    Unready,
}

fn class(outcome: &Outcome) -> Class {
    match outcome {
        Outcome::Limited { scope: Scope::Api, .. } => Class::Api,
        Outcome::Limited { scope: Scope::Chat, .. } => Class::Chat,
        Outcome::Limited {
            scope: Scope::Tenant, ..
        } => Class::Tenant,
        Outcome::Unready { .. } => Class::Unready,
        Outcome::Transient { ambiguous: false, .. } => Class::B,
        Outcome::Transient { ambiguous: true, .. } => Class::BAmbiguous,
        Outcome::Permanent {
            needs_operator: false, ..
        } => Class::P,
        Outcome::Permanent {
            needs_operator: true, ..
        } => Class::PA,
        Outcome::Sent { .. } => panic!("sent"),
    }
}

/// `docs/design/feishu-protocol.md` §7.5, written down a second time, without the rows that renew a token (`token.rs` has them).
const ROWS: &[(&[i64], u16, Class)] = &[
    (&[99_991_400], 429, Class::Api),
    (&[99_991_400], 400, Class::Api),
    (&[99_991_403], 429, Class::Tenant),
    (
        &[99_991_401, 99_991_661, 99_991_662, 99_991_673, 99_991_672],
        400,
        Class::PA,
    ),
    (&[99_991_668, 99_991_679], 400, Class::P),
    (
        &[99_992_351, 99_992_360, 99_992_361, 99_992_364, 99_992_381, 99_992_354],
        400,
        Class::P,
    ),
    (&[99_992_355, 99_992_356], 400, Class::P),
    (&[230_001, 230_002], 400, Class::P),
    (&[230_006], 400, Class::PA),
    (&[230_011, 230_013, 230_015, 230_017, 230_018, 230_019], 400, Class::P),
    (&[230_020], 400, Class::Chat),
    (&[230_022, 230_025], 400, Class::P),
    (&[230_027], 400, Class::PA),
    (&[230_028, 230_029, 230_031, 230_034, 230_035], 400, Class::P),
    (&[230_036], 400, Class::PA),
    (&[230_038], 400, Class::P),
    (&[230_049], 400, Class::BAmbiguous),
    (
        &[230_050, 230_053, 230_054, 230_055, 230_071, 230_072, 230_075, 230_099],
        400,
        Class::P,
    ),
    (&[230_110, 230_111, 232_009], 400, Class::P),
    (&[300_020, 300_030, 300_040, 200_310], 200, Class::P),
    (&[11_232, 11_233], 200, Class::B),
    (&[11_247], 200, Class::PA),
    (
        &[2200, 1500, 1663, 1668, 5000, 55_001, 65_001, 10_101],
        200,
        Class::BAmbiguous,
    ),
    (
        &[2200, 1500, 1663, 1668, 5000, 55_001, 65_001, 10_101],
        500,
        Class::BAmbiguous,
    ),
];

#[tokio::test]
async fn every_row_of_the_error_table_ends_in_its_class() {
    let (script, client) = (Script::start().await, client());
    for &(codes, status, expected) in ROWS {
        for &code in codes {
            let outcome = ends(&script, &client, coded(status, code, "some text")).await;
            assert_eq!(class(&outcome), expected, "{code}: {outcome:?}");
            let (Outcome::Permanent {
                code: named, message, ..
            }
            | Outcome::Transient {
                code: named, message, ..
            }) = outcome
            else {
                continue;
            };
            assert_eq!(named, Some(code));
            assert!(
                !message.contains("unknown code") && message.contains("some text"),
                "{code} is known: {message}"
            );
        }
    }
}

#[tokio::test]
async fn the_code_decides_whatever_the_status() {
    let (script, client) = (Script::start().await, client());
    for status in [200, 400, 403, 429, 500, 503] {
        for (code, expected) in [
            (230_002, Class::P),
            (230_020, Class::Chat),
            (99_991_400, Class::Api),
            (99_991_672, Class::PA),
        ] {
            let outcome = ends(&script, &client, coded(status, code, "")).await;
            assert_eq!(class(&outcome), expected, "{code} as HTTP {status}");
        }
        let outcome = ends(&script, &client, coded(status, 0, "success")).await;
        let sent = Outcome::Sent {
            message_id: None,
            chat_id: None,
        };
        assert_eq!(outcome, sent, "0 as HTTP {status}");
    }
}

#[tokio::test]
async fn feishus_text_tells_two_codes_apart() {
    let (script, client) = (Script::start().await, client());
    for (code, text, expected) in [
        (
            230_001,
            "Your request contains an invalid request parameter, ext=invalid receive_id",
            Class::P,
        ),
        (
            230_001,
            "Your request contains an invalid request parameter, ext=Internal Error",
            Class::BAmbiguous,
        ),
        (
            230_099,
            "Failed to create card content, ext=ErrCode: 11310; ErrMsg: card table number over limit",
            Class::P,
        ),
        (
            230_099,
            "Failed to create card content, ext=ErrCode: 11310; ErrMsg: card action is lock",
            Class::B,
        ),
    ] {
        let outcome = ends(&script, &client, coded(400, code, text)).await;
        assert_eq!(class(&outcome), expected, "{text}");
    }
}

#[tokio::test]
async fn an_unknown_code_is_judged_by_status() {
    let (script, client) = (Script::start().await, client());
    for (status, expected) in [
        (200, Class::B),
        (400, Class::P),
        (403, Class::P),
        (408, Class::BAmbiguous),
        (429, Class::Api),
        (500, Class::BAmbiguous),
        (503, Class::BAmbiguous),
    ] {
        let outcome = ends(&script, &client, coded(status, 424_242, "new trouble")).await;
        assert_eq!(class(&outcome), expected, "HTTP {status}: {outcome:?}");
    }
    let outcome = ends(&script, &client, coded(400, 424_242, "new\ntrouble")).await;
    let Outcome::Permanent { message, code, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(code, Some(424_242));
    assert_eq!(
        message,
        "Feishu answered with an unknown code (code 424242, HTTP 400): new trouble"
    );
}

#[tokio::test]
async fn an_answer_without_a_code_is_judged_by_status() {
    let (script, client) = (Script::start().await, client());
    for (status, body, expected) in [
        (200, "<html>", Class::BAmbiguous),
        (200, "", Class::BAmbiguous),
        (200, r#"{"msg":"success"}"#, Class::BAmbiguous),
        (200, r#"{"code":0,"msg":"succ"#, Class::BAmbiguous),
        (200, r#"{"code":"0"}"#, Class::BAmbiguous),
        (302, "", Class::PA),
        (400, "<html>bad", Class::B),
        (403, "blocked by the company's proxy", Class::B),
        (404, "404 page not found", Class::PA),
        (408, "", Class::BAmbiguous),
        (413, "<html>too large", Class::P),
        (429, "slow down", Class::Api),
        (500, "oops", Class::BAmbiguous),
        (502, "<html>bad gateway", Class::BAmbiguous),
        (504, "", Class::BAmbiguous),
    ] {
        let outcome = ends(
            &script,
            &client,
            answer(status, &[("content-type", "text/plain")], body),
        )
        .await;
        assert_eq!(class(&outcome), expected, "HTTP {status} {body:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_limit_pauses_as_long_as_the_platform_says() {
    let (script, client) = (Script::start().await, client());
    let reset = "x-ogw-ratelimit-reset";
    let body = r#"{"code":99991400,"msg":"request trigger frequency limit"}"#;
    for (headers, expected) in [
        (&[(reset, "12")][..], Some(Duration::from_secs(12))),
        (&[(reset, "0.25")], Some(Duration::from_millis(250))),
        (&[(reset, "soon"), ("retry-after", "3")], Some(Duration::from_secs(3))),
        (&[("Retry-After", " 7 ")], Some(Duration::from_secs(7))),
        (&[], None),
        (&[(reset, "0")], None),
        (&[(reset, "-3")], None),
        (&[(reset, "NaN")], None),
        (&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")], None),
        (&[(reset, "86400")], Some(Duration::from_secs(3600))),
        (&[(reset, "1e300")], Some(Duration::from_secs(3600))),
        (&[(reset, "inf")], Some(Duration::from_secs(3600))),
    ] {
        for status in [429, 400] {
            let outcome = ends(&script, &client, answer(status, headers, body)).await;
            let limited = Outcome::Limited {
                scope: Scope::Api,
                pause: expected,
                code: 99_991_400,
            };
            assert_eq!(outcome, limited, "{headers:?}");
        }
    }
    let outcome = ends(&script, &client, answer(429, &[("retry-after", "2")], "")).await;
    let limited = Outcome::Limited {
        scope: Scope::Api,
        pause: Some(Duration::from_secs(2)),
        code: 429,
    };
    assert_eq!(outcome, limited);
    // The gateway's window says nothing about the chat's.
    let outcome = ends(
        &script,
        &client,
        answer(400, &[(reset, "60")], r#"{"code":230020,"msg":"ext=chat rate limit"}"#),
    )
    .await;
    let limited = Outcome::Limited {
        scope: Scope::Chat,
        pause: None,
        code: 230_020,
    };
    assert_eq!(outcome, limited);
}

#[tokio::test]
async fn what_operators_read_names_code_status_and_log_id() {
    let (script, client) = (Script::start().await, client());
    let long = "x".repeat(1000);
    let body =
        json!({"code": 230_002, "msg": format!("out of\u{7}chat {long}"), "error": {"log_id": "inner"}}).to_string();
    let outcome = ends(&script, &client, answer(400, &[("X-Tt-Logid", "20261123")], &body)).await;
    let Outcome::Permanent { message, .. } = outcome else {
        panic!("{outcome:?}")
    };
    let begin = "the bot is not in the group (code 230002, HTTP 400, log 20261123): out of chat xxx";
    assert!(message.starts_with(begin), "{message}");
    assert!(message.len() < 450, "{}", message.len());
}

#[tokio::test]
async fn success_needs_no_more_than_code_0() {
    let (script, client) = (Script::start().await, client());
    for (body, expected) in [
        (
            r#"{"code":0,"msg":"success","data":{"message_id":"om_9","chat_id":"oc_1","x":[1]}}"#,
            Some(("om_9", "oc_1")),
        ),
        (r#"{"code":0,"msg":"","data":{}}"#, None),
        (r#"{"code":0,"data":{"message_id":null}}"#, None),
        (r#"{"code":0,"msg":null,"data":""}"#, None),
        (r#"{"code":0,"msg":7,"data":[]}"#, None),
        (r#"{"code":0}"#, None),
    ] {
        let (message_id, chat_id) = expected
            .map(|(message, chat): (&str, &str)| (message.to_owned(), chat.to_owned()))
            .unzip();
        assert_eq!(
            ends(&script, &client, answer(200, &[], body)).await,
            Outcome::Sent { message_id, chat_id },
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_refused_connection_has_sent_nothing() {
    let (_reserved, address) = nobody();
    // The token comes from the cache, so that it is the send that fails.
    let cache = Arc::new(Memory::new());
    store_token(&cache, "t-0").await;
    let outcome = client_on(cache)
        .send(&bot(&format!("http://{address}")), &reply(), "u")
        .await;
    assert_eq!(class(&outcome), Class::B, "{outcome:?}");
}

async fn store_token(cache: &Memory, token: &str) {
    use openclaw_common::cache::Cache as _;
    for key in ["openclaw:tok:cli_1", "openclaw:tok:cli_1:fresh"] {
        cache
            .set(key, token.as_bytes(), Duration::from_secs(600))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_it_open() {
    let (script, client) = (Script::start().await, client());
    for cut in [
        Reply::Reset,
        Reply::Last(Vec::new()),
        Reply::Last(b"HTTP/1.1 200 OK\r\nconte".to_vec()),
        Reply::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 400\r\n\r\n{\"code\":0".to_vec()),
        Reply::Last(b"this is not HTTP\r\n\r\n".to_vec()),
    ] {
        let outcome = ends(&script, &client, cut).await;
        assert_eq!(class(&outcome), Class::BAmbiguous, "{outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_larger_than_any_honest_one_is_not_read() {
    let (script, client) = (Script::start().await, client());
    let body = json!({"code": 0, "msg": "x".repeat(1024 * 1024)}).to_string();
    assert_eq!(
        class(&ends(&script, &client, answer(200, &[], &body)).await),
        Class::BAmbiguous
    );
    let body = json!({"code": 0, "msg": "x".repeat(1023 * 1024)}).to_string();
    assert_eq!(
        ends(&script, &client, answer(200, &[], &body)).await,
        Outcome::Sent {
            message_id: None,
            chat_id: None
        }
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (script, elsewhere, client) = (Script::start().await, Script::start().await, client());
    for status in [301, 302, 307, 308] {
        let outcome = ends(
            &script,
            &client,
            answer(status, &[("location", &elsewhere.base_url)], ""),
        )
        .await;
        assert_eq!(class(&outcome), Class::PA, "{outcome:?}");
    }
    assert!(elsewhere.sent().is_empty());
}

#[tokio::test]
async fn each_action_is_the_documented_request() {
    let (script, client) = (Script::start().await, client());
    let content = "{\"text\":\"你好 \\\"x\\\"\"}";
    let text = |value: &str| value.to_owned();
    let (msg_type, content_) = (text("text"), text(content));
    let cases = [
        (
            Action::Create {
                to: text("ou_1"),
                msg_type: msg_type.clone(),
                content: content_.clone(),
            },
            "POST /open-apis/im/v1/messages?receive_id_type=open_id",
            json!({"receive_id": "ou_1", "msg_type": "text", "content": content, "uuid": "oc-uuid"}),
        ),
        (
            Action::Create {
                to: text("li@example.com"),
                msg_type: msg_type.clone(),
                content: content_.clone(),
            },
            "POST /open-apis/im/v1/messages?receive_id_type=email",
            json!({"receive_id": "li@example.com", "msg_type": "text", "content": content, "uuid": "oc-uuid"}),
        ),
        (
            Action::Reply {
                message_id: text("om_1"),
                chat: text("oc_1"),
                msg_type: msg_type.clone(),
                content: content_.clone(),
                in_thread: true,
            },
            "POST /open-apis/im/v1/messages/om_1/reply",
            json!({"msg_type": "text", "content": content, "reply_in_thread": true, "uuid": "oc-uuid"}),
        ),
        (
            Action::Edit {
                message_id: text("om_1"),
                msg_type,
                content: content_.clone(),
            },
            "PUT /open-apis/im/v1/messages/om_1",
            json!({"msg_type": "text", "content": content}),
        ),
        (
            Action::PatchCard {
                message_id: text("om_1"),
                content: content_,
            },
            "PATCH /open-apis/im/v1/messages/om_1",
            json!({"content": content}),
        ),
        (
            Action::UpdateCard {
                token: text("c-1"),
                card: json!({"elements": []}),
            },
            "POST /open-apis/interactive/v1/card/update",
            json!({"token": "c-1", "card": {"elements": []}}),
        ),
        (
            Action::React {
                message_id: text("om_1"),
                emoji: text("SMILE"),
            },
            "POST /open-apis/im/v1/messages/om_1/reactions",
            json!({"reaction_type": {"emoji_type": "SMILE"}}),
        ),
    ];
    for (action, request, body) in cases {
        let outcome = client.send(&script.bot(), &action, "oc-uuid").await;
        assert!(matches!(outcome, Outcome::Sent { .. }), "{outcome:?}");
        let seen = script.sent().pop().unwrap();
        assert_eq!(format!("{} {}", seen.method, seen.path), request);
        assert_eq!(seen.body, body, "{request}");
        assert_eq!(seen.headers["authorization"], "Bearer t-1");
        assert_eq!(seen.headers["content-type"], "application/json; charset=utf-8");
        assert_eq!(
            seen.headers["user-agent"],
            concat!("openclaw/", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[tokio::test]
async fn an_id_that_would_lead_elsewhere_is_never_requested() {
    let (script, client) = (Script::start().await, client());
    for id in [
        "",
        "..",
        "../chats",
        "om_1/reply",
        "om_1?x=1",
        "om_1#",
        "%2e%2e",
        "om 1",
    ] {
        let action = Action::PatchCard {
            message_id: id.to_owned(),
            content: "{}".to_owned(),
        };
        assert_eq!(class(&client.send(&script.bot(), &action, "u").await), Class::P, "{id}");
    }
    assert!(script.sent().is_empty());
}

#[tokio::test]
async fn a_base_url_that_is_none_makes_messages_wait_for_its_correction() {
    for base_url in ["", "open.feishu.cn", "ftp://127.0.0.1"] {
        let outcome = client().send(&bot(base_url), &reply(), "u").await;
        assert_eq!(class(&outcome), Class::Unready, "{base_url}: {outcome:?}");
    }
}

#[tokio::test]
async fn secrets_do_not_show() {
    let (script, client) = (Script::start().await, client());
    let outcome = ends(&script, &client, coded(400, 230_002, "no")).await;
    let shown = format!("{client:?} {outcome:?} {:?}", script.bot());
    assert_eq!(script.sent()[0].headers["authorization"], "Bearer t-1");
    for secret in ["t-1", "app-secret-1", "verification-1"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// An answer with a body that is no text.
fn packed(headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    Reply::Bytes(bytes)
}

fn gzip(plain: &str) -> Vec<u8> {
    use std::io::Read as _;
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(plain.as_bytes(), flate2::Compression::best())
        .read_to_end(&mut packed)
        .unwrap();
    packed
}

#[tokio::test]
async fn an_answer_that_was_packed_unasked_is_one_send_that_succeeded() {
    let success = json!({"code": 0, "msg": "success", "data": {"message_id": "om_9", "chat_id": "oc_9"}}).to_string();
    let sold = json!({"code": 0, "msg": "ok", "tenant_access_token": "t-1", "expire": 7200}).to_string();
    let (in_pieces, marked) = (gzip(&success), format!("\u{feff}{success}"));
    let pieces: Vec<u8> = in_pieces
        .chunks(7)
        .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
        .collect();
    let chunked = [
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n".as_slice(),
        &pieces,
        b"0\r\n\r\n",
    ]
    .concat();
    for answer in [
        packed(
            &[("content-encoding", "gzip"), ("content-type", "application/json")],
            &gzip(&success),
        ),
        packed(&[("content-type", "application/octet-stream")], &gzip(&success)),
        packed(&[("content-encoding", "gzip")], success.as_bytes()),
        packed(&[("content-type", "text/html")], marked.as_bytes()),
        Reply::Bytes(chunked),
    ] {
        let (script, client) = (Script::start().await, client());
        script.next_sale(packed(&[("content-encoding", "gzip")], &gzip(&sold)));
        let outcome = ends(&script, &client, answer).await;
        let sent = Outcome::Sent {
            message_id: Some("om_9".to_owned()),
            chat_id: Some("oc_9".to_owned()),
        };
        assert_eq!(outcome, sent);
        assert_eq!((script.sent().len(), script.bought().len()), (1, 1));
        assert_eq!(
            script.sent()[0].headers["accept-encoding"],
            "identity",
            "nobody asks for it"
        );
    }
}

#[tokio::test]
async fn an_answer_that_cannot_be_unpacked_is_open_and_says_why() {
    let (script, client) = (Script::start().await, client());
    let outcome = ends(&script, &client, packed(&[("content-encoding", "lzma")], b"?")).await;
    assert_eq!(class(&outcome), Class::BAmbiguous);
    assert!(outcome.message().contains("`lzma`"), "{outcome:?}");
}

#[tokio::test]
async fn the_answer_to_the_longest_text_is_read() {
    let (script, client) = (Script::start().await, client());
    // 150 KB as people write it, and each character by its number, inside JSON inside JSON.
    let echoed = r"\\u5e2e".repeat(50 * 1024);
    let body =
        format!(r#"{{"code":0,"data":{{"message_id":"om_9","body":{{"content":"{{\"text\":\"{echoed}\"}}"}}}}}}"#);
    let outcome = ends(&script, &client, answer(200, &[], &body)).await;
    assert!(
        matches!(&outcome, Outcome::Sent { message_id: Some(id), .. } if id == "om_9"),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_others_wrote_stays_on_one_line_and_short() {
    let (script, client) = (Script::start().await, client());
    let forged = format!("no\n2026-11-30T00:00:00Z ERROR forged \u{2028}{}", "x".repeat(100_000));
    let mut messages = Vec::new();
    for status in [200, 400, 500] {
        messages.push(
            ends(&script, &client, coded(status, 230_002, &forged))
                .await
                .message()
                .to_owned(),
        );
        let page = format!("<html>{forged}</html>");
        messages.push(
            ends(
                &script,
                &client,
                answer(status, &[("x-tt-logid", &"l".repeat(5000))], &page),
            )
            .await
            .message()
            .to_owned(),
        );
    }
    script.next_sale(coded(200, 10_014, &forged));
    messages.push(
        super::client::client()
            .send(&script.bot(), &reply(), "u")
            .await
            .message()
            .to_owned(),
    );
    for message in messages {
        assert!(message.chars().count() < 1000, "{}", message.len());
        assert!(
            !message.chars().any(|c| c.is_control() || c == '\u{2028}'),
            "{message:?}"
        );
        assert!(!message.contains("<html>"), "{message}");
    }
}
