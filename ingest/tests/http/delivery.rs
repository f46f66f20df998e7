//! An event answered with 200 is in the queue, once.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::time::{Duration, Instant};

use openclaw_common::cache::Claim;
use openclaw_common::envelope::EventKey;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{Push, answer};
use super::world::{Embedded, bot, message, taken};

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pushes_of_one_event_at_once_make_one_copy() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let push = Push::event(&bot, &message(&bot, "om_1"));
    let mut pushes = JoinSet::new();
    for _ in 0..500 {
        let (push, address) = (push.clone(), node.address);
        pushes.spawn(async move { push.send(address).await.status });
    }
    assert!(pushes.join_all().await.iter().all(|status| *status == 200));
    taken(&backends.queue, &bot, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bots_in_one_chat_both_get_the_message() {
    let backends = Embedded::open().await;
    let (one, two) = (bot("bot1"), bot("bot2"));
    let node = backends.start(&[one.clone(), two.clone()]).await;
    for bot in [&one, &two] {
        let push = Push::event(bot, &message(bot, "om_shared"));
        for _ in 0..2 {
            assert_eq!(push.send(node.address).await.status, 200);
        }
    }
    taken(&backends.queue, &one, 1).await;
    taken(&backends.queue, &two, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_answered_one_after_the_other_are_queued_in_that_order() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    for number in 0..100 {
        let push = Push::event(&bot, &message(&bot, &format!("om_{number}")));
        assert_eq!(push.send(node.address).await.status, 200);
    }
    let keys: Vec<_> = taken(&backends.queue, &bot, 100).await;
    assert!(
        keys.iter()
            .enumerate()
            .all(|(number, event)| *event.key.key == format!("om_{number}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_does_not_stop_its_event() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let lock = backends.lock().await;
    let push = Push::event(&bot, &message(&bot, "om_1"));
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(&push.bytes()).await.unwrap();
    backends.being_stored(&EventKey::new("cli_bot1", "om_1")).await;
    drop(stream);
    lock.release().await;
    taken(&backends.queue, &bot, 1).await;
    assert_eq!(push.send(node.address).await.status, 200);
    taken(&backends.queue, &bot, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_an_event_that_is_being_stored_waits_for_the_result() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let lock = backends.lock().await;
    let push = Push::event(&bot, &message(&bot, "om_1"));
    let mut pushes = JoinSet::new();
    for _ in 0..2 {
        let (push, address) = (push.clone(), node.address);
        pushes.spawn(async move { push.send(address).await.status });
    }
    let early = tokio::time::timeout(Duration::from_millis(150), pushes.join_next()).await;
    assert!(early.is_err(), "answered before it was stored: {early:?}");
    lock.release().await;
    assert_eq!(pushes.join_all().await, [200, 200]);
    taken(&backends.queue, &bot, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_refused_in_time_and_its_re_push_finds_the_way_free() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let lock = backends.lock().await;
    let push = Push::event(&bot, &message(&bot, "om_1"));
    let begun = Instant::now();
    let refused = push.send(node.address).await;
    let took = begun.elapsed();
    let body = r#"{"error":{"code":"unavailable","message":"the event was not stored; push it again"}}"#;
    assert_eq!((refused.status, refused.body.as_str()), (503, body));
    assert!(took < Duration::from_millis(1700), "{took:?}");
    let key = EventKey::new("cli_bot1", "om_1");
    let claim = backends.cache.claim(&key, "a look", Duration::from_millis(1));
    assert_eq!(claim.await.unwrap(), Claim::Claimed, "the claim was not given back");
    lock.release().await;
    assert_eq!(push.send(node.address).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_one_connection_are_answered_one_after_the_other() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    for number in 0..20 {
        let push = Push::event(&bot, &message(&bot, &format!("om_{number}")));
        stream.write_all(&push.bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    }
    taken(&backends.queue, &bot, 20).await;
}
