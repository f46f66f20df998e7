#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

const SLOW: Duration = Duration::from_millis(300);

async fn start(limits: Limits) -> Server {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let router = Router::new()
        .route("/", get(|| async { "here" }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(SLOW).await;
                "at last"
            }),
        )
        .route(
            "/body",
            post(|body: bytes::Bytes| async move { body.len().to_string() }),
        )
        .route("/unread", post(|| async { "not interested" }))
        .route("/hang", get(|| async { std::future::pending::<()>().await }))
        .route("/panic", get(panics))
        .route(
            "/peer",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }),
        );
    let task = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
    Server {
        address,
        shutdown,
        task,
    }
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    let read = async {
        while !String::from_utf8_lossy(&text).contains("\r\n\r\n") {
            match stream.read(&mut buffer).await.unwrap_or(0) {
                0 => break,
                count => text.extend_from_slice(&buffer[..count]),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn is_closed_within(stream: &mut TcpStream, limit: Duration) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn handlers_see_the_peer() {
    let server = start(Limits::default()).await;
    let mut stream = ask(server.address, "/peer").await;
    let peer = stream.local_addr().unwrap().to_string();
    assert!(answer(&mut stream).await.ends_with(&peer));
}

#[tokio::test]
async fn slow_headers_end_the_connection() {
    let limits = Limits {
        headers: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut first = TcpStream::connect(server.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(is_closed_within(&mut first, Duration::from_secs(5)).await);
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    assert!(is_closed_within(&mut silent, Duration::from_secs(5)).await);
    let mut second = ask(server.address, "/").await;
    assert!(answer(&mut second).await.ends_with("here"));
    second.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert!(is_closed_within(&mut second, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_connection_may_pause_between_requests_longer_than_within_one() {
    let limits = Limits {
        headers: Duration::from_millis(100),
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut stream = ask(server.address, "/").await;
    assert!(answer(&mut stream).await.ends_with("here"));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert!(answer(&mut stream).await.ends_with("here"));
    }
    assert!(is_closed_within(&mut stream, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn idle_sockets_keep_no_request_out() {
    let limits = Limits {
        connections: 20,
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut busy = ask(server.address, "/slow").await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let begun = Instant::now();
    for _ in 0..30 {
        let mut stream = ask(server.address, "/").await;
        assert!(answer(&mut stream).await.ends_with("here"));
        idle.push(stream);
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(
        answer(&mut busy).await.ends_with("at last"),
        "a request was cut for an idle socket"
    );
}

/// A connection from another address of this machine.
async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_requests_of_one_address_cut_no_newcomer_of_another() {
    let limits = Limits {
        connections: 80,
        ..Limits::default()
    };
    let server = start(limits).await;
    let address = server.address;
    let mut hostile = tokio::task::JoinSet::new();
    for number in 0..160 {
        // Each comes again as soon as it is cut; every other one is in the middle of a body.
        let half: &[u8] = match number % 2 {
            0 => b"POST /body HTTP/1.1\r\nhost:",
            _ => b"POST /body HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n1",
        };
        hostile.spawn(async move {
            loop {
                let mut stream = connect_from("127.0.0.2", address).await;
                stream.write_all(half).await.ok();
                stream.read_to_end(&mut Vec::new()).await.ok();
            }
        });
    }
    for _ in 0..8 {
        let mut stream = connect_from("127.0.0.1", address).await;
        // From far away the headers take their time.
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        assert!(answer(&mut stream).await.ends_with("here"));
    }
}

#[tokio::test]
async fn an_answer_to_an_unread_body_says_that_the_connection_ends() {
    let server = start(Limits::default()).await;
    let request = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\n123456789");
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for (path, closes) in [("/body", false), ("/body", false), ("/unread", true)] {
        stream.write_all(request(path).as_bytes()).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.contains("connection: close"), closes, "{answer}");
    }
    assert!(is_closed_within(&mut stream, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_request_waits_for_room_when_every_connection_is_busy() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut busy = [ask(server.address, "/slow").await, ask(server.address, "/slow").await];
    let mut third = ask(server.address, "/").await;
    assert!(answer(&mut third).await.ends_with("here"));
    for stream in &mut busy {
        assert!(answer(stream).await.ends_with("at last"));
    }
}

#[tokio::test]
async fn a_panicking_handler_costs_its_connection_only() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = start(limits).await;
    for _ in 0..3 {
        let mut stream = ask(server.address, "/panic").await;
        assert_eq!(answer(&mut stream).await, "");
    }
    assert!(answer(&mut ask(server.address, "/").await).await.ends_with("here"));
}

#[tokio::test]
async fn stopping_finishes_open_requests_and_accepts_nothing_new() {
    let server = start(Limits::default()).await;
    let mut open = ask(server.address, "/slow").await;
    let mut idle = ask(server.address, "/").await;
    answer(&mut idle).await;
    server.shutdown.cancel();
    assert!(
        is_closed_within(&mut idle, SLOW / 2).await,
        "idle connections end at once"
    );
    assert!(answer(&mut open).await.ends_with("at last"));
    tokio::time::timeout(Duration::from_secs(2), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn stopping_ends_at_its_deadline() {
    let limits = Limits {
        finish: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut hanging = ask(server.address, "/hang").await;
    let mut slow_header = TcpStream::connect(server.address).await.unwrap();
    slow_header.write_all(b"GET /").await.unwrap();
    // The request has to be inside before it is stopped.
    let mut probe = ask(server.address, "/").await;
    answer(&mut probe).await;
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(is_closed_within(&mut hanging, Duration::from_secs(1)).await);
}

#[tokio::test]
async fn a_burst_of_connections_waits_to_be_accepted_and_none_is_dropped() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // A dropped one would be tried again after a second, and then be dropped again: nobody accepts here.
    let burst = futures_util::future::join_all((0..512).map(|_| TcpStream::connect(address)));
    let connected = tokio::time::timeout(Duration::from_secs(10), burst).await.unwrap();
    assert!(connected.iter().all(Result::is_ok));
}
