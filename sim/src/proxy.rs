//! A TCP proxy that fails on command: put it before RabbitMQ, Redis, PostgreSQL or the simulated Feishu.
//!
//! | call | like | existing connections | new ones |
//! |---|---|---|---|
//! | [`Proxy::cut`] | the server died | reset | refused |
//! | [`Proxy::reset_connections`] | a failover | reset | work |
//! | [`Proxy::set`] with [`Flow::black_hole`] | a firewall lost its state | bytes vanish | accepted, bytes vanish |
//! | [`Proxy::set`] with [`Flow::stall`] | a long pause | bytes wait | accepted, bytes wait |
//! | [`Proxy::set`] with latency, jitter | a far network | delayed, in order | the same |
//! | [`Proxy::set`] with a limit | a crash in mid-answer | reset after so many bytes | the same |
//! | [`Proxy::redirect`] | an address that moves to another server | go on | reach the other server |
//! | [`Proxy::half_open`] | the peer's machine lost power | silent for ever, upstream gone | work |
//! | [`Proxy::restore`] | | those that lost bytes are reset, the rest go on | work |

mod pump;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections waiting to be accepted.
const BACKLOG: u32 = 1024;

/// For connecting upstream.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A direction of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Both.
    Both,
}

/// What happens to bytes in one direction. The default lets them pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes are read and lost.
    pub lose: bool,
    /// Bytes are not read: they wait in the sender's buffers.
    pub wait: bool,
    /// Each byte arrives at least this much later.
    pub latency: Duration,
    /// And up to this much more, at random, in order.
    pub jitter: Duration,
    /// The connection is reset once it has carried this many bytes since this flow was set.
    pub limit: Option<u64>,
}

impl Flow {
    /// Lets everything pass.
    #[must_use]
    pub fn pass() -> Self {
        Self::default()
    }

    /// Swallows everything.
    #[must_use]
    pub fn black_hole() -> Self {
        Self {
            lose: true,
            ..Self::default()
        }
    }

    /// Holds everything back, losing nothing.
    #[must_use]
    pub fn stall() -> Self {
        Self {
            wait: true,
            ..Self::default()
        }
    }

    /// Delays everything.
    #[must_use]
    pub fn slow(latency: Duration, jitter: Duration) -> Self {
        Self {
            latency,
            jitter,
            ..Self::default()
        }
    }

    /// Resets each connection after so many bytes.
    #[must_use]
    pub fn limited(bytes: u64) -> Self {
        Self {
            limit: Some(bytes),
            ..Self::default()
        }
    }
}

/// What every connection watches.
#[derive(Clone, Debug)]
struct Conditions {
    upstream: SocketAddr,
    up: Flow,
    down: Flow,
    /// Cancelled: connections of this age are reset.
    reset: CancellationToken,
    /// Cancelled: connections of this age lose their upstream and fall silent.
    half_open: CancellationToken,
}

impl Conditions {
    fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            up: Flow::pass(),
            down: Flow::pass(),
            reset: CancellationToken::new(),
            half_open: CancellationToken::new(),
        }
    }
}

/// Bytes that arrived at the proxy, by direction.
#[derive(Debug, Default)]
struct Traffic {
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
}

