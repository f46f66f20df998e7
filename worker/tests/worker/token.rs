//! Access tokens: bought once, shared, renewed in time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use openclaw_backends::caches::memory::Memory;
use openclaw_backends::caches::redis::Redis;
use openclaw_common::bot::Bot;
use openclaw_common::cache::Cache;
use openclaw_common::secret::Secret;
use openclaw_worker::feishu::{Client, Outcome};
use serde_json::json;
use tokio::task::JoinSet;

use super::client::{client, client_on, reply};
use super::script::{Reply, Script, answer, coded, nobody, sale};

const KEY: &str = "openclaw:tok:cli_1";
const FRESH: &str = "openclaw:tok:cli_1:fresh";
const HOUR: Duration = Duration::from_secs(3600);

/// Sends at once, from one client; how they ended.
async fn burst(script: &Script, client: &Arc<Client>, count: usize) -> Vec<Outcome> {
    let mut sends = JoinSet::new();
    for _ in 0..count {
        let (client, bot) = (client.clone(), script.bot());
        sends.spawn(async move { tried(&client, &bot).await });
    }
    sends.join_all().await
}

async fn send(script: &Script, client: &Client) -> Outcome {
    tried(client, &script.bot()).await
}

/// One send as the worker makes it: what is to be tried again at once gets another slot.
async fn tried(client: &Client, bot: &Bot) -> Outcome {
    loop {
        let outcome = client.send(bot, &reply(), "u").await;
        if !is_to_be_tried_again(&outcome) {
            return outcome;
        }
    }
}

fn is_to_be_tried_again(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Unready {
            wait: Duration::ZERO,
            ..
        }
    )
}

fn is_sent(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Sent { .. })
}

/// Not sent for want of a token, with this code.
fn waits(outcome: &Outcome, expected: Option<i64>) -> bool {
    matches!(outcome, Outcome::Unready { code, .. } if *code == expected)
}

/// A call that was made, and refused for its token.
fn was_refused(outcome: &Outcome) -> bool {
    let refused = Some(99_991_663);
    matches!(outcome, Outcome::Transient { ambiguous: false, code, .. } if *code == refused)
}

/// The token of the last send.
fn last_token(script: &Script) -> String {
    script.sent().pop().unwrap().headers["authorization"].clone()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Lets time pass for the client and the cache, but not for the sockets.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_crowd_of_sends_buys_one_token() {
    let (script, client) = (Script::start().await, Arc::new(client()));
    assert!(burst(&script, &client, 50).await.iter().all(is_sent));
    let bought = script.bought();
    assert_eq!(bought.len(), 1);
    assert_eq!(
        bought[0].body,
        json!({ "app_id": "cli_1", "app_secret": "app-secret-1" })
    );
    assert_eq!(
        (&*bought[0].method, bought[0].headers.get("authorization")),
        ("POST", None)
    );
}

#[tokio::test]
async fn workers_share_one_token_also_when_they_start_together() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    let clients: Vec<_> = (0..4).map(|_| Arc::new(client_on(cache.clone()))).collect();
    let ends = futures_util::future::join_all(clients.iter().map(|client| burst(&script, client, 5))).await;
    assert!(ends.iter().flatten().all(is_sent));
    assert_eq!(script.bought().len(), 1);
    assert_eq!(cache.get(KEY).await.unwrap().unwrap(), b"t-1");
}

#[tokio::test]
async fn preparing_buys_the_token_and_sends_nothing() {
    let (script, client) = (Script::start().await, client());
    client.prepare(&script.bot()).await.unwrap();
    assert_eq!((script.bought().len(), script.sent().len()), (1, 0));
    script.next_sale(Reply::Reset);
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(script.bought().len(), 1);
}

#[tokio::test]
async fn one_send_is_one_request_also_when_its_token_is_refused() {
    let (script, client) = (Script::start().await, client());
    assert!(is_sent(&send(&script, &client).await));
    script.revoke("t-1");
    let outcome = client.send(&script.bot(), &reply(), "u").await;
    assert!(is_to_be_tried_again(&outcome), "{outcome:?}");
    assert_eq!((script.sent().len(), script.bought().len()), (2, 2));
    assert!(is_sent(&client.send(&script.bot(), &reply(), "u").await));
    assert_eq!((script.sent().len(), script.bought().len()), (3, 2));
}

