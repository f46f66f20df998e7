//! A Feishu that says what it is told to, byte for byte: for answers that the simulator would never give.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use openclaw_common::bot::{Bot, BotId, Credentials};
use openclaw_common::config;
use openclaw_common::secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// What the server does with a request.
pub(crate) enum Reply {
    /// Writes these bytes and goes on.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes the connection.
    Last(Vec<u8>),
    /// Resets the connection.
    Reset,
}

/// A complete answer.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut text = format!("HTTP/1.1 {status} Whatever\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    Reply::Bytes(text.into_bytes())
}

/// An answer with a code.
pub(crate) fn coded(status: u16, code: i64, msg: &str) -> Reply {
    answer(
        status,
        &[],
        &serde_json::json!({ "code": code, "msg": msg }).to_string(),
    )
}

/// The sale of a token.
pub(crate) fn sale(token: &str, expire: u64) -> Reply {
    let body = serde_json::json!({ "code": 0, "msg": "ok", "tenant_access_token": token, "expire": expire });
    answer(200, &[], &body.to_string())
}

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: serde_json::Value,
}

#[derive(Default)]
struct State {
    sends: VecDeque<Reply>,
    sales: VecDeque<Reply>,
    sent: Vec<Seen>,
    bought: Vec<Seen>,
    revoked: Vec<String>,
}

/// The scripted server; ends when dropped. Unscripted sends succeed, unscripted token requests get `t-1`, `t-2`, …
pub(crate) struct Script {
    pub(crate) base_url: String,
    state: Arc<Mutex<State>>,
    _server: JoinSet<()>,
}

impl Script {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let mut server = JoinSet::new();
        let shared = state.clone();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, shared.clone()));
            }
        });
        Self {
            base_url,
            state,
            _server: server,
        }
    }

    /// The answer to the next send that has none yet.
    pub(crate) fn next_send(&self, reply: Reply) {
        self.state.lock().unwrap().sends.push_back(reply);
    }

    /// The answer to the next token request that has none yet.
    pub(crate) fn next_sale(&self, reply: Reply) {
        self.state.lock().unwrap().sales.push_back(reply);
    }

    /// From now on sends with this token are answered 99991663.
    pub(crate) fn revoke(&self, token: &str) {
        self.state.lock().unwrap().revoked.push(format!("Bearer {token}"));
    }

    /// Everything but token requests.
    pub(crate) fn sent(&self) -> Vec<Seen> {
        self.state.lock().unwrap().sent.clone()
    }

    /// The token requests.
    pub(crate) fn bought(&self) -> Vec<Seen> {
        self.state.lock().unwrap().bought.clone()
    }

    pub(crate) fn bot(&self) -> Bot {
        bot(&self.base_url)
    }
}

/// An address where nobody listens, for as long as the socket lives: a port that was merely closed might be given to
/// another test's server.
pub(crate) fn nobody() -> (TcpSocket, std::net::SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A bot that sends to `base_url`.
pub(crate) fn bot(base_url: &str) -> Bot {
    Bot {
        id: BotId::new("bot1").unwrap(),
        credentials: Credentials {
            app_id: "cli_1".into(),
            app_secret: Secret::new("app-secret-1"),
            verification_token: Secret::new("verification-1"),
            encrypt_key: None,
        },
        message: config::Message::default(),
        quota: config::Quota::default(),
        handler: config::Handler::default(),
        security: config::Security::default(),
        feishu: config::Feishu {
            base_url: base_url.to_owned(),
            card_toast: None,
        },
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut unread = Vec::new();
    while let Some(request) = read(&mut stream, &mut unread).await {
        let reply = choose(&mut state.lock().unwrap(), request);
        match reply {
            Reply::Bytes(bytes) => stream.write_all(&bytes).await.unwrap(),
            Reply::Last(bytes) => {
                stream.write_all(&bytes).await.unwrap();
                return;
            }
            Reply::Reset => return stream.set_zero_linger().unwrap(),
        }
    }
}

fn choose(state: &mut State, request: Seen) -> Reply {
    if request.path == "/open-apis/auth/v3/tenant_access_token/internal" {
        state.bought.push(request);
        let number = state.bought.len();
        return state
            .sales
            .pop_front()
            .unwrap_or_else(|| sale(&format!("t-{number}"), 7200));
    }
    let revoked = request
        .headers
        .get("authorization")
        .is_some_and(|token| state.revoked.contains(token));
    state.sent.push(request);
    if revoked {
        return coded(400, 99_991_663, "Invalid access token for authorization");
    }
    let number = state.sent.len();
    state.sends.pop_front().unwrap_or_else(|| {
        let body =
            serde_json::json!({ "code": 0, "msg": "success", "data": { "message_id": format!("om_sent_{number}") } });
        answer(200, &[], &body.to_string())
    })
}

/// The next request of a connection; `None` when the client is gone.
async fn read(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Seen> {
    let head = loop {
        if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, unread).await?;
    };
    let text = String::from_utf8(unread.drain(..head).collect()).unwrap();
    let mut lines = text.trim_end().lines();
    let mut request = lines.next().unwrap().split(' ');
    let headers: HashMap<String, String> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    while unread.len() < length {
        more(stream, unread).await?;
    }
    let body: Vec<u8> = unread.drain(..length).collect();
    Some(Seen {
        method: request.next().unwrap().to_owned(),
        path: request.next().unwrap().to_owned(),
        headers,
        body: serde_json::from_slice(&body).unwrap_or_else(|error| panic!("the body is not JSON: {error}")),
    })
}

async fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer).await {
        Ok(count) if count > 0 => {
            unread.extend_from_slice(&buffer[..count]);
            Some(())
        }
        _ => None,
    }
}
