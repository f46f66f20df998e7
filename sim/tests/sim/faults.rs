use std::pin::pin;
use std::time::{Duration, Instant};

use hyper::Method;
use openclaw_sim::faults::{Fault, Scope};
use openclaw_sim::push::ClientError;
use openclaw_sim::{Api, Limits, Options};
use serde_json::json;

use crate::support::{APP, Running, eventually};

async fn started() -> (Running, String) {
    let running = Running::start(Options {
        limits: Limits::off(),
        ..Options::default()
    })
    .await;
    let token = running.token(APP).await;
    (running, token)
}

fn once() -> Scope {
    Scope {
        times: Some(1),
        ..Scope::default()
    }
}

fn visible(running: &Running) -> usize {
    running.sim.ledger(|ledger| ledger.messages().len())
}

#[tokio::test]
async fn commit_then_500_leaves_one_visible_message_however_often_it_is_repeated() {
    let (running, token) = started().await;
    running.sim.fault(once(), Fault::commit_then_error(500)).unwrap();
    let first = running.create(&token, "oc_1", "x", Some("u1")).await.unwrap();
    assert_eq!(first.status(), 500);
    assert_eq!(visible(&running), 1);
    assert_eq!(running.create(&token, "oc_1", "x", Some("u1")).await.unwrap().code(), 0);
    assert_eq!(visible(&running), 1);
}

#[tokio::test]
async fn a_500_before_commit_shows_nothing() {
    let (running, token) = started().await;
    running.sim.fault(once(), Fault::server_error(503)).unwrap();
    assert_eq!(
        running.create(&token, "oc_1", "x", Some("u1")).await.unwrap().status(),
        503
    );
    assert_eq!(visible(&running), 0);
    assert_eq!(running.create(&token, "oc_1", "x", Some("u1")).await.unwrap().code(), 0);
    assert_eq!(visible(&running), 1);
}

#[tokio::test]
async fn a_reset_is_a_real_tcp_reset_with_or_without_effect() {
    let (running, token) = started().await;
    for (fault, effect) in [(Fault::commit_then_reset(), 1), (Fault::reset(), 1)] {
        running.sim.fault(once(), fault).unwrap();
        let failed = running.create(&token, "oc_1", "x", Some("u1")).await.unwrap_err();
        let ClientError::Broken(error) = failed else {
            panic!("not a broken connection: {failed}")
        };
        let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
        assert_eq!(
            cause.map(std::io::Error::kind),
            Some(std::io::ErrorKind::ConnectionReset),
            "{error:?}"
        );
        assert_eq!(visible(&running), effect);
    }
}

#[tokio::test]
async fn a_silent_platform_keeps_the_connection_and_says_nothing() {
    let (running, token) = started().await;
    running.sim.fault(once(), Fault::silent(true)).unwrap();
    let call = running.create(&token, "oc_1", "x", Some("u1"));
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
    assert_eq!(visible(&running), 1);
    assert_eq!(running.create(&token, "oc_1", "x", Some("u1")).await.unwrap().code(), 0);
    assert_eq!(visible(&running), 1);
}