#[tokio::test]
async fn a_refused_token_is_renewed_and_the_send_repeated_once() {
    let (script, client) = (Script::start().await, client());
    for code in [99_991_663, 99_991_664, 99_991_665, 99_991_671] {
        for status in [200, 400] {
            let (sent, bought) = (script.sent().len(), script.bought().len().max(1));
            script.next_send(coded(status, code, "invalid access token"));
            assert!(is_sent(&send(&script, &client).await), "{code}");
            assert_eq!(script.sent().len(), sent + 2);
            assert_eq!(script.bought().len(), bought + 1);
            assert_eq!(last_token(&script), format!("Bearer t-{}", bought + 1));
        }
    }
    let bodies: Vec<_> = script.sent().into_iter().map(|seen| seen.body).collect();
    assert!(
        bodies.windows(2).all(|pair| pair[0] == pair[1]),
        "the repeat is the same request, uuid included"
    );
}

#[tokio::test]
async fn a_crowd_with_a_revoked_token_buys_one_new_one() {
    let (script, client) = (Script::start().await, Arc::new(client()));
    assert!(is_sent(&send(&script, &client).await));
    script.revoke("t-1");
    assert!(burst(&script, &client, 50).await.iter().all(is_sent));
    assert_eq!(script.bought().len(), 2);
}

#[tokio::test]
async fn another_workers_newer_token_is_taken_and_not_thrown_away() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    let client = client_on(cache.clone());
    assert!(is_sent(&send(&script, &client).await));
    for key in [KEY, FRESH] {
        cache.set(key, b"t-other", HOUR).await.unwrap();
    }
    script.revoke("t-1");
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(last_token(&script), "Bearer t-other");
    assert_eq!(script.bought().len(), 1);
    assert_eq!(cache.get(KEY).await.unwrap().unwrap(), b"t-other");
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_too_makes_the_message_wait() {
    let (script, client) = (Script::start().await, client());
    script.revoke("t-1");
    script.revoke("t-2");
    let outcome = send(&script, &client).await;
    assert!(was_refused(&outcome), "{outcome:?}");
    // The third is bought already, for the attempt that follows.
    assert_eq!((script.sent().len(), script.bought().len()), (2, 3));
}

#[tokio::test]
async fn the_same_token_sold_again_is_not_tried_again() {
    let (script, client) = (Script::start().await, client());
    script.next_sale(sale("t-same", 7200));
    script.next_sale(sale("t-same", 7199));
    script.revoke("t-same");
    let outcome = send(&script, &client).await;
    assert!(was_refused(&outcome), "{outcome:?}");
    assert_eq!((script.sent().len(), script.bought().len()), (1, 2));
}

#[tokio::test]
async fn wrong_credentials_make_messages_wait_and_are_not_tried_at_every_send() {
    let (script, client) = (Script::start().await, Arc::new(client()));
    for code in [10_003, 10_014, 10_015] {
        script.next_sale(coded(200, code, "invalid param"));
        for outcome in burst(&script, &client, 20).await {
            assert!(waits(&outcome, Some(code)), "{outcome:?}");
        }
        pass(Duration::from_secs(11)).await;
    }
    assert_eq!((script.bought().len(), script.sent().len()), (3, 0));
    assert!(
        is_sent(&send(&script, &client).await),
        "it goes on once the credentials are right"
    );
}

#[tokio::test]
async fn without_a_token_endpoint_nothing_is_sent_and_nothing_is_open() {
    let (script, client) = (Script::start().await, client());
    for broken in [
        Reply::Reset,
        coded(200, 0, "ok, but without a token"),
        sale("", 7200),
        sale("t-never", 0),
        sale("t-\u{7}", 7200),
        coded(500, 2200, "internal"),
        coded(429, 99_991_400, "slow down"),
    ] {
        script.next_sale(broken);
        let outcome = send(&script, &client).await;
        assert!(matches!(outcome, Outcome::Unready { .. }), "{outcome:?}");
        pass(Duration::from_secs(11)).await;
    }
    assert!(script.sent().is_empty());
    assert!(is_sent(&send(&script, &client).await));
}

