//! The HTTP server loop of every role: bounded in connections, in time and at its end.
//!
//! * A request's headers take at most [`Limits::headers`], a pause between two requests [`Limits::idle`].
//! * There are at most [`Limits::connections`]. One more makes one of the heaviest address go, so that one client's sockets,
//!   however many and in whatever state, keep nobody else's requests out (`serve/open.rs`).
//! * An answer to a request that was not read to its end says that it is the connection's last.
//! * Stopping means: accept nothing new, finish open requests within [`Limits::finish`], cut the rest.
//!
//! Handlers find the peer's address in `ConnectInfo<SocketAddr>`. Bounding a request's body and duration is theirs.

mod arrival;
mod heads;
mod open;
mod share;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use self::arrival::Arrival;
use self::heads::Heads;
use self::open::{Connection, Open, Owner};
pub use self::share::share;

/// A request's headers, and what hyper reads ahead of a body, in bytes. Feishu's headers are below 1 KiB.
const READ_BUFFER: usize = 32 * 1024;
/// Files that are no connections of ours: dependencies, logs, the database.
const OTHER_FILES: u64 = 256;
/// Open files worth asking for; also containers without any limit get no more.
const ENOUGH_FILES: u64 = 65_536;
/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`, 4096 by default. With the usual 128 a
/// burst of new connections overflows: the kernel drops their first packets, and each comes again a second later.
const BACKLOG: u32 = 4096;
/// Between two tries while the system hands out no sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Between two lines that say that places are short.
const SHORT_PAUSE: Duration = Duration::from_secs(10);

/// What one listener takes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections, as far as the system allows that many files.
    pub connections: usize,
    /// For a request's headers: the first ones from the connection's beginning, later ones from their first byte.
    pub headers: Duration,
    /// Between two requests. Longer than balancers keep a connection (nginx 60 s): the side that sends requests is
    /// to close it, or one sent just then is lost with it.
    pub idle: Duration,
    /// For open requests once stopped.
    pub finish: Duration,
    /// Proxies whose connections carry other people's requests (`security.trusted_proxies`): they are not one client.
    pub proxies: Vec<IpNet>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            headers: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            finish: Duration::from_secs(3),
            proxies: Vec::new(),
        }
    }
}

/// A listener with room for a burst of connections.
///
/// # Errors
/// The system's: the address is in use, not this machine's, or needs more rights.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A restart must not wait for the old connections' last packets.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `shutdown`; returns when the last request has ended or was cut.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let connections = limits.connections.min(raise_open_files());
    let open = Arc::new(Open::new(limits.proxies));
    let tasks = TaskTracker::new();
    let (finish, cut) = (CancellationToken::new(), CancellationToken::new());
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        // hyper counts from the moment it waits; `Heads` counts from the first byte.
        .header_read_timeout(limits.idle)
        .max_buf_size(READ_BUFFER);

    let mut door = Door::new(open.clone(), connections);
    while let Some((stream, peer)) = door.next(&listener, &shutdown).await {
        let connection = open.enter(open.owner(peer.ip()), &cut);
        let heads = Heads::new(stream, connection.state.clone(), limits.headers);
        let served = run(server.clone(), heads, peer, router.clone(), connection, finish.clone());
        tasks.spawn(served);
    }
    drop(listener);
    finish.cancel();
    tasks.close();
    if tokio::time::timeout(limits.finish, tasks.wait()).await.is_err() {
        tracing::warn!(
            connections = tasks.len(),
            "stopped with requests still open; they are cut"
        );
        cut.cancel();
        tasks.wait().await;
    }
}

/// Where connections come in.
struct Door {
    open: Arc<Open>,
    places: usize,
    /// When it was said last that places are short.
    said: Option<Instant>,
}

impl Door {
    fn new(open: Arc<Open>, places: usize) -> Self {
        Self {
            open,
            places,
            said: None,
        }
    }

    /// The next connection, once there is room for it; `None` when it is time to stop.
    async fn next(&mut self, listener: &TcpListener, shutdown: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
        let accepted = shutdown.run_until_cancelled(self.accept(listener)).await?;
        let owner = self.open.owner(accepted.1.ip());
        while self.open.count() >= self.places {
            self.make_room(owner);
            let freed = tokio::time::timeout(ACCEPT_PAUSE, self.open.left.notified());
            shutdown.run_until_cancelled(freed).await?.ok();
        }
        Some(accepted)
    }

    async fn accept(&mut self, listener: &TcpListener) -> (TcpStream, SocketAddr) {
        loop {
            match listener.accept().await {
                Ok(accepted) => return accepted,
                // The peer has gone again: nobody's problem.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    self.make_room(Owner::Proxied);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn make_room(&mut self, newcomer: Owner) {
        let Some(from) = self.open.make_room(newcomer) else {
            return;
        };
        if self.said.is_none_or(|said| said.elapsed() >= SHORT_PAUSE) {
            self.said = Some(Instant::now());
            let places = self.places;
            tracing::warn!(places, %from, "all places for connections are taken: whoever holds most of them gives some up");
        }
    }
}

async fn run(
    server: http1::Builder,
    stream: Heads,
    peer: SocketAddr,
    router: Router,
    connection: Connection,
    finish: CancellationToken,
) {
    let state = connection.state.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        state.begin(request.body().is_end_stream());
        request.extensions_mut().insert(ConnectInfo(peer));
        let request = request.map(|body| Arrival::new(body, state.clone()));
        let answer = router.clone().call(request);
        let state = state.clone();
        async move {
            let answer: Result<Response, Infallible> = answer.await;
            let read = state.end();
            answer.map(|mut answer| {
                if !read {
                    // What is left of the request is in the way of the next one.
                    let close = HeaderValue::from_static("close");
                    answer.headers_mut().insert(header::CONNECTION, close);
                }
                answer
            })
        }
    });
    let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
    let served = async {
        tokio::select! {
            result = served.as_mut() => result,
            () = finish.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    };
    // Timeouts and clients that go away are everyday life.
    if let Some(Err(error)) = connection.state.cut.run_until_cancelled(served).await {
        tracing::debug!(%error, %peer, "connection ended");
    }
}

/// Raises this process's soft limit of open files as far as it may, and says how many connections that leaves. Shells and
/// service managers commonly start programs with 1024.
fn raise_open_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(ENOUGH_FILES).min(ENOUGH_FILES);
    let mut files = current.unwrap_or(ENOUGH_FILES);
    if files < wanted {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => files = wanted,
            Err(error) => tracing::error!(%error, files, "the limit of open files stays as it is"),
        }
    }
    usize::try_from(files.saturating_sub(OTHER_FILES).max(files / 2)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