#[tokio::test]
async fn a_slow_answer_is_late_and_its_message_is_not() {
    let (running, token) = started().await;
    let late = Fault::slow(Duration::from_millis(300));
    running.sim.fault(once(), late).unwrap();
    let begun = Instant::now();
    let mut call = pin!(running.create(&token, "oc_1", "x", None));
    tokio::select! {
        answer = &mut call => panic!("not late: {answer:?}"),
        () = eventually("the message", || visible(&running) == 1) => {}
    }
    assert_eq!(call.await.unwrap().code(), 0);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn refusals_carry_their_code_status_and_reset() {
    let (running, token) = started().await;
    let cases = [
        (Fault::rate_limited(Duration::from_millis(9500)), 429, 99_991_400),
        (Fault::chat_limited(), 400, 230_020),
        (Fault::monthly_quota(), 429, 99_991_403),
        (Fault::code(400, 230_013, "gone"), 400, 230_013),
    ];
    for (fault, http, code) in cases {
        running.sim.fault(once(), fault).unwrap();
        let reply = running.create(&token, "oc_1", "x", None).await.unwrap();
        assert_eq!((reply.status(), reply.code()), (http, code));
        if code == 99_991_400 {
            assert_eq!(reply.header("x-ogw-ratelimit-reset"), "10");
        }
    }
    assert_eq!(visible(&running), 0);
}

#[tokio::test]
async fn a_revoked_token_fails_until_a_new_one_is_bought() {
    let (running, token) = started().await;
    running.sim.fault(once(), Fault::token_revoked()).unwrap();
    for _ in 0..2 {
        assert_eq!(
            running.create(&token, "oc_1", "x", None).await.unwrap().code(),
            99_991_663
        );
    }
    let fresh = running.token(APP).await;
    assert_eq!(running.create(&fresh, "oc_1", "x", None).await.unwrap().code(), 0);
}

#[tokio::test]
async fn unreadable_answers_may_hide_a_message() {
    let (running, token) = started().await;
    for (fault, effect) in [(Fault::malformed(false), 0), (Fault::garbage(true), 1)] {
        running.sim.fault(once(), fault).unwrap();
        let reply = running.create(&token, "oc_1", "x", None).await.unwrap();
        assert_eq!(reply.status(), 200);
        assert!(serde_json::from_slice::<serde_json::Value>(&reply.0.body).is_err());
        assert_eq!(visible(&running), effect);
    }
}

#[tokio::test]
async fn a_rule_hits_only_its_scope_and_only_as_often_as_told() {
    let (running, token) = started().await;
    let scope = Scope {
        api: Some(Api::Create),
        app: Some(APP.into()),
        chat: Some("oc_1".into()),
        skip: 1,
        times: Some(2),
        ..Scope::default()
    };
    running.sim.fault(scope, Fault::code(400, 1, "hit")).unwrap();
    let mut codes = Vec::new();
    for chat in ["oc_1", "oc_2", "oc_1", "oc_1", "oc_1"] {
        codes.push(running.create(&token, chat, "x", None).await.unwrap().code());
    }
    assert_eq!(codes, [0, 0, 1, 1, 0]);
}

#[tokio::test]
async fn a_fault_by_chance_hits_about_that_share_and_repeats_with_its_seed() {
    let share = async |seed| {
        let options = Options {
            limits: Limits::off(),
            seed,
            ..Options::default()
        };
        let running = Running::start(options).await;
        let token = running.token(APP).await;
        let scope = Scope {
            probability: Some(0.3),
            ..Scope::default()
        };
        running.sim.fault(scope, Fault::code(400, 1, "hit")).unwrap();
        let mut hits = Vec::new();
        for turn in 0..300 {
            if running.create(&token, "oc_1", "x", None).await.unwrap().code() == 1 {
                hits.push(turn);
            }
        }
        hits
    };
    let hits = share(7).await;
    assert!((60..120).contains(&hits.len()), "{} of 300", hits.len());
    assert_eq!(share(7).await, hits);
}

#[tokio::test]
async fn a_committing_fault_is_not_used_up_by_a_call_that_was_refused() {
    let (running, token) = started().await;
    running.sim.set_member(APP, "oc_1", false);
    running.sim.fault(once(), Fault::commit_then_error(500)).unwrap();
    assert_eq!(running.create(&token, "oc_1", "x", None).await.unwrap().code(), 230_002);
    assert_eq!(running.create(&token, "oc_2", "x", None).await.unwrap().status(), 500);
}

#[tokio::test]
async fn the_token_endpoint_fails_only_when_it_is_named() {
    let (running, _) = started().await;
    running.sim.fault(once(), Fault::server_error(500)).unwrap();
    assert!(running.token(APP).await.starts_with("t-"));
    running
        .sim
        .fault(
            Scope {
                api: Some(Api::Token),
                ..once()
            },
            Fault::server_error(500),
        )
        .unwrap();
    let path = "/open-apis/auth/v3/tenant_access_token/internal";
    let body = json!({"app_id": APP, "app_secret": "s"});
    assert_eq!(
        running.call(Method::POST, path, None, &body).await.unwrap().status(),
        500
    );
}
