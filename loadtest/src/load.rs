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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

pub(crate) use batch::{Batch, Shape};
use connection::Connection;
pub(crate) use tally::Tally;

/// How often what has finished is counted.
const LOOK: Duration = Duration::from_millis(2);

/// Pushes at once while queues are made.
const FEW: usize = 8;

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
            room: Semaphore::new(0),
            tally: RefCell::new(Tally::new()?),
        });
        let (mut open, mut room) = (JoinSet::new(), JoinSet::new());
        room.spawn_local(make_room(Rc::clone(&shared)));
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

/// Pushes each of the batch's events until it is accepted, as Feishu would, only sooner; a few at a time, because an event
/// of a bot without a queue waits for it to be made.
pub(crate) async fn accepted(target: SocketAddr, batch: &Arc<Batch>) -> anyhow::Result<()> {
    let mut open = JoinSet::new();
    for first in 0..FEW.min(batch.len()) {
        let batch = Arc::clone(batch);
        open.spawn(async move {
            for number in (first..batch.len()).step_by(FEW) {
                insist(target, &batch, number).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = open.join_next().await {
        ended.context("a push ended by a bug")??;
    }
    Ok(())
}

/// One push over a connection of its own: its status, if there was an answer.
pub(crate) async fn alone(target: SocketAddr, batch: &Batch, number: usize) -> Option<u16> {
    let mut connection = Connection::open(target).await.ok()?;
    connection.exchange(batch.request(number)?).await.ok()
}

async fn insist(target: SocketAddr, batch: &Batch, number: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        if alone(target, batch, number).await == Some(200) {
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
    /// How many more may be on their way or unfinished ([`Pace::Behind`]).
    room: Semaphore,
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
            Pace::Behind(..) => {
                if let Ok(Ok(place)) = timeout_at(self.until, self.room.acquire()).await {
                    place.forget();
                }
                Instant::now()
            }
        };
        (number < self.batch.len() && due < self.until).then_some((number, due))
    }

    fn count(&self, due: Instant, status: Option<u16>) {
        let now = Instant::now();
        if status.is_some_and(|status| status != 200) {
            // Nothing of it will finish. Without any answer it may.
            self.room.add_permits(1);
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

/// One looks for all: 256 that wait for room would keep the platform's ledger busy with the question.
async fn make_room(shared: Rc<Shared>) {
    let Pace::Behind(most, finished) = &shared.load.pace else {
        return;
    };
    let room = |events: u64| shared.room.add_permits(usize::try_from(events).unwrap_or(0));
    room(*most);
    let mut known = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let now = finished();
        room(now.saturating_sub(known));
        known = now;
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
