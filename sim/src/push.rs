//! The pusher: Feishu's side of the webhook (`docs/design/feishu-protocol.md` §1.6).
//!
//! An attempt has 3 s, 2 s of them to connect. A failed event is pushed again after 15 s, 5 min, 1 h and 6 h, then given
//! up. Even an accepted event may come again. Where a chat's order matters, the next event of a chat is pushed only
//! after the previous one was accepted or given up.

mod client;
mod record;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use client::{Answer, Client, ClientError};
pub(crate) use record::content_hash;
pub use record::{Latency, PushLog, PushTotals, Pushed};

use crate::clock::{micros, monotonic_us};
use crate::event::{Event, Kind};
use crate::state::{Sim, scaled};

/// The platform's waits before each re-push.
pub const TIMETABLE: [Duration; 4] = [
    Duration::from_secs(15),
    Duration::from_secs(5 * 60),
    Duration::from_secs(3600),
    Duration::from_secs(6 * 3600),
];

/// How the pusher behaves. The defaults are the platform's.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Where to: `http://host:port` of each ingest node; attempts go to them in turn, like behind a load balancer.
    pub targets: Vec<String>,
    /// Connections to each target.
    pub connections: usize,
    /// For a whole attempt.
    pub deadline: Duration,
    /// For connecting, within that.
    pub connect_deadline: Duration,
    /// Waits before each re-push.
    pub timetable: Vec<Duration>,
    /// How much faster the timetable passes; the deadlines stay in real time.
    pub time_scale: f64,
    /// The chance that an accepted event is pushed once more.
    pub duplicates: f64,
    /// Whether the next event of a chat waits for the previous one.
    pub ordered: bool,
    /// Events begun and not finished, at most; beyond it the source waits (latencies count from the due time anyway).
    pub outstanding: usize,
    /// Events remembered singly. Totals and latencies cover all.
    pub keep: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            connections: 64,
            deadline: Duration::from_secs(3),
            connect_deadline: Duration::from_secs(2),
            timetable: TIMETABLE.to_vec(),
            time_scale: 1.0,
            duplicates: 0.0,
            ordered: true,
            outstanding: 100_000,
            keep: 500_000,
        }
    }
}

/// Pushes events over real connections and writes down what became of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pusher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: PushOptions,
    clients: Vec<Client>,
    turn: AtomicUsize,
    /// Learns of each message before it is pushed, so that it can be replied to.
    sim: Option<Sim>,
    /// A chat is here while one of its events is on its way; behind it wait the next ones.
    chats: Mutex<HashMap<Arc<str>, VecDeque<Job>>>,
    outstanding: Arc<Semaphore>,
    log: Mutex<PushLog>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Job {
    event: Event,
    due_us: u64,
    done: Option<oneshot::Sender<Pushed>>,
    _permit: OwnedSemaphorePermit,
}

