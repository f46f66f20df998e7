//! The HTTP server loop of every role: bounded in connections, in time and at its end.
//!
//! * A request's headers take at most [`Limits::headers`], a pause between two requests [`Limits::idle`].
//! * There are at most [`Limits::connections`]. One more makes the one that has been idle longest go, so that sockets that
//!   ask for nothing, however many, keep no request out.
//! * Stopping means: accept nothing new, finish open requests within [`Limits::finish`], cut the rest.
//!
//! Handlers find the peer's address in `ConnectInfo<SocketAddr>`. Bounding a request's body and duration is theirs.

mod heads;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service as _;

use self::heads::Heads;
use crate::telemetry;

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

/// What one listener takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            headers: Duration::from_secs(5),
            idle: Duration::from_secs(75),
            finish: Duration::from_secs(3),
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
    let open = Arc::new(Open::default());
    let tasks = TaskTracker::new();
    let (finish, cut) = (CancellationToken::new(), CancellationToken::new());
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        // hyper counts from the moment it waits; `Heads` counts from the first byte.
        .header_read_timeout(limits.idle)
        .max_buf_size(READ_BUFFER);

    while let Some((stream, peer)) = next(&listener, &open, connections, &shutdown).await {
        let connection = open.enter(&cut);
        let heads = Heads::new(stream, connection.state.clone(), limits.headers);
        let served = run(server.clone(), heads, peer, router.clone(), connection, finish.clone());
        tasks.spawn(served);
    }
    drop(listener);
    finish.cancel();
    tasks.close();
    if tokio::time::timeout(limits.finish, tasks.wait()).await.is_err() {
        tracing::error!(
            connections = tasks.len(),
            "stopped with requests still open; they are cut"
        );
        cut.cancel();
        tasks.wait().await;
    }
}

/// The next connection, once there is room for it; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    open: &Open,
    limit: usize,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    let room = async {
        loop {
            match listener.accept().await {
                Ok(accepted) => break accepted,
                // The peer has gone again: nobody's problem.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be accepted");
                    open.evict();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    let accepted = shutdown.run_until_cancelled(room).await?;
    while open.count() >= limit {
        open.evict();
        let freed = tokio::time::timeout(ACCEPT_PAUSE, open.left.notified());
        shutdown.run_until_cancelled(freed).await?.ok();
    }
    Some(accepted)
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
        state.begin();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().call(request);
        let state = state.clone();
        async move {
            let answer: Result<Response, Infallible> = answer.await;
            state.end();
            answer
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

/// The open connections, to find the one that has been idle longest.
#[derive(Default)]
struct Open {
    by_number: Mutex<Numbered>,
    left: Notify,
}

#[derive(Default)]
struct Numbered {
    last: u64,
    states: HashMap<u64, Arc<State>>,
}

struct State {
    opened: Instant,
    /// Milliseconds after `opened` since when it has no request; [`BUSY`] while it has one.
    idle_since: AtomicU64,
    /// Requests whose headers have been read.
    begun: AtomicU64,
    cut: CancellationToken,
}

const BUSY: u64 = u64::MAX;

impl State {
    fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.idle_since.store(BUSY, Ordering::Relaxed);
    }

    fn end(&self) {
        let since = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(BUSY - 1);
        self.idle_since.store(since, Ordering::Relaxed);
    }

    fn idle_from(&self) -> Option<Instant> {
        match self.idle_since.load(Ordering::Relaxed) {
            BUSY => None,
            since => Some(self.opened + Duration::from_millis(since)),
        }
    }
}

impl Open {
    fn lock(&self) -> std::sync::MutexGuard<'_, Numbered> {
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> usize {
        self.lock().states.len()
    }

    fn enter(self: &Arc<Self>, cut: &CancellationToken) -> Connection {
        let state = Arc::new(State {
            opened: Instant::now(),
            idle_since: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            cut: cut.child_token(),
        });
        let mut numbered = self.lock();
        numbered.last += 1;
        let number = numbered.last;
        numbered.states.insert(number, state.clone());
        telemetry::CONNECTIONS.add(1.0);
        Connection {
            open: self.clone(),
            number,
            state,
        }
    }

    /// Cuts the connection that has been idle longest, if any is idle.
    fn evict(&self) {
        let numbered = self.lock();
        let idle = numbered.states.values().filter(|state| !state.cut.is_cancelled());
        if let Some((_, state)) = idle
            .filter_map(|state| Some((state.idle_from()?, state)))
            .min_by_key(|(since, _)| *since)
        {
            state.cut.cancel();
        }
    }
}

/// One open connection; leaves the list when dropped, also by a panic.
struct Connection {
    open: Arc<Open>,
    number: u64,
    state: Arc<State>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.lock().states.remove(&self.number);
        self.open.left.notify_one();
        telemetry::CONNECTIONS.add(-1.0);
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
