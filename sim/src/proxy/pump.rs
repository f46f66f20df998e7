//! One direction of one connection: read, lose or hold or delay, write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Conditions, Flow};

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Chunks on their way when there is latency: the proxy's own bound on memory.
const IN_FLIGHT: usize = 256;

/// The connection must be reset: an error on either side, its byte limit, or a hole in its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Bytes and when they may arrive.
type Chunk = (Instant, Vec<u8>);

/// Carries bytes until the sender ends its stream, then ends the receiver's.
pub(super) async fn run(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    conditions: watch::Receiver<Conditions>,
    flow: impl Fn(&Conditions) -> &Flow,
    counter: &AtomicU64,
) -> Result<(), Broken> {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    let (end, mut to) = tokio::try_join!(read(from, sender, conditions, flow, counter), write(to, receiver))?;
    match end {
        End::Stream => {
            // The receiver may be gone already.
            to.shutdown().await.ok();
            Ok(())
        }
        End::Limit => Err(Broken),
    }
}

/// Why nothing more is read.
enum End {
    /// The sender is done.
    Stream,
    /// The byte limit is reached.
    Limit,
}

async fn read(
    mut from: ReadHalf<'_>,
    chunks: mpsc::Sender<Chunk>,
    mut conditions: watch::Receiver<Conditions>,
    flow: impl Fn(&Conditions) -> &Flow,
    counter: &AtomicU64,
) -> Result<End, Broken> {
    let mut buffer = vec![0; CHUNK];
    let mut current = flow(&conditions.borrow_and_update()).clone();
    let mut carried = 0;
    let mut lost = false;
    let mut last_due = Instant::now();
    loop {
        let length = tokio::select! {
            biased;
            changed = conditions.changed() => {
                // The proxy is gone: its stop signal ends the link.
                changed.map_err(|_| Broken)?;
                let next = flow(&conditions.borrow_and_update()).clone();
                if next != current {
                    carried = 0;
                    current = next;
                }
                if lost && !current.lose {
                    return Err(Broken);
                }
                continue;
            }
            read = from.read(&mut buffer), if !current.wait => read.map_err(|_| Broken)?,
        };
        if length == 0 {
            // With bytes lost the end is lost too: the receiver hears nothing until the proxy is restored.
            if lost {
                conditions.wait_for(|now| !flow(now).lose).await.map_err(|_| Broken)?;
                return Err(Broken);
            }
            return Ok(End::Stream);
        }
        counter.fetch_add(length as u64, Ordering::Relaxed);
        if current.lose {
            lost = true;
            continue;
        }
        let room = current
            .limit
            .map_or(length as u64, |limit| limit.saturating_sub(carried).min(length as u64));
        carried += room;
        let passed = buffer
            .get(..usize::try_from(room).unwrap_or(length))
            .unwrap_or_default();
        last_due = last_due.max(Instant::now() + delay(&current));
        chunks.send((last_due, passed.to_vec())).await.map_err(|_| Broken)?;
        if current.limit.is_some_and(|limit| carried >= limit) {
            return Ok(End::Limit);
        }
    }
}

/// Writes all that was read, each chunk when it is due, and gives the half back.
async fn write(mut to: WriteHalf<'_>, mut chunks: mpsc::Receiver<Chunk>) -> Result<WriteHalf<'_>, Broken> {
    while let Some((due, bytes)) = chunks.recv().await {
        // Without latency it is due already: the timer is not troubled.
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        to.write_all(&bytes).await.map_err(|_| Broken)?;
    }
    Ok(to)
}

fn delay(flow: &Flow) -> Duration {
    if flow.jitter.is_zero() {
        return flow.latency;
    }
    flow.latency + flow.jitter.mul_f64(rand::rng().random())
}

/// Reads until the peer ends its stream.
pub(super) async fn swallow(stream: &mut TcpStream, counter: &AtomicU64) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        counter.fetch_add(length as u64, Ordering::Relaxed);
    }
}
