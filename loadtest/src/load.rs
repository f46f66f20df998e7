//! The load driver: pushes distinct, signed, encrypted events as fast as it can, or at a fixed rate, and counts.
//!
//! It must cost little beside what it measures, so requests are made before the clock starts and the client is a few
//! lines over a socket. It runs on one thread of its own.
//!
//! | file | is |
//! |---|---|
//! | `batch` | requests, ready to be written |
//! | `connection` | one keep-alive connection |
//! | `tally` | what came of them |

mod batch;
mod connection;
mod tally;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use batch::{Batch, Shape};
use connection::Connection;
pub(crate) use tally::Tally;

/// How often a full backlog is looked at again.
const LOOK: Duration = Duration::from_millis(2);

/// What is not accepted after this long is not going to be.
const GIVE_UP: Duration = Duration::from_secs(60);

/// When the next request goes out.
pub(crate) enum Pace {
    /// As soon as a connection is free: finds the peak.
    Closed,
    /// At this many a second, however late the answers are. Latencies count from when a request was due, so that a stall
    /// is felt by all requests it delayed (no coordinated omission).
    Open(f64),
    /// As soon as a connection is free and fewer than the given number are accepted but not finished.
    Behind(u64, Arc<dyn Fn() -> u64 + Send + Sync>),
}

/// A load to be put on a target.
pub(crate) struct Load {
    /// An ingest, or what stands for one.
    pub(crate) target: SocketAddr,
    /// Requests on their way at once, at most.
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// Pushed, and not counted.
    pub(crate) warm_up: Duration,
    /// How long is counted, unless the batch ends before.
    pub(crate) lasting: Duration,
}

impl Load {
    /// Puts it on, on a thread of its own.
    pub(crate) async fn run(self, batch: Arc<Batch>) -> anyhow::Result<Tally> {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // `block_on` of a `LocalSet` lets the connections share their counts without locks.
            tokio::task::LocalSet::new().block_on(&runtime, self.drive(batch))
        })
        .await
        .map_err(|error| anyhow!("the load driver ended by a bug: {error}"))?
    }

    async fn drive(self, batch: Arc<Batch>) -> anyhow::Result<Tally> {
        let begun = Instant::now();
        let connections = self.connections;
        let shared = Rc::new(Shared {
            counted_from: begun + self.warm_up,
            until: begun + self.warm_up + self.lasting,
            begun,
            load: self,
            batch,
            next: Cell::new(0),
            accepted: Cell::new(0),
            tally: RefCell::new(Tally::new()?),
        });
        let mut open = JoinSet::new();
        for _ in 0..connections {
            open.spawn_local(connected(Rc::clone(&shared)));
        }
        while let Some(ended) = open.join_next().await {
            ended.context("a connection ended by a bug")??;
        }
        let mut tally = shared.tally.replace(Tally::new()?);
        let end = Instant::now().min(shared.until);
        tally.lasted = end.saturating_duration_since(shared.counted_from);
        Ok(tally)
    }
}

/// Pushes the batch's first event until it is accepted, as Feishu would, only sooner.
pub(crate) async fn accepted(target: SocketAddr, batch: &Batch) -> anyhow::Result<()> {
    let request = batch.request(0).context("an empty batch")?;
    let begun = Instant::now();
    loop {
        if let Ok(mut connection) = Connection::open(target).await
            && matches!(connection.exchange(request).await, Ok(200))
        {
            return Ok(());
        }
        ensure!(begun.elapsed() < GIVE_UP, "{target} accepts nothing");
        tokio::time::sleep(LOOK).await;
    }
}

/// What the connections of a load share.
struct Shared {
    load: Load,
    batch: Arc<Batch>,
    begun: Instant,
    counted_from: Instant,
    until: Instant,
    next: Cell<usize>,
    accepted: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Shared {
    /// The number of the next request and when it is due; none when time or requests are used up.
    async fn turn(&self) -> Option<(usize, Instant)> {
        let number = self.next.get();
        self.next.set(number + 1);
        let due = match &self.load.pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => {
                let due = self.begun + Duration::from_secs_f64(number as f64 / rate);
                if due < self.until {
                    tokio::time::sleep_until(due).await;
                }
                due
            }
            Pace::Behind(most, finished) => {
                // What finishes without having been accepted (an answer that got lost) counts as room.
                while self.accepted.get().saturating_sub(finished()) >= *most && Instant::now() < self.until {
                    tokio::time::sleep(LOOK).await;
                }
                Instant::now()
            }
        };
        (number < self.batch.len() && due < self.until).then_some((number, due))
    }

    fn count(&self, due: Instant, status: Option<u16>) {
        let now = Instant::now();
        if status == Some(200) {
            self.accepted.set(self.accepted.get() + 1);
        }
        let mut tally = self.tally.borrow_mut();
        tally.pushed += 1;
        tally.accepted_in_all += u64::from(status == Some(200));
        // A closed loop is counted by its answers, an open loop by its arrivals: all of them, also the last and slowest.
        let counted = match self.load.pace {
            Pace::Open(_) => due >= self.counted_from,
            _ => now >= self.counted_from && now < self.until,
        };
        if counted {
            tally.count(status, now - due);
        }
    }
}

async fn connected(shared: Rc<Shared>) -> anyhow::Result<()> {
    let mut connection = Connection::open(shared.load.target).await?;
    while let Some((number, due)) = shared.turn().await {
        let Some(request) = shared.batch.request(number) else {
            break;
        };
        match connection.exchange(request).await {
            Ok(status) => shared.count(due, Some(status)),
            Err(_) => {
                shared.count(due, None);
                connection = Connection::open(shared.load.target).await?;
            }
        }
    }
    Ok(())
}
