use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use openclaw_sim::proxy::{Direction, Flow, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Sends back what it gets.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    address
}

async fn started() -> (Proxy, TcpStream) {
    let proxy = Proxy::start(echo().await).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut stream).await.unwrap();
    (proxy, stream)
}

async fn exchange(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(80), stream.read_u8()).await.is_err()
}

#[tokio::test]
async fn bytes_and_ends_pass_through_both_ways() {
    let (proxy, mut stream) = started().await;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = stream.split();
    let (received, ()) = tokio::join!(
        async {
            let mut received = Vec::new();
            read.read_to_end(&mut received).await.unwrap();
            received
        },
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        }
    );
    assert!(received == sent);
    assert_eq!((proxy.bytes(), proxy.connections()), ((1_000_004, 1_000_004), 1));
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_refuses_what_is_new_until_restored_on_the_same_port() {
    let (proxy, mut stream) = started().await;
    for _ in 0..3 {
        proxy.cut();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let deadline = Instant::now() + Duration::from_secs(2);
        // The listener closes in its own task: until then a connection may still be made, and is reset.
        while TcpStream::connect(proxy.address()).await.is_ok() {
            assert!(Instant::now() < deadline, "connections are not refused");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        proxy.restore().unwrap();
        stream = TcpStream::connect(proxy.address()).await.unwrap();
        exchange(&mut stream).await.unwrap();
    }
}

#[tokio::test]
async fn reset_connections_leaves_new_ones_alone() {
    let (proxy, mut stream) = started().await;
    proxy.reset_connections();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut stream).await.unwrap();
}

#[tokio::test]
async fn a_black_hole_swallows_and_a_stream_with_a_hole_does_not_go_on() {
    let (proxy, mut stream) = started().await;
    let mut untouched = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut untouched).await.unwrap();
    proxy.set(Direction::Up, &Flow::black_hole());
    stream.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut stream).await);
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    new.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut new).await);
    proxy.restore().unwrap();
    assert!(stream.read_u8().await.is_err());
    assert!(new.read_u8().await.is_err());
    exchange(&mut untouched).await.unwrap();
}

#[tokio::test]
async fn a_stall_delays_and_loses_nothing() {
    let (proxy, mut stream) = started().await;
    proxy.set(Direction::Down, &Flow::stall());
    stream.write_all(b"pong").await.unwrap();
    assert!(is_silent(&mut stream).await);
    proxy.restore().unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"pong");
}

#[tokio::test]
async fn latency_delays_each_direction_keeps_order_and_does_not_narrow_the_pipe() {
    let (proxy, mut stream) = started().await;
    proxy.set(
        Direction::Both,
        &Flow::slow(Duration::from_millis(30), Duration::from_millis(10)),
    );
    let begun = Instant::now();
    exchange(&mut stream).await.unwrap();
    let took = begun.elapsed().as_millis();
    assert!((60..1000).contains(&took), "{took} ms");
    // Twenty messages 2 ms apart: their waits overlap.
    let begun = Instant::now();
    let (mut read, mut write) = stream.split();
    let (answer, ()) = tokio::join!(
        async {
            let mut answer = [0; 20];
            read.read_exact(&mut answer).await.unwrap();
            answer
        },
        async {
            for byte in 0..20 {
                write.write_u8(byte).await.unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    );
    assert!(answer.is_sorted());
    let took = begun.elapsed().as_millis();
    assert!((60..1000).contains(&took), "{took} ms, 20 x 60 if they did not overlap");
}

#[tokio::test]
async fn a_byte_limit_lets_exactly_that_much_through_and_resets() {
    let (proxy, mut stream) = started().await;
    proxy.set(Direction::Down, &Flow::limited(5));
    stream.write_all(b"0123456789").await.unwrap();
    let mut received = Vec::new();
    let ended = stream.read_to_end(&mut received).await;
    assert_eq!(received, b"01234");
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn half_open_leaves_the_client_with_a_silent_connection_and_new_ones_working() {
    let (proxy, mut stream) = started().await;
    proxy.half_open();
    stream.write_all(b"anyone?").await.unwrap();
    assert!(is_silent(&mut stream).await);
    stream.write_all(b"still?").await.unwrap();
    let mut new = TcpStream::connect(proxy.address()).await.unwrap();
    exchange(&mut new).await.unwrap();
    proxy.reset_connections();
    exchange(&mut new).await.unwrap_err();
}

#[tokio::test]
async fn an_upstream_that_is_down_looks_like_a_reset() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = Proxy::start(nobody).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn dropping_the_proxy_ends_everything() {
    let (proxy, mut stream) = started().await;
    let address = proxy.address();
    drop(proxy);
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let deadline = Instant::now() + Duration::from_secs(2);
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "still listening");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
