//! What all plays of a test share: a database, a platform, and how a run of the real code is put between gates.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use openclaw_backends::caches::memory::Memory;
use openclaw_backends::queues::sqlite::SqliteQueue;
use openclaw_backends::sqlite::Sqlite;
use openclaw_common::bot::{Bot, BotId, BotSet, Bots, Credentials};
use openclaw_common::config::{self, Config, Message};
use openclaw_common::quota::{HORIZON, Quota, Urgency};
use openclaw_common::seal::KeyRing;
use openclaw_common::secret::Secret;
use openclaw_common::store::Store;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Flaw;
use super::gate::{At, Gate, Stop};
use super::platform::Platform;
use super::tables::Tables;
use crate::action::Plan;
use crate::adaptive_limit::AdaptiveLimits;
use crate::anchor::Anchor;
use crate::commit::Commits;
use crate::engine::{Engine, LOOKS};
use crate::event::Event;
use crate::feishu::Client;
use crate::handler::{Handler, HandlerError, Handlers};
use crate::people::People;
use crate::process::{Run, Work};
use crate::pulse::Pulse;
use crate::unrecorded::Unrecorded;

/// A run that does not reach its next gate in this time has been lost by the model itself.
const STUCK: Duration = Duration::from_secs(20);

/// Shared by all plays of a test.
pub(super) struct Stage {
    pub(super) store: Arc<dyn Store>,
    pub(super) tables: Tables,
    pub(super) plays: u64,
    platform: Platform,
    cache: Arc<Memory>,
    feishu: Arc<Client>,
    queue: Arc<SqliteQueue>,
    _folder: tempfile::TempDir,
    line: mpsc::UnboundedSender<Stop>,
    stops: mpsc::UnboundedReceiver<Stop>,
    runs: u64,
    made: Arc<Notify>,
}

/// A run of the real code in one process, between two gates.
pub(super) struct Live {
    pub(super) task: JoinHandle<()>,
    /// The attachment's: ends waits.
    pub(super) stop: CancellationToken,
    /// The process's: ends everything.
    pub(super) death: CancellationToken,
    pub(super) at: At,
}

impl Stage {
    pub(super) async fn new((store, tables): (Arc<dyn Store>, Tables)) -> Self {
        // Another test of this process may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let (line, stops) = mpsc::unbounded_channel();
        // No run consumes from it: the plays have a queue of their own, which forgets nothing and orders nothing.
        let folder = tempfile::tempdir().unwrap();
        let unused = Sqlite::open(&folder.path().join("queue.db")).await.unwrap();
        let cache = Arc::new(Memory::new());
        Self {
            store,
            tables,
            plays: 0,
            platform: Platform::start(line.clone()).await,
            feishu: Arc::new(Client::new(cache.clone()).unwrap()),
            cache,
            queue: Arc::new(SqliteQueue::new(unused)),
            _folder: folder,
            line,
            stops,
            runs: 0,
            made: Arc::default(),
        }
    }

    /// Lets a process of its own run an event, up to its first gate. Answers the run's number.
    pub(super) async fn run(
        &mut self,
        mut work: Work,
        message: &Message,
        answer: Result<Plan, HandlerError>,
        flaw: Option<Flaw>,
    ) -> (u64, Live) {
        self.runs += 1;
        let number = self.runs;
        let (death, tracker) = (CancellationToken::new(), TaskTracker::new());
        let gate = Gate {
            store: self.store.clone(),
            tables: self.tables.clone(),
            run: number,
            line: self.line.clone(),
            flaw,
            kept_back: Mutex::new(None),
            made: self.made.clone(),
        };
        let stop = death.child_token();
        let bots = Bots::fixed(BotSet::default());
        // Its own watch would look a little later: nothing is sent before.
        let leave = crate::gate::Gate::new(self.store.clone(), Arc::default());
        leave.refresh(true, &bots).await;
        let engine = Arc::new(Engine {
            commits: Commits::start(Arc::new(gate), &tracker, &death),
            looks: Arc::new(Semaphore::new(LOOKS)),
            quota: Quota::new(self.cache.clone(), 1, HORIZON),
            gate: leave,
            adaptive_limits: AdaptiveLimits::new(),
            people: People::new(self.cache.clone(), tracker.clone()),
            handlers: Handlers::default(),
            feishu: self.feishu.clone(),
            pulse: Pulse::start(&tracker, &death),
            unrecorded: Unrecorded::default(),
            config: Arc::new(Config::default()),
            bots,
            cache: self.cache.clone(),
            queue: self.queue.clone(),
            store: self.store.clone(),
            keys: Arc::new(KeyRing::default()),
            tracker,
            drain: stop.clone(),
        });
        let run = Run {
            freezes: engine.pulse.freezes(),
            engine,
            bot: Arc::new(bot(
                &format!("run{number}"),
                &format!("{}/{number}", self.platform.base_url),
                message,
            )),
            handler: Arc::new(Says(answer)),
            handlers: Arc::new(Semaphore::new(1)),
            quarantine: Arc::new(Semaphore::new(1)),
            urgency: Urgency::new(work.row.priority()),
            stop: stop.clone(),
            anchor: Anchor::default(),
        };
        let line = self.line.clone();
        let task = tokio::spawn(async move {
            let end = run.run(&mut work).await;
            // An anchor that was never acknowledged is a copy that comes again, which the plays have anyway.
            run.anchor.tend(false);
            drop(line.send(Stop {
                run: number,
                at: At::Ended { end },
            }));
        });
        let at = self.next_gate(number).await;
        (number, Live { task, stop, death, at })
    }

    /// The next gate of the only run that has been let on.
    pub(super) async fn next_gate(&mut self, run: u64) -> At {
        let stop = tokio::time::timeout(STUCK, self.stops.recv())
            .await
            .unwrap_or_else(|_| panic!("run {run} reaches no gate"))
            .unwrap();
        assert_eq!(stop.run, run, "only one run moves at a time");
        stop.at
    }

    /// The same, for a run whose change was made without an answer, and which waits before it repeats it: its timers run faster
    /// than the clock. Not those of the change itself, which may take as long as the database likes.
    pub(super) async fn next_gate_hurried(&mut self, run: u64) -> At {
        self.made.notified().await;
        tokio::time::pause();
        let stop = loop {
            match self.stops.try_recv() {
                Ok(stop) => break stop,
                Err(_) => tokio::time::advance(Duration::from_millis(1)).await,
            }
        };
        tokio::time::resume();
        assert_eq!(stop.run, run, "only one run moves at a time");
        stop.at
    }
}

/// The bot as one run sees it. The number in its id keeps the platform's pauses, which the cache counts in real time, from
/// the other runs: anything in the cache may be lost.
pub(super) fn bot(id: &str, base_url: &str, message: &Message) -> Bot {
    Bot {
        id: BotId::new(id).unwrap(),
        credentials: Credentials {
            app_id: super::APP.into(),
            app_secret: Secret::new("secret"),
            verification_token: Secret::new("token"),
            encrypt_key: None,
        },
        message: message.clone(),
        quota: config::Quota {
            bot: None,
            chat: None,
            user: None,
            card: None,
            app: Vec::new(),
            ..config::Quota::default()
        },
        handler: config::Handler::default(),
        security: config::Security::default(),
        feishu: config::Feishu {
            base_url: base_url.to_owned(),
            card_toast: None,
        },
    }
}

/// A handler that answers what the play wants.
struct Says(Result<Plan, HandlerError>);

#[async_trait]
impl Handler for Says {
    async fn plan(&self, _event: &Event) -> Result<Plan, HandlerError> {
        self.0.clone()
    }
}
