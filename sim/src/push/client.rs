//! A small HTTP/1 client with keep-alive: few allocations, a hard deadline, and no retry of anything that was sent.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{HeaderMap, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// The longest answer read.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why a request has no answer. Whether the receiver acted on it is unknown, except after `Connect`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used at all: the caller's mistake.
    #[error("`{0}` is not an address like http://127.0.0.1:9001")]
    Address(String),
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    /// The connection broke, or the answer was no HTTP.
    #[error("connection failed: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer was too long or broke off.
    #[error("cannot read the answer: {0}")]
    Unreadable(String),
    /// The request cannot be written as HTTP: the caller's mistake.
    #[error("not a request: {0}")]
    Request(#[from] hyper::http::Error),
    /// No complete answer within the deadline.
    #[error("no answer in time")]
    Deadline,
}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Connections to one address. A request waits for a free one, then has its deadline to itself.
#[derive(Debug)]
pub struct Client {
    host: String,
    port: u16,
    authority: HeaderValue,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    permits: Semaphore,
    connect_deadline: Duration,
    deadline: Duration,
    tasks: TaskTracker,
}

impl Client {
    /// A client for `http://host:port` with at most `connections`. Connecting and the whole request have deadlines
    /// (the platform's: 2 s of 3 s).
    ///
    /// # Errors
    /// When the address is not of that form.
    pub fn new(
        address: &str,
        connections: usize,
        connect_deadline: Duration,
        deadline: Duration,
    ) -> Result<Self, ClientError> {
        let complaint = || ClientError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| complaint())?;
        if uri.scheme_str() != Some("http") {
            return Err(complaint());
        }
        let authority = uri.authority().ok_or_else(complaint)?;
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| complaint())?,
            idle: Mutex::new(Vec::new()),
            permits: Semaphore::new(connections.max(1)),
            connect_deadline,
            deadline,
            tasks: TaskTracker::new(),
        })
    }

    /// Sends one request and reads its answer. `request`'s URI is the path; the host is filled in.
    ///
    /// # Errors
    /// When there is no complete answer within the deadline; it does not include the wait for a free connection.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Answer, ClientError> {
        // Never closed, so the only failure cannot happen; no answer is what it would mean.
        let _permit = self.permits.acquire().await.map_err(|_| ClientError::Deadline)?;
        request.headers_mut().insert(HOST, self.authority.clone());
        timeout(self.deadline, self.exchange(request))
            .await
            .map_err(|_| ClientError::Deadline)?
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Answer, ClientError> {
        let mut sender = self.sender().await?;
        let response = match sender.try_send_request(request.map(Full::new)).await {
            Ok(response) => response,
            Err(mut failed) => match failed.take_message() {
                // The idle connection had been closed and nothing was written: a new one is no second attempt.
                Some(request) => {
                    sender = self.connect().await?;
                    sender.send_request(request).await?
                }
                None => return Err(failed.into_error().into()),
            },
        };
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body
            .map_err(|error| ClientError::Unreadable(error.to_string()))?
            .to_bytes();
        if sender.is_ready() || sender.ready().await.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        }
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body,
        })
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(sender) if sender.is_closed() => {}
                Some(sender) => return Ok(sender),
                None => return self.connect().await,
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match timeout(self.connect_deadline, connecting).await {
            Ok(connected) => connected.map_err(ClientError::Connect)?,
            Err(_) => return Err(ClientError::Connect(std::io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(ClientError::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when its sender is dropped: by `send`, by a deadline, or with the client.
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of the simulator's client ended");
            }
        });
        Ok(sender)
    }
}
