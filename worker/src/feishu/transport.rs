//! Connections to Feishu: deadlines, limits, and what a failed call leaves unknown.

use std::error::Error;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};
use openclaw_common::outside;
use reqwest::{RequestBuilder, Url};

use super::packing;

/// The content type of every request.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// Longest wait for a connection, TLS included (`docs/design/delivery.md` §10).
const CONNECT: Duration = Duration::from_secs(3);
/// Longest wait for a whole answer, the connection included.
const TOTAL: Duration = Duration::from_secs(10);
/// Largest answer that is read, packed and unpacked. A success repeats the message: 150 KB of Chinese text, each character
/// written as `\uXXXX` inside a JSON string inside JSON, are 350 KB.
const ANSWER: usize = 1024 * 1024;
/// An unused connection is closed before the usual 60 s of the other side's load balancers: a request that meets a closing
/// connection ends without anybody knowing whether it arrived.
const IDLE: Duration = Duration::from_secs(30);
/// Unused connections kept; a worker at full speed needs as many as it has sends in flight.
const IDLE_CONNECTIONS: usize = 1024;

/// The HTTP clients cannot be made: the machine's or the program's fault.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The program installs a provider before anything else.
    #[error("no TLS provider is installed in this process")]
    NoTlsProvider,
    /// Mostly: the machine has no certificates.
    #[error("the HTTP client cannot be made: {0}")]
    Build(#[from] reqwest::Error),
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// As JSON should stand in it, unpacked; empty when it was larger than is read.
    pub(super) body: Bytes,
    /// Why the body is not what was sent, if it is not.
    pub(super) fault: Option<String>,
}

impl Answer {
    fn of(response: &mut reqwest::Response, unpacked: Result<Bytes, String>) -> Self {
        let (body, fault) = match unpacked {
            Ok(body) => (body, None),
            Err(fault) => (Bytes::new(), Some(fault)),
        };
        Self {
            status: response.status().as_u16(),
            headers: std::mem::take(response.headers_mut()),
            body,
            fault,
        }
    }
}

/// No complete answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// Nothing was sent.
    Before,
    /// Something may have arrived.
    Within,
}

/// Connections to any number of hosts. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http {
    /// Minds `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`: many company networks have no other way out.
    outside: reqwest::Client,
    /// For this machine's own addresses, which no proxy can reach.
    inside: reqwest::Client,
}

impl Http {
    pub(super) fn new() -> Result<Self, ClientError> {
        Self::with(CONNECT, TOTAL)
    }

    fn with(connect: Duration, total: Duration) -> Result<Self, ClientError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(ClientError::NoTlsProvider);
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("openclaw/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(connect)
                .timeout(total)
                .tcp_nodelay(true)
                .pool_max_idle_per_host(IDLE_CONNECTIONS)
                .pool_idle_timeout(IDLE)
                .redirect(reqwest::redirect::Policy::none())
                // Whether to try again is the worker's decision.
                .retry(reqwest::retry::never())
        };
        Ok(Self {
            outside: builder().build()?,
            inside: builder().no_proxy().build()?,
        })
    }

    /// Begins a request for `url`.
    pub(super) fn request(&self, method: reqwest::Method, url: Url) -> RequestBuilder {
        let client = if is_inside(&url) { &self.inside } else { &self.outside };
        // Whoever minds it packs nothing; whoever does not is understood all the same.
        client
            .request(method, url)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn call(&self, request: RequestBuilder) -> Result<Answer, (Broken, String)> {
        let failed = |error: reqwest::Error| {
            // A builder's error is an address that is none: nothing left this machine either.
            let before = error.is_connect() || error.is_builder();
            let broken = if before { Broken::Before } else { Broken::Within };
            (broken, describe(&error.without_url()))
        };
        let mut response = request.send().await.map_err(failed)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER {
                return Ok(Answer::of(&mut response, Err("it is too large".to_owned())));
            }
            body.extend_from_slice(&chunk);
        }
        let unpacked = packing::unpack(response.headers(), body.freeze(), ANSWER);
        Ok(Answer::of(&mut response, unpacked))
    }
}

/// Whether a URL points to this machine.
fn is_inside(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host
                .trim_matches(['[', ']'])
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

/// An error with its causes: reqwest's own text names only the outermost.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    outside::quoted(&text)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    const SHORT: Duration = Duration::from_millis(150);

    /// Calls `address` with deadlines that a test can wait for.
    async fn call(address: std::net::SocketAddr, connect: Duration, total: Duration) -> Result<Answer, Broken> {
        // Another test of this process may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = Http::with(connect, total).unwrap();
        let url = Url::parse(&format!("http://{address}/")).unwrap();
        let request = http.request(reqwest::Method::POST, url).body("hello");
        http.call(request).await.map_err(|(broken, _)| broken)
    }

    #[tokio::test]
    async fn a_connection_that_does_not_come_about_has_sent_nothing() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts: once the backlog is full the system no longer answers.
        let mut waiting = Vec::new();
        while let Ok(connected) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        assert_eq!(call(address, SHORT, SHORT * 100).await.unwrap_err(), Broken::Before);
    }

    #[tokio::test]
    async fn silence_after_the_request_leaves_it_open_whether_it_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(call(address, SHORT, SHORT).await.unwrap_err(), Broken::Within);
    }

    #[tokio::test]
    async fn a_trickling_answer_does_not_outlive_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let trickle = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n")
                .await
                .unwrap();
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert_eq!(call(address, SHORT, SHORT).await.unwrap_err(), Broken::Within);
        trickle.abort();
    }

    #[test]
    fn only_this_machines_own_addresses_go_around_the_proxy() {
        let inside = |url: &str| is_inside(&Url::parse(url).unwrap());
        for url in [
            "http://127.0.0.1:1",
            "http://localhost/x",
            "http://[::1]:9/",
            "http://127.9.9.9",
        ] {
            assert!(inside(url), "{url}");
        }
        for url in [
            "https://open.feishu.cn",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://127.example.com",
        ] {
            assert!(!inside(url), "{url}");
        }
    }
}
