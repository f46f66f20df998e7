//! No client can keep the events of others out.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::time::{Duration, Instant};

use openclaw_common::config::Rate;
use openclaw_common::queue::Source;
use testkit::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Push, answer};
use super::world::{Embedded, SOON, bot, message, plain_bot, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_chunked_body_is_read_whole_and_cut_off_at_the_limit() {
    let backends = Embedded::open().await;
    let mut bot = bot("bot1");
    bot.security.max_body = 4096;
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let push = Push::event(&bot, &message(&bot, "om_1"));

    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let head = format!("{}Transfer-Encoding: chunked\r\n\r\n", push.head());
    stream.write_all(head.as_bytes()).await.unwrap();
    for chunk in push.body.chunks(100) {
        let framed = [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat();
        stream.write_all(&framed).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 200);
    taken(&backends.queue, &bot, 1).await;

    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"400\r\n", &[b' '; 0x400][..], b"\r\n"].concat();
    for _ in 0..20 {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_length_beyond_the_limit_is_refused_before_the_body_is_sent() {
    let backends = Embedded::open().await;
    let node = backends.start(&[bot("bot1")]).await;
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let head = Push::plain("/webhook/bot1", "").head();
    let head = format!("{head}Expect: 100-continue\r\nContent-Length: 1048577\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await.unwrap().status, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_given_up_after_a_second() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let mut slow = TcpStream::connect(node.address).await.unwrap();
    let head = Push::plain("/webhook/bot1", "").head();
    slow.write_all(format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes())
        .await
        .unwrap();
    let begun = Instant::now();
    let refused = answer(&mut slow).await.unwrap();
    let took = begun.elapsed();
    let body = r#"{"error":{"code":"malformed","message":"the body did not arrive within 1 s"}}"#;
    assert_eq!((refused.status, refused.body.as_str()), (400, body));
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(2),
        "{took:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_and_slow_sockets_keep_no_event_out() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let mut sockets = Vec::new();
    for number in 0..2000 {
        let mut socket = TcpStream::connect(node.address).await.unwrap();
        if number % 2 == 0 {
            socket.write_all(b"POST /webhook/bot1 HTTP/1.1\r\nHost:").await.unwrap();
        }
        sockets.push(socket);
    }
    for number in 0..20 {
        let begun = Instant::now();
        let push = Push::event(&bot, &message(&bot, &format!("om_{number}")));
        assert_eq!(push.send(node.address).await.status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // And none of them stays: what sends no request within 5 s is closed.
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(SOON, sockets[1].read_to_end(&mut rest)).await;
    assert!(closed.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_slow_bodies_than_requests_are_taken_on_keep_no_event_out() {
    let backends = Embedded::open().await;
    let bot = bot("bot1");
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let head = Push::plain("/webhook/bot1", "").head();
    let begun = format!("{head}Content-Length: 100\r\n\r\n{{");
    let mut sockets = Vec::new();
    for _ in 0..2100 {
        let mut socket = TcpStream::connect(node.address).await.unwrap();
        socket.write_all(begun.as_bytes()).await.unwrap();
        sockets.push(socket);
    }
    let push = Push::event(&bot, &message(&bot, "om_1"));
    assert_eq!(push.send(node.address).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_body_that_is_no_push_is_not_answered_with_itself() {
    let backends = Embedded::open().await;
    // One with a key is not even listened to.
    let node = backends.start(&[plain_bot("bot1")]).await;
    let text = format!("\"{}\"", "\u{7f}".repeat(900_000));
    let refused = Push::plain("/webhook/bot1", text).send(node.address).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.len() < 300, "{} bytes", refused.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_s_rate_limit_is_exact_and_its_own() {
    let backends = Embedded::open().await;
    let mut limited = bot("bot1");
    limited.security.rate_limit = Some(Rate::per_minute(5));
    let free = bot("bot2");
    let node = backends.start(&[limited.clone(), free.clone()]).await;
    let mut statuses = Vec::new();
    for number in 0..20 {
        let body = message(&limited, &format!("om_{number}"));
        // What is not signed does not count: nobody can use up a bot's rate without its key.
        assert_eq!(Push::encrypted(&limited, &body).send(node.address).await.status, 401);
        statuses.push(Push::event(&limited, &body).send(node.address).await.status);
        let push = Push::event(&free, &message(&free, &format!("om_{number}")));
        assert_eq!(push.send(node.address).await.status, 200);
    }
    assert_eq!(statuses, [vec![200; 5], vec![429; 15]].concat());
    taken(&backends.queue, &limited, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_until_it_has_room_again() {
    let backends = Embedded::open().await;
    let mut bot = bot("bot1");
    bot.message.queue_size = 10;
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let push = |number: usize| Push::event(&bot, &message(&bot, &format!("om_{number}")));
    let mut statuses = Vec::new();
    for number in 0..30 {
        statuses.push(push(number).send(node.address).await.status);
    }
    assert_eq!(statuses, [vec![200; 10], vec![503; 20]].concat());
    let mut deliveries = backends.queue.consume(Source::Bot(bot.id.clone()), 100).await.unwrap();
    for _ in 0..10 {
        deliveries.next().await.unwrap().receipt.ack();
    }
    eventually("the queue takes events again", Duration::from_secs(3), async || {
        push(99).send(node.address).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_queue_that_is_emptied_at_once_refuses_nothing() {
    let backends = Embedded::open().await;
    let mut bot = bot("bot1");
    bot.message.queue_size = 10;
    let node = backends.start(std::slice::from_ref(&bot)).await;
    let mut deliveries = backends.queue.consume(Source::Bot(bot.id.clone()), 100).await.unwrap();
    for number in 0..50 {
        let push = Push::event(&bot, &message(&bot, &format!("om_{number}")));
        assert_eq!(push.send(node.address).await.status, 200, "event {number}");
        deliveries.next().await.unwrap().receipt.ack();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_addresses_push_also_through_trusted_proxies() {
    let backends = Embedded::open().await;
    let mut bot = bot("bot1");
    bot.security.allowed_ips = vec!["203.0.113.0/24".parse().unwrap()];
    let mut proxied = super::world::bot("bot2");
    proxied.security.allowed_ips = bot.security.allowed_ips.clone();
    proxied.security.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let node = backends.start(&[bot.clone(), proxied.clone()]).await;
    for (bot, forwarded, status) in [
        (&bot, &["203.0.113.9"][..], 403),
        (&proxied, &[], 403),
        (&proxied, &["203.0.113.9"], 200),
        (&proxied, &["198.51.100.1, 203.0.113.9"], 200),
        (&proxied, &["203.0.113.9", "127.0.0.2"], 200),
        (&proxied, &["203.0.113.9, 198.51.100.1"], 403),
        (&proxied, &["203.0.113.9, nonsense"], 403),
    ] {
        let push = Push::event(bot, &message(bot, "om_1"));
        let push = forwarded
            .iter()
            .fold(push, |push, line| push.header("X-Forwarded-For", line));
        assert_eq!(push.send(node.address).await.status, status, "{} {forwarded:?}", bot.id);
    }
}
