//! Stopping loses nothing.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::time::Duration;

use openclaw_common::envelope::EventKey;
use openclaw_ingest::Drain;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::client::{Push, answer};
use super::world::{Embedded, SOON, bot, message, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_is_not_ready_but_serves_until_its_grace_is_over() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let mut setup = backends.setup(std::slice::from_ref(&bot));
    setup.drain.grace = Duration::from_millis(600);
    let mut node = setup.start().await;
    let ready = Push::plain("/readyz", "").method("GET");
    assert_eq!(ready.send(node.address).await.status, 200);
    node.shutdown.cancel();
    testkit::eventually("not ready", SOON, async || !node.health.status().await.ready).await;
    let answer = ready.send(node.address).await;
    let body = r#"{"ready":false,"missing":[],"degraded":[],"draining":true}"#;
    assert_eq!((answer.status, answer.body.as_str()), (503, body));
    assert_eq!(
        Push::event(&bot, &message(&bot, "om_1"))
            .send(node.address)
            .await
            .status,
        200
    );
    tokio::time::timeout(SOON, &mut node.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(node.address).await.is_err());
    taken(&backends.queue, &bot, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_is_finished_and_answered() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let mut node = backends.start(std::slice::from_ref(&bot)).await;
    let lock = backends.lock().await;
    let mut waiting = TcpStream::connect(node.address).await.unwrap();
    waiting
        .write_all(&Push::event(&bot, &message(&bot, "om_1")).bytes())
        .await
        .unwrap();
    let mut gone = TcpStream::connect(node.address).await.unwrap();
    gone.write_all(&Push::event(&bot, &message(&bot, "om_2")).bytes())
        .await
        .unwrap();
    for id in ["om_1", "om_2"] {
        backends.being_stored(&EventKey::new("cli_bot1", id)).await;
    }
    drop(gone);
    node.shutdown.cancel();
    assert!(
        tokio::time::timeout(Duration::from_millis(50), &mut node.task)
            .await
            .is_err()
    );
    lock.release().await;
    assert_eq!(answer(&mut waiting).await.unwrap().status, 200);
    tokio::time::timeout(SOON, node.task).await.unwrap().unwrap();
    taken(&backends.queue, &bot, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_at_its_deadline() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let mut setup = backends.setup(std::slice::from_ref(&bot));
    setup.drain = Drain {
        grace: Duration::ZERO,
        finish: Duration::from_millis(200),
    };
    let node = setup.start().await;
    let lock = backends.lock().await;
    let mut waiting = TcpStream::connect(node.address).await.unwrap();
    waiting
        .write_all(&Push::event(&bot, &message(&bot, "om_1")).bytes())
        .await
        .unwrap();
    backends.being_stored(&EventKey::new("cli_bot1", "om_1")).await;
    node.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(1), node.task)
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer(&mut waiting).await.is_none(),
        "no answer, so that Feishu pushes again"
    );
    lock.release().await;
}
