//! One hostile address keeps nobody else's events out.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::net::SocketAddr;

use openclaw_common::bot::Bot;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{Push, answer, connect_from};
use super::world::{Embedded, Node, bot, event, message, taken};

/// Another address than the one that events come from.
const HOSTILE: &str = "127.0.0.2";
/// As large as bodies may be, less a byte.
const LARGE: usize = 1024 * 1024 - 1;

/// Requests of `size` bytes whose last byte never comes, all being read at once.
async fn hanging(node: &Node, source: &str, count: usize, size: usize, forwarded: &[&str]) -> Vec<TcpStream> {
    let push = Push::plain("/webhook/bot1", vec![b' '; size]).forge();
    let push = forwarded
        .iter()
        .fold(push, |push, client| push.header("X-Forwarded-For", client));
    let mut streams = JoinSet::new();
    for _ in 0..count {
        let (push, source, address) = (push.clone(), source.to_owned(), node.address);
        streams.spawn(async move {
            let mut stream = connect_from(&source, address).await;
            push.hang(&mut stream).await;
            stream
        });
    }
    streams.join_all().await
}

/// An event of about `size` bytes.
fn large(bot: &Bot, id: &str, size: usize) -> Value {
    let content = json!({ "text": "x".repeat(size) }).to_string();
    let message = json!({ "message_id": id, "chat_id": "oc_1", "content": content });
    event(bot, "im.message.receive_v1", &json!({ "message": message }))
}

async fn statuses(bot: &Bot, node: SocketAddr, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for number in 0..count {
        let push = Push::event(bot, &message(bot, &format!("om_{number}")));
        statuses.push(push.send(node).await.status);
    }
    statuses
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_hang_and_half_requests_of_one_address_keep_no_event_of_another_out() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let mut half = Vec::new();
    for _ in 0..2000 {
        let mut stream = connect_from(HOSTILE, node.address).await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"POST /webhook/bot1 HTTP/1.1\r\nHost:")
            .await
            .unwrap();
        half.push(stream);
    }
    let bodies = hanging(&node, HOSTILE, 64, LARGE, &[]).await;
    assert_eq!(statuses(&bot, node.address, 20).await, vec![200; 20]);
    // A large event finds room too: the hostile address gives some up.
    let push = Push::event(&bot, &large(&bot, "om_large", 600_000));
    assert_eq!(push.send(node.address).await.status, 200);
    drop((half, bodies));
    taken(&backends.queue, &bot, 21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_just_small_enough_for_the_reserve_keep_no_event_of_another_address_out() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let bodies = hanging(&node, HOSTILE, 1100, 64 * 1024, &[]).await;
    assert_eq!(statuses(&bot, node.address, 5).await, vec![200; 5]);
    drop(bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_trusted_proxy_the_client_s_address_counts() {
    let backends = Embedded::open().await;
    let mut bot = bot("bot1");
    bot.security.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let mut setup = backends.setup(std::slice::from_ref(&bot));
    setup.config.security = bot.security.clone();
    let node = setup.start().await;
    let bodies = hanging(&node, "127.0.0.1", 64, LARGE, &["203.0.113.9"]).await;
    let push = Push::event(&bot, &large(&bot, "om_1", 600_000)).header("X-Forwarded-For", "198.51.100.7");
    assert_eq!(push.send(node.address).await.status, 200);
    drop(bodies);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_is_not_read_when_it_is_longer_than_a_challenge() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let unsigned = Push::plain("/webhook/bot1", vec![b' '; 8 * 1024 + 1]);
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    // Its announcement is enough.
    let head = format!(
        "{}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        unsigned.head(),
        unsigned.body.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
        .await
        .unwrap();
    let refused = answer(&mut stream).await.unwrap();
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("connection: close"), "{}", refused.head);
    let refused = unsigned.send(node.address).await;
    assert_eq!(refused.status, 401);
    assert!(refused.body.contains("bad_signature"), "{}", refused.body);
}