#[tokio::test]
async fn a_token_is_renewed_in_the_background_between_30_and_10_minutes_before_its_end() {
    let (script, client) = (Script::start().await, client());
    assert!(is_sent(&send(&script, &client).await));
    // 2 h less 30 min: not yet, however often somebody looks.
    for _ in 0..89 {
        pass(Duration::from_secs(60)).await;
        assert!(is_sent(&send(&script, &client).await));
        tokio::task::yield_now().await;
    }
    assert_eq!(script.bought().len(), 1);
    // 2 h less 10 min: by now somebody has, and sends did not wait for it.
    for _ in 0..21 {
        pass(Duration::from_secs(60)).await;
        assert!(is_sent(&send(&script, &client).await));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    until("the second purchase", || script.bought().len() == 2).await;
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(last_token(&script), "Bearer t-2");
}

#[tokio::test]
async fn a_failed_renewal_leaves_the_old_token_in_use() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    let client = client_on(cache.clone());
    assert!(is_sent(&send(&script, &client).await));
    cache.remove_if(FRESH, b"t-1").await.unwrap();
    script.next_sale(coded(200, 10_014, "app secret invalid"));
    pass(Duration::from_secs(61)).await;
    assert!(is_sent(&send(&script, &client).await));
    until("the failed purchase", || script.bought().len() == 2).await;
    for _ in 0..20 {
        assert!(is_sent(&send(&script, &client).await));
        assert_eq!(last_token(&script), "Bearer t-1");
    }
    assert_eq!(script.bought().len(), 2);
}

#[tokio::test]
async fn a_token_is_not_used_in_its_last_minutes() {
    let (script, client) = (Script::start().await, client());
    assert!(is_sent(&send(&script, &client).await));
    pass(HOUR * 2 - Duration::from_secs(299)).await;
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(last_token(&script), "Bearer t-2");
}

#[tokio::test]
async fn the_lifetime_is_the_one_that_was_sold() {
    let (script, client) = (Script::start().await, client());
    script.next_sale(sale("t-short", 20));
    script.next_sale(sale("t-long", u64::MAX));
    assert!(is_sent(&send(&script, &client).await));
    pass(Duration::from_secs(11)).await;
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(last_token(&script), "Bearer t-long");
    pass(HOUR * 2).await;
    assert!(is_sent(&send(&script, &client).await));
    assert_eq!(last_token(&script), "Bearer t-3", "no token lives longer than 2 hours");
}

#[tokio::test]
async fn a_buyer_that_died_holds_the_others_up_for_two_seconds_at_most() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    cache.set(FRESH, b"buying", Duration::from_secs(10)).await.unwrap();
    let begun = std::time::Instant::now();
    assert!(is_sent(&send(&script, &client_on(cache)).await));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(script.bought().len(), 1);
}

#[tokio::test]
async fn a_worker_that_starts_while_the_next_token_is_due_does_not_depend_on_buying_it() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    cache.set(KEY, b"t-old", HOUR).await.unwrap();
    let client = client_on(cache);
    script.next_sale(Reply::Reset);
    for _ in 0..10 {
        assert!(is_sent(&send(&script, &client).await));
        assert_eq!(last_token(&script), "Bearer t-old");
    }
    until("the failed purchase", || script.bought().len() == 1).await;
}

