//! One hostile address: half requests on two thousand connections, each opened again when it is cut, and unsigned bodies of a
//! mebibyte. Meanwhile Feishu pushes, each time over a new connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use world::{Kind, Process};

use super::{BOTS, Speed, UNBOUND};
use crate::load::{Batch, Shape, Tally, accepted, alone};
use crate::report::{Report, Row, short, whole};

/// Where the hostile ones come from; Feishu's pushes come from 127.0.0.1.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const SOCKETS: u64 = 2_000;
/// Megabytes of unsigned bodies a second.
const MEGABYTES: f64 = 64.0;
/// One byte less than a request without a signature may bring.
const BODY: usize = 1_024 * 1_024 - 1;
/// A body that is not answered after this long is given up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Before a refused connection is opened again.
const AGAIN: Duration = Duration::from_millis(10);

/// Feishu's pushes.
const PUSHES: u64 = 2_000;
const BETWEEN: Duration = Duration::from_millis(10);
/// Before they begin.
const WARM_UP: Duration = Duration::from_secs(3);
const P99_MS: f64 = 100.0;

pub(super) async fn measure(_: &Speed, report: &mut Report) -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("so many connections need more open files")?;
    for (kind, role) in [(Kind::Distributed, "ingest"), (Kind::Embedded, "run")] {
        let world = super::world(kind, BOTS, UNBOUND).await;
        let process = Process::start(role, world.path()).await;
        // Queues are made before.
        let first = Batch::new(&world.bots, Shape::default(), BOTS).await?;
        accepted(process.address, &first).await?;
        let batch = Batch::new(&world.bots, Shape::default(), PUSHES as usize).await?;
        let siege = Siege::lay(process.address);
        sleep(WARM_UP).await;
        let (bytes, begun) = (siege.bytes.load(Ordering::Relaxed), Instant::now());
        let tally = push(process.address, batch).await?;
        let bytes = siege.bytes.load(Ordering::Relaxed) - bytes;
        let rate = bytes as f64 / begun.elapsed().as_secs_f64() / 1e6;
        let open = siege.open.load(Ordering::Relaxed);
        let is_heavy = open >= SOCKETS / 10 * 9 && rate >= MEGABYTES;
        siege.raise()?;
        report.add(Row {
            what: format!("besieged, `openclaw {role}`: accepted"),
            figure: format!(
                "{} of {}",
                whole(tally.accepted_in_all as f64),
                whole(tally.pushed as f64)
            ),
            beside: format!(
                "from one address {} connections with half a request and {} MB/s of unsigned bodies",
                whole(open as f64),
                whole(rate)
            ),
            goal: "all".to_owned(),
            reached: Some(is_heavy && tally.accepted_in_all == PUSHES),
        });
        report.add(Row::most(
            &format!("besieged, `openclaw {role}`: accept p99"),
            tally.latency_ms(0.99),
            "ms",
            format!(
                "100/s, each over a new connection; p50 {} ms",
                short(tally.latency_ms(0.5))
            ),
            P99_MS,
        ));
    }
    Ok(())
}

/// Pushes each when it is due, however late the answers are.
async fn push(target: SocketAddr, batch: Arc<Batch>) -> anyhow::Result<Tally> {
    let (mut pushing, mut due) = (JoinSet::new(), interval(BETWEEN));
    for number in 0..batch.len() {
        let due = due.tick().await;
        let batch = batch.clone();
        pushing.spawn(async move { (alone(target, &batch, number).await, due.elapsed()) });
    }
    let mut tally = Tally::new()?;
    while let Some(ended) = pushing.join_next().await {
        let (status, latency) = ended.context("a push ended by a bug")?;
        tally.pushed += 1;
        tally.accepted_in_all += u64::from(status == Some(200));
        tally.count(status, latency);
    }
    Ok(tally)
}

/// The hostile ones, on a thread of their own.
struct Siege {
    open: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    stop: CancellationToken,
    thread: thread::JoinHandle<anyhow::Result<()>>,
}

impl Siege {
    fn lay(target: SocketAddr) -> Self {
        let (open, bytes, stop) = (Arc::default(), Arc::default(), CancellationToken::new());
        let halves = half_requests(target, Arc::clone(&open));
        let bodies = bodies(target, Arc::clone(&bytes));
        let stopped = stop.clone().cancelled_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                tokio::select! {
                    () = halves => {}
                    () = bodies => {}
                    () = stopped => {}
                }
            });
            anyhow::Ok(())
        });
        Self {
            open,
            bytes,
            stop,
            thread,
        }
    }

    fn raise(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.thread.join().map_err(|_| anyhow!("the siege ended by a bug"))?
    }
}

async fn half_requests(target: SocketAddr, open: Arc<AtomicU64>) {
    let mut holding = JoinSet::new();
    for number in 0..SOCKETS {
        let open = open.clone();
        // Half of them stop in their head, half of them in their body.
        let half = match number % 2 {
            0 => "POST /webhook/bot0 HTTP/1.1\r\nhost:",
            _ => "POST /webhook/bot0 HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{",
        };
        holding.spawn(async move {
            loop {
                if let Ok(mut stream) = hostile(target).await {
                    open.fetch_add(1, Ordering::Relaxed);
                    if stream.write_all(half.as_bytes()).await.is_ok() {
                        // Until it is cut.
                        stream.read_to_end(&mut Vec::new()).await.ok();
                    }
                    open.fetch_sub(1, Ordering::Relaxed);
                }
                sleep(AGAIN).await;
            }
        });
    }
    while holding.join_next().await.is_some() {}
}

/// As many as make the megabytes, and some more, because a refused one is not sent to its end.
async fn bodies(target: SocketAddr, bytes: Arc<AtomicU64>) {
    let body: Arc<[u8]> = vec![b' '; BODY].into();
    let mut due = interval(Duration::from_secs_f64(BODY as f64 / (MEGABYTES * 1.2e6)));
    let mut sending = JoinSet::new();
    loop {
        due.tick().await;
        while sending.try_join_next().is_some() {}
        sending.spawn(timeout(PATIENCE, send(target, body.clone(), bytes.clone())));
    }
}

async fn send(target: SocketAddr, body: Arc<[u8]>, bytes: Arc<AtomicU64>) -> std::io::Result<()> {
    const PART: usize = 64 * 1024;
    let mut stream = hostile(target).await?;
    let head = format!("POST /webhook/bot0 HTTP/1.1\r\nhost: x\r\ncontent-length: {BODY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    for part in body.chunks(PART) {
        stream.write_all(part).await?;
        bytes.fetch_add(part.len() as u64, Ordering::Relaxed);
    }
    stream.read_u8().await.map(|_| ())
}

async fn hostile(target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((HOSTILE, 0).into())?;
    socket.connect(target).await
}
