//! A client that can be as slow, rude and wrong as a test wants, and Feishu's way to push.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::net::SocketAddr;
use std::time::Duration;

use openclaw_common::bot::Bot;
use openclaw_common::crypto;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Push {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Push {
    /// A body as it is, without any proof.
    pub(crate) fn plain(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            method: "POST",
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Encrypted, not signed: how Feishu pushes a challenge.
    pub(crate) fn encrypted(bot: &Bot, body: &Value) -> Self {
        let key = bot.credentials.encrypt_key.as_ref().unwrap().expose();
        let encrypt = crypto::encrypt(key, [7; 16], body.to_string().as_bytes());
        Self::plain(
            &format!("/webhook/{}", bot.id),
            json!({ "encrypt": encrypt }).to_string(),
        )
    }

    /// Encrypted and signed: how Feishu pushes an event.
    pub(crate) fn event(bot: &Bot, body: &Value) -> Self {
        let key = bot.credentials.encrypt_key.as_ref().unwrap().expose().to_owned();
        Self::encrypted(bot, body).sign(|nonce, body| crypto::signature_sha256("1700000000", nonce, &key, body))
    }

    /// Signed with the token: how Feishu pushes an old card click.
    pub(crate) fn old_card(bot: &Bot, body: &Value) -> Self {
        let token = bot.credentials.verification_token.expose().to_owned();
        Self::plain(&format!("/webhook/{}", bot.id), body.to_string())
            .sign(|nonce, body| crypto::signature_sha1("1700000000", nonce, &token, body))
    }

    fn sign(self, signature: impl Fn(&str, &[u8]) -> String) -> Self {
        let signature = signature("nonce", &self.body);
        self.header("X-Lark-Request-Timestamp", "1700000000")
            .header("X-Lark-Request-Nonce", "nonce")
            .header("X-Lark-Signature", &signature)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn to(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Request line and headers, without the empty line behind them.
    pub(crate) fn head(&self) -> String {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: ingest\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head
    }

    /// Everything that goes over the wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let length = format!("Content-Length: {}\r\n\r\n", self.body.len());
        [self.head().as_bytes(), length.as_bytes(), &self.body].concat()
    }

    pub(crate) async fn send(&self, address: SocketAddr) -> Answer {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&self.bytes()).await.unwrap();
        answer(&mut stream).await.unwrap()
    }

    /// Sends all of it but the last byte, and stays. How much of it was taken does not matter.
    pub(crate) async fn hang(&self, stream: &mut TcpStream) {
        let bytes = self.bytes();
        stream.write_all(&bytes[..bytes.len() - 1]).await.ok();
    }

    /// With signature headers that prove nothing.
    pub(crate) fn forge(self) -> Self {
        self.sign(|_, _| "0".repeat(64))
    }
}

/// A connection from another address of this machine.
pub(crate) async fn connect_from(source: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
    socket.connect(address).await.unwrap()
}

/// Reads one answer; `None` when the connection ends without one.
pub(crate) async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut text = Vec::new();
    let read = async {
        loop {
            if let Some(answer) = parse(&text) {
                return Some(answer);
            }
            if stream.read_buf(&mut text).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.unwrap()
}

fn parse(text: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let status = head.split(' ').nth(1)?.parse().unwrap();
    Some(Answer {
        status,
        body: body.get(..length)?.to_owned(),
        head,
    })
}