#[tokio::test]
async fn with_the_cache_down_each_worker_buys_for_itself_and_no_more_often() {
    let (_reserved, address) = nobody();
    let url = format!("redis://{address}");
    let script = Script::start().await;
    let client = Arc::new(client_on(Arc::new(Redis::connect(&Secret::new(url)).unwrap())));
    assert!(burst(&script, &client, 20).await.iter().all(is_sent));
    for _ in 0..5 {
        pass(Duration::from_secs(61)).await;
        assert!(is_sent(&send(&script, &client).await));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(script.bought().len(), 1);
    script.revoke("t-1");
    assert!(burst(&script, &client, 20).await.iter().all(is_sent));
    assert_eq!(script.bought().len(), 2);
    pass(HOUR * 2 - Duration::from_secs(601)).await;
    assert!(is_sent(&send(&script, &client).await));
    until("the renewal", || script.bought().len() == 3).await;
}

#[tokio::test]
async fn a_buyer_that_fails_holds_nobody_up() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    script.next_sale(Reply::Reset);
    let outcome = send(&script, &client_on(cache.clone())).await;
    assert!(waits(&outcome, None), "{outcome:?}");
    assert_eq!(cache.get(FRESH).await.unwrap(), None);
    assert!(is_sent(&send(&script, &client_on(cache)).await));
}

#[tokio::test]
async fn apps_have_tokens_of_their_own() {
    let (script, client) = (Script::start().await, client());
    let mut other = script.bot();
    other.credentials.app_id = "cli_2".into();
    for (bot, token) in [
        (script.bot(), "Bearer t-1"),
        (other, "Bearer t-2"),
        (script.bot(), "Bearer t-1"),
    ] {
        assert!(is_sent(&client.send(&bot, &reply(), "u").await));
        assert_eq!(last_token(&script), token);
    }
}

/// How long the outcome says to wait, whole seconds.
fn seconds(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Unready { wait, .. } => wait.as_secs_f64().round() as u64,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_has_no_token_is_told_when_to_ask_again_and_nobody_asks_before() {
    for (answer, expected) in [
        (coded(200, 2200, "internal error"), 1),
        (Reply::Reset, 1),
        (limit(400, &[("x-ogw-ratelimit-reset", "5")]), 5),
        (limit(429, &[("x-ogw-ratelimit-reset", "5")]), 5),
        (limit(429, &[("x-ogw-ratelimit-reset", "300")]), 300),
        (limit(429, &[("retry-after", "7")]), 7),
        (limit(429, &[]), 10),
        (limit(200, &[("x-ogw-ratelimit-reset", "0.2")]), 1),
        (coded(200, 10_014, "app secret invalid"), 10),
    ] {
        let (script, client) = (Script::start().await, Arc::new(client()));
        script.next_sale(answer);
        for outcome in burst(&script, &client, 10).await {
            assert_eq!(seconds(&outcome), expected, "{outcome:?}");
        }
        pass(Duration::from_secs(expected) / 2).await;
        assert!(matches!(send(&script, &client).await, Outcome::Unready { .. }));
        assert_eq!(script.bought().len(), 1);
        pass(Duration::from_secs(expected)).await;
        assert!(is_sent(&send(&script, &client).await));
        assert_eq!((script.bought().len(), script.sent().len()), (2, 1));
    }
}

fn limit(status: u16, headers: &[(&str, &str)]) -> Reply {
    answer(
        status,
        headers,
        r#"{"code":99991400,"msg":"request trigger frequency limit"}"#,
    )
}

#[tokio::test]
async fn a_feishu_that_goes_on_failing_is_asked_less_often() {
    let (script, client) = (Script::start().await, client());
    for expected in [1, 2, 4, 8, 10, 10] {
        script.next_sale(Reply::Reset);
        assert_eq!(seconds(&send(&script, &client).await), expected);
        pass(Duration::from_secs(expected)).await;
    }
    assert!(is_sent(&send(&script, &client).await));
}

#[tokio::test]
async fn a_limit_on_tokens_that_one_process_is_told_of_holds_for_all() {
    let (script, cache) = (Script::start().await, Arc::new(Memory::new()));
    let (first, second) = (client_on(cache.clone()), client_on(cache));
    script.next_sale(limit(429, &[("x-ogw-ratelimit-reset", "30")]));
    assert_eq!(seconds(&send(&script, &first).await), 30);
    for _ in 0..20 {
        let outcome = send(&script, &second).await;
        assert!(waits(&outcome, Some(99_991_400)), "{outcome:?}");
        pass(Duration::from_secs(1)).await;
    }
    assert_eq!(script.bought().len(), 1);
    pass(Duration::from_secs(11)).await;
    assert!(is_sent(&send(&script, &second).await));
}