impl Pusher {
    /// A pusher. `stop` ends waits of the timetable; events that were waiting count as given up.
    ///
    /// # Errors
    /// When there is no target or one is not of the form `http://host:port`.
    pub fn new(options: PushOptions, sim: Option<Sim>, stop: CancellationToken) -> Result<Self, ClientError> {
        let connect =
            |target: &String| Client::new(target, options.connections, options.connect_deadline, options.deadline);
        let clients = options.targets.iter().map(connect).collect::<Result<Vec<_>, _>>()?;
        if clients.is_empty() {
            return Err(ClientError::Address(String::new()));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                clients,
                turn: AtomicUsize::new(0),
                sim,
                chats: Mutex::new(HashMap::new()),
                outstanding: Arc::new(Semaphore::new(options.outstanding.clamp(1, Semaphore::MAX_PERMITS))),
                log: Mutex::new(PushLog::new(options.keep)),
                stop,
                tasks: TaskTracker::new(),
                options,
            }),
        })
    }

    /// Pushes one event, due now, until it is accepted or given up.
    pub async fn push(&self, event: Event) -> Option<Pushed> {
        self.enqueue(event, monotonic_us()).await?.await.ok()
    }

    /// Pushes `copies` of one event at once, each a single attempt, and returns their statuses. This is how the
    /// platform's internal at-least-once chain can look from outside. The first 200 counts as acceptance.
    pub async fn push_copies(&self, event: &Event, copies: usize) -> Vec<Option<u16>> {
        self.inner.announce(event);
        let due_us = monotonic_us();
        let attempts = (0..copies).map(|_| {
            let (inner, event) = (self.inner.clone(), event.clone());
            self.inner.tasks.spawn(async move {
                let (status, _) = inner.attempt(&event, 0).await;
                (status, monotonic_us())
            })
        });
        let mut pushed = Pushed::new(event, due_us);
        let mut statuses = Vec::with_capacity(copies);
        for attempt in attempts.collect::<Vec<_>>() {
            let (status, ended_us) = attempt.await.unwrap_or((None, due_us));
            if status == Some(200) {
                pushed.accepted_us = Some(pushed.accepted_us.map_or(ended_us, |earlier| earlier.min(ended_us)));
            }
            pushed.attempts += 1;
            pushed.status = status;
            statuses.push(status);
        }
        pushed.duplicates = pushed.attempts.saturating_sub(1);
        self.inner.log().record(pushed);
        statuses
    }

    /// Pushes each event when it is due at `rate` per second, however the receiver keeps up, and returns when all are
    /// accepted or given up.
    pub async fn open_loop(&self, rate: f64, events: impl Iterator<Item = Event>) {
        let start_us = monotonic_us();
        let mut pending = VecDeque::new();
        for (number, event) in events.enumerate() {
            let due_us = start_us + micros(Duration::from_secs_f64(number as f64 / rate.max(f64::MIN_POSITIVE)));
            let wait_us = due_us.saturating_sub(monotonic_us());
            // Never early. The timer ticks in milliseconds: what falls due within a tick goes out together at its end.
            if wait_us > 0 {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_micros(wait_us)) => {}
                    () = self.inner.stop.cancelled() => break,
                }
            }
            let Some(done) = self.enqueue(event, due_us).await else {
                break;
            };
            pending.push_back(done);
            while pending
                .front_mut()
                .is_some_and(|done| !matches!(done.try_recv(), Err(oneshot::error::TryRecvError::Empty)))
            {
                pending.pop_front();
            }
        }
        for done in pending {
            if done.await.is_err() {
                tracing::debug!("an event's task ended without a story");
            }
        }
    }

    /// Keeps `concurrency` events on their way until the source is dry, and returns when all are accepted or given up.
    pub async fn closed_loop(&self, concurrency: usize, events: impl Iterator<Item = Event> + Send + 'static) {
        let events = Arc::new(tokio::sync::Mutex::new(events));
        let lanes: Vec<_> = (0..concurrency.max(1))
            .map(|_| {
                let (pusher, events) = (self.clone(), events.clone());
                self.inner.tasks.spawn(async move {
                    loop {
                        // Taken and queued under one lock, so that a chat's events queue in the source's order.
                        let done = {
                            let mut events = events.lock().await;
                            let Some(event) = events.next() else { return };
                            pusher.enqueue(event, monotonic_us()).await
                        };
                        let Some(done) = done else { return };
                        if done.await.is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for lane in lanes {
            if let Err(error) = lane.await {
                tracing::error!(%error, "a lane of the pusher failed");
            }
        }
    }

    /// Waits for every attempt still on its way, late copies included; call it before judging a run.
    pub async fn settle(&self) {
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        self.inner.tasks.reopen();
    }

    /// Reads what was written down.
    pub fn log<T>(&self, read: impl FnOnce(&PushLog) -> T) -> T {
        read(&self.inner.log())
    }

    /// `None` once the pusher is stopped.
    async fn enqueue(&self, event: Event, due_us: u64) -> Option<oneshot::Receiver<Pushed>> {
        let permit = tokio::select! {
            biased;
            () = self.inner.stop.cancelled() => return None,
            permit = self.inner.outstanding.clone().acquire_owned() => permit.ok()?,
        };
        let (done, receiver) = oneshot::channel();
        let job = Job {
            event,
            due_us,
            done: Some(done),
            _permit: permit,
        };
        let chat = job.event.chat.clone();
        if !self.inner.options.ordered {
            self.inner.tasks.spawn(self.inner.clone().deliver(job));
            return Some(receiver);
        }
        let mut chats = self.inner.chats();
        if let Some(waiting) = chats.get_mut(&chat) {
            waiting.push_back(job);
        } else {
            chats.insert(chat.clone(), VecDeque::new());
            drop(chats);
            self.inner.tasks.spawn(self.inner.clone().deliver_chat(chat, job));
        }
        Some(receiver)
    }
}

impl Inner {
    fn log(&self) -> MutexGuard<'_, PushLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chats(&self) -> MutexGuard<'_, HashMap<Arc<str>, VecDeque<Job>>> {
        self.chats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One after the other, until none of the chat is left.
    async fn deliver_chat(self: Arc<Self>, chat: Arc<str>, first: Job) {
        let mut job = first;
        loop {
            self.clone().deliver(job).await;
            let mut chats = self.chats();
            match chats.get_mut(&chat).and_then(VecDeque::pop_front) {
                Some(next) => job = next,
                None => {
                    chats.remove(&chat);
                    return;
                }
            }
        }
    }

    async fn deliver(self: Arc<Self>, mut job: Job) {
        let done = job.done.take();
        let pushed = self.pursue(&job).await;
        self.log().record(pushed.clone());
        if pushed.accepted_us.is_some() && rand::rng().random::<f64>() < self.options.duplicates {
            // Beside whatever comes next: a late copy must not disturb the chat's order.
            let inner = self.clone();
            self.tasks.spawn(async move {
                inner.attempt(&job.event, pushed.attempts).await;
            });
        }
        if let Some(done) = done {
            // The caller may have stopped caring; the story is in the log.
            done.send(pushed).ok();
        }
    }

    async fn pursue(&self, job: &Job) -> Pushed {
        let mut pushed = Pushed::new(&job.event, job.due_us);
        self.announce(&job.event);
        let retries: &[Duration] = if job.event.kind.is_callback() {
            &[]
        } else {
            &self.options.timetable
        };
        let mut waits = retries.iter();
        loop {
            let (status, answer) = self.attempt(&job.event, pushed.attempts).await;
            pushed.attempts += 1;
            pushed.status = status;
            if job.event.kind.is_callback() {
                pushed.answer = answer;
            }
            if status == Some(200) {
                pushed.accepted_us = Some(monotonic_us());
                if let (Some(sim), Kind::CardAction { token, .. }) = (&self.sim, &job.event.kind) {
                    sim.card_answered(token);
                }
                return pushed;
            }
            let Some(wait) = waits.next() else { return pushed };
            tokio::select! {
                () = tokio::time::sleep(scaled(*wait, self.options.time_scale)) => {}
                () = self.stop.cancelled() => return pushed,
            }
        }
    }

    fn announce(&self, event: &Event) {
        let Some(sim) = &self.sim else { return };
        match &event.kind {
            Kind::Text { .. } | Kind::Message { .. } => sim.add_message(&event.key, &event.chat),
            Kind::CardAction { message_id, token, .. } => {
                sim.add_card_token(token, &event.recipient.credentials.app_id, message_id);
            }
            _ => {}
        }
    }

    async fn attempt(&self, event: &Event, attempt: u32) -> (Option<u16>, Option<Bytes>) {
        let begun = Instant::now();
        let (status, body) = match self.request(event, attempt).await {
            Ok(answer) => (Some(answer.status.as_u16()), Some(answer.body)),
            Err(error) => {
                tracing::debug!(%error, key = %event.key, attempt, "a push has no answer");
                (None, None)
            }
        };
        self.log().record_attempt(status, begun.elapsed());
        (status, body)
    }

    async fn request(&self, event: &Event, attempt: u32) -> Result<Answer, ClientError> {
        let wire = event.wire(attempt);
        let path = format!("/webhook/{}", event.recipient.bot);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json;charset=utf-8");
        for (name, value) in wire.headers {
            request = request.header(name, value);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        match self.clients.get(turn) {
            Some(client) => client.send(request.body(Bytes::from(wire.body))?).await,
            None => Err(ClientError::Address(String::new())),
        }
    }
}

impl Pushed {
    fn new(event: &Event, due_us: u64) -> Self {
        Self {
            app: event.recipient.credentials.app_id.clone(),
            bot: event.recipient.bot.clone(),
            key: event.key.clone(),
            chat: event.chat.clone(),
            event_type: event.kind.event_type(),
            wants_reply: event.wants_reply(),
            content: event.content().map(|content| content_hash(&content)),
            due_us,
            begun_us: monotonic_us(),
            accepted_us: None,
            attempts: 0,
            duplicates: 0,
            status: None,
            answer: None,
        }
    }
}
