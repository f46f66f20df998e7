//! Feishu as the model needs it: every request over a real socket stops at a gate and is answered as the play decides;
//! a uuid shows one message an hour.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::gate::{At, Stop};

/// How long Feishu remembers a uuid.
const UUID_HOUR: Duration = Duration::from_secs(3600);

/// An effect that somebody asks for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) uuid: String,
    /// `event#index`: what the content says, which no uuid can change.
    pub(super) effect: String,
}

/// What the client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Shown, unless it had been.
    Shown,
    /// Not now, and certainly not shown.
    Later,
    /// Never, and certainly not shown.
    Never,
    /// A limit for ten minutes, and certainly not shown.
    Limited,
    /// An error that says nothing about whether it is shown.
    Unclear,
}

impl Answer {
    fn bytes(self) -> Vec<u8> {
        let (status, header, body) = match self {
            Self::Shown => ("200 OK", "", json!({"code": 0, "data": {"message_id": "om_shown"}})),
            Self::Later => ("400 Bad Request", "", json!({"code": 11_232, "msg": "later"})),
            Self::Never => ("400 Bad Request", "", json!({"code": 230_002, "msg": "never"})),
            Self::Limited => (
                "429 Too Many Requests",
                "x-ogw-ratelimit-reset: 600\r\n",
                json!({"code": 99_991_400, "msg": "limited"}),
            ),
            Self::Unclear => ("500 Internal Server Error", "", json!({"code": 2200, "msg": "oops"})),
        };
        let body = body.to_string();
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{header}\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

/// What Feishu shows.
#[derive(Default)]
pub(super) struct Screen {
    /// When each uuid was last shown anew.
    remembered: HashMap<String, Duration>,
    visible: HashMap<String, u32>,
}

impl Screen {
    /// Carries a request out at `now`.
    pub(super) fn show(&mut self, request: &Request, now: Duration) {
        let remembered = self.remembered.get(&request.uuid);
        if remembered.is_none_or(|since| now - *since >= UUID_HOUR) {
            self.remembered.insert(request.uuid.clone(), now);
            *self.visible.entry(request.effect.clone()).or_default() += 1;
        }
    }

    /// How often an effect is visible.
    pub(super) fn count(&self, effect: &str) -> u32 {
        self.visible.get(effect).copied().unwrap_or(0)
    }
}

/// The server. A run calls it under `/N`, its own number, so that each request says who sent it.
pub(super) struct Platform {
    pub(super) base_url: String,
    _server: JoinSet<()>,
}

impl Platform {
    pub(super) async fn start(line: mpsc::UnboundedSender<Stop>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, line.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self {
            base_url,
            _server: server,
        }
    }
}

async fn serve(mut stream: TcpStream, line: mpsc::UnboundedSender<Stop>) {
    while let Some((path, body)) = read(&mut stream).await {
        let bytes = if path.ends_with("/tenant_access_token/internal") {
            let body = r#"{"code":0,"tenant_access_token":"t-1","expire":7200}"#;
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
        } else {
            let run = path.split('/').nth(1).unwrap().parse().unwrap();
            let (answer, answered) = oneshot::channel();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let content: Value = serde_json::from_str(body["content"].as_str().unwrap()).unwrap();
            let request = Request {
                uuid: text(&body["uuid"]),
                effect: text(&content["text"]),
            };
            let at = At::Send { request, answer };
            drop(line.send(Stop { run, at }));
            // Whoever asked is dead: nobody reads the answer.
            let Ok(answer) = answered.await else { return };
            answer.bytes()
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The path and body of the next request; `None` when the client is gone.
async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = std::str::from_utf8(&bytes[..end]).unwrap();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                let body = serde_json::from_slice(&bytes[end + 4..]).unwrap_or(Value::Null);
                return Some((path, body));
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}