/// A proxy on a loopback port of its own, to one upstream address. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    /// Bound and never listening: keeps the port while connections are refused, so that no one else gets it.
    _holder: TcpSocket,
    conditions: watch::Sender<Conditions>,
    traffic: Arc<Traffic>,
    accepting: Mutex<Option<CancellationToken>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Proxy {
    /// Listens on a free loopback port and passes everything on to `upstream`, which need not be up yet.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let holder = shared_socket(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let proxy = Self {
            address: holder.local_addr()?,
            _holder: holder,
            conditions: watch::Sender::new(Conditions::new(upstream)),
            traffic: Arc::default(),
            accepting: Mutex::new(None),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        proxy.listen()?;
        Ok(proxy)
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes the proxy has taken from clients and from the server, lost ones included.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.traffic.up.load(Ordering::Relaxed),
            self.traffic.down.load(Ordering::Relaxed),
        )
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.traffic.connections.load(Ordering::Relaxed)
    }

    /// Sets what happens to bytes from now on, also in existing connections.
    pub fn set(&self, direction: Direction, flow: &Flow) {
        self.conditions.send_modify(|conditions| {
            if direction != Direction::Down {
                conditions.up = flow.clone();
            }
            if direction != Direction::Up {
                conditions.down = flow.clone();
            }
        });
    }

    /// Resets every connection and refuses new ones until [`Proxy::restore`].
    pub fn cut(&self) {
        if let Some(accepting) = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            accepting.cancel();
        }
        self.reset_connections();
    }

    /// New connections go to another server; those that are open stay where they are.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.conditions.send_modify(|conditions| conditions.upstream = upstream);
    }

    /// Resets every connection; new ones work.
    pub fn reset_connections(&self) {
        let reset = self.renew(|conditions| &mut conditions.reset);
        reset.cancel();
    }

    /// Closes every connection's upstream side and leaves the client's open and silent; new ones work.
    pub fn half_open(&self) {
        let half_open = self.renew(|conditions| &mut conditions.half_open);
        half_open.cancel();
    }

    /// Everything passes again, new connections included. Connections that lost bytes are reset: a stream with a hole
    /// must not go on.
    ///
    /// # Errors
    /// When the port cannot be listened on again.
    pub fn restore(&self) -> io::Result<()> {
        self.set(Direction::Both, &Flow::pass());
        self.listen()
    }

    /// Takes the token the present connections watch and gives later ones a new one.
    fn renew(&self, token: impl Fn(&mut Conditions) -> &mut CancellationToken) -> CancellationToken {
        let mut taken = CancellationToken::new();
        self.conditions
            .send_modify(|conditions| std::mem::swap(token(conditions), &mut taken));
        taken
    }

    /// Opens the listener unless it is open.
    fn listen(&self) -> io::Result<()> {
        let mut accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner);
        if accepting.is_some() {
            return Ok(());
        }
        let listener = shared_socket(self.address)?.listen(BACKLOG)?;
        let until = self.stop.child_token();
        let links = Links {
            conditions: self.conditions.subscribe(),
            traffic: self.traffic.clone(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
        };
        self.tasks.spawn(accept(listener, links, until.clone()));
        *accepting = Some(until);
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Several sockets of this process may hold the port; only a listening one gets connections.
fn shared_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

struct Links {
    conditions: watch::Receiver<Conditions>,
    traffic: Arc<Traffic>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

async fn accept(listener: TcpListener, links: Links, until: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            // Dropping the listener resets what waits in its backlog and refuses the rest.
            () = until.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    links.traffic.connections.fetch_add(1, Ordering::Relaxed);
                    let link = link(client, links.conditions.clone(), links.traffic.clone(), links.stop.clone());
                    links.tasks.spawn(link);
                }
                Err(error) => {
                    tracing::warn!(%error, "the proxy cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// How a link ended.
enum End {
    /// Both sides said goodbye.
    Finished,
    /// Reset both sides.
    Reset,
    /// Drop upstream, keep the client waiting.
    HalfOpen,
}

async fn link(
    mut client: TcpStream,
    mut conditions: watch::Receiver<Conditions>,
    traffic: Arc<Traffic>,
    stop: CancellationToken,
) {
    let (upstream, reset, half_open) = {
        let current = conditions.borrow_and_update();
        (current.upstream, current.reset.clone(), current.half_open.clone())
    };
    let mut server = match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(upstream)).await {
        Ok(Ok(server)) => server,
        Ok(Err(_)) | Err(_) => {
            abort(client);
            return;
        }
    };
    // A small write must not wait for the peer's acknowledgement; if the peer is gone the pumps will notice.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let end = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = pump::run(
            client_read,
            server_write,
            conditions.clone(),
            |now| &now.up,
            &traffic.up,
        );
        let down = pump::run(server_read, client_write, conditions, |now| &now.down, &traffic.down);
        tokio::select! {
            biased;
            () = reset.cancelled() => End::Reset,
            () = stop.cancelled() => End::Reset,
            () = half_open.cancelled() => End::HalfOpen,
            ended = async { tokio::try_join!(up, down) } => match ended {
                Ok(_) => End::Finished,
                Err(pump::Broken) => End::Reset,
            },
        }
    };
    match end {
        End::Finished => {}
        End::Reset => {
            abort(server);
            abort(client);
        }
        End::HalfOpen => {
            abort(server);
            tokio::select! {
                () = pump::swallow(&mut client, &traffic.up) => {}
                () = reset.cancelled() => {}
                () = stop.cancelled() => {}
            }
            abort(client);
        }
    }
}

/// Closes with a TCP reset, so that the peer learns at once and sees an error, not an end.
fn abort(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "a connection was gone before its reset");
    }
}
