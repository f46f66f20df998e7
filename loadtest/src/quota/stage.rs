//! A deployment whose sends travel for an uneven time to the platform, and demand that never ends.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use openclaw_sim::Sim;
use openclaw_sim::clock::monotonic_us;
use openclaw_sim::event::{Event, Recipient};
use openclaw_sim::proxy::{Direction, Flow, Proxy};
use openclaw_sim::push::{PushOptions, Pusher};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use world::{Kind, Process, World};

/// How much longer one send may travel than another: ten milliseconds more or less than the mean.
pub(super) const SPREAD: Duration = Duration::from_millis(20);
/// How often demand is made up.
const LOOK: Duration = Duration::from_millis(200);
/// Pushed at once, a second: fast against any limit, and no load of its own.
const REFILL: f64 = 400.0;
/// Longest time until everybody sends.
const FLOWING: Duration = Duration::from_secs(60);
/// Then the start is over: placement, first tokens, first bursts.
const SETTLE: Duration = Duration::from_secs(5);

/// Processes, servers, platform.
pub(super) struct Stage {
    /// Dropped first: processes before what they are connected to.
    pub(super) processes: Vec<Process>,
    pub(super) pusher: Pusher,
    _way: Proxy,
    pub(super) world: World,
}

impl Stage {
    /// `bots` bots on one ingest and `workers` workers, with `extra` lines of configuration.
    pub(super) async fn new(bots: usize, workers: usize, extra: &str) -> anyhow::Result<Self> {
        let world = World::new(Kind::Distributed, bots, extra).await;
        let way = uneven(&world)?;
        let processes = world.start(workers).await;
        let ingest = processes.first().context("a deployment has an ingest process")?;
        let pusher = world.pusher(&[ingest], PushOptions::default());
        Ok(Self {
            processes,
            pusher,
            _way: way,
            world,
        })
    }
}

/// Puts a proxy before the platform that holds up each request for another time.
fn uneven(world: &World) -> anyhow::Result<Proxy> {
    let node = fs::read_to_string(world.join("config.yaml"))?;
    let platform = node.split_once("base_url: \"http://").map(|(_, rest)| rest);
    let platform = platform.and_then(|rest| rest.split('"').next());
    let platform: SocketAddr = platform.context("the node names its platform")?.parse()?;
    let way = Proxy::start(platform)?;
    way.set(Direction::Up, &Flow::slow(Duration::ZERO, SPREAD));
    world.write(
        "config.yaml",
        &node.replace(&platform.to_string(), &way.address().to_string()),
    );
    Ok(way)
}

/// Who writes to whom where.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) recipient: Arc<Recipient>,
    pub(super) chat: String,
    /// In a private chat a person of its own: what one person gets from a bot is one limit, whatever the chat.
    user: String,
}

impl Lane {
    /// The bot's `number`th private chat.
    pub(super) fn private(recipient: &Arc<Recipient>, number: usize) -> Self {
        let user = format!("ou_{}_{number}", recipient.bot);
        Self {
            recipient: recipient.clone(),
            chat: format!("oc_p2p_{user}"),
            user,
        }
    }

    /// The chat that all bots share.
    pub(super) fn shared(recipient: &Arc<Recipient>) -> Self {
        Self {
            recipient: recipient.clone(),
            chat: SHARED.to_owned(),
            user: "ou_someone".to_owned(),
        }
    }
}

/// The chat of all bots.
pub(super) const SHARED: &str = "oc_shared";

/// Keeps `backlog` messages waiting in every lane, and knows the least there ever were.
pub(super) struct Demand {
    task: JoinHandle<()>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Lanes that have had an answer.
    flowing: usize,
    /// The least backlog of a lane since all were filled.
    least: usize,
}

impl Demand {
    pub(super) fn start(stage: &Stage, lanes: Vec<Lane>, backlog: usize) -> Self {
        let (sender, state) = watch::channel(State {
            flowing: 0,
            least: backlog,
        });
        let (pusher, sim) = (stage.pusher.clone(), stage.world.sim.clone());
        let task = tokio::spawn(async move {
            let mut waiting = vec![0; lanes.len()];
            let mut answered = Answered::default();
            let mut flowing = vec![false; lanes.len()];
            loop {
                let missing = lanes.iter().zip(&waiting).flat_map(|(lane, waiting)| {
                    let texts = *waiting..backlog;
                    texts.map(|_| Event::text(lane.recipient.clone(), &lane.chat, &lane.user, "a question"))
                });
                pusher.open_loop(REFILL, missing.collect::<Vec<_>>().into_iter()).await;
                waiting.fill(backlog);
                sleep(LOOK).await;
                let new = answered.since_last(&sim);
                for ((lane, waiting), flowing) in lanes.iter().zip(&mut waiting).zip(&mut flowing) {
                    let key = (&*lane.recipient.credentials.app_id, &*lane.chat);
                    let sent = new.get(&(key.0.into(), key.1.into())).copied().unwrap_or(0);
                    *flowing |= sent > 0;
                    *waiting = waiting.saturating_sub(sent);
                }
                sender.send_modify(|state| {
                    state.flowing = flowing.iter().filter(|flowing| **flowing).count();
                    state.least = waiting.iter().copied().chain([state.least]).min().unwrap_or(0);
                });
            }
        });
        Self { task, state }
    }

    /// Waits until `lanes` lanes are being served, and the start is over; says when measuring may begin.
    pub(super) async fn flowing(&mut self, lanes: usize) -> anyhow::Result<u64> {
        let all = self.state.wait_for(|state| state.flowing >= lanes);
        let all = tokio::time::timeout(FLOWING, all).await;
        all.context("a lane is not served at all")??;
        sleep(SETTLE).await;
        Ok(monotonic_us())
    }

    /// Ends it. Figures of use mean something only if there always was something to send.
    pub(super) fn end(self) -> anyhow::Result<usize> {
        self.task.abort();
        let least = self.state.borrow().least;
        ensure!(least > 0, "a lane ran dry: the run says nothing about use");
        Ok(least)
    }
}

/// Reads the platform's messages, each once.
#[derive(Default)]
struct Answered {
    next: u64,
}

impl Answered {
    /// New messages by app and chat.
    fn since_last(&mut self, sim: &Sim) -> HashMap<(Arc<str>, Arc<str>), usize> {
        let mut counts = HashMap::new();
        let next = self.next;
        sim.ledger(|ledger| {
            for message in ledger.messages().rev().take_while(|message| message.number >= next) {
                self.next = self.next.max(message.number + 1);
                *counts.entry((message.app.clone(), message.chat.clone())).or_default() += 1;
            }
        });
        counts
    }
}
