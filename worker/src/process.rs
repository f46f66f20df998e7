//! One event, from its row to its end: handler, plan, sends, outcome.
//!
//! Every step is a guarded commit, and every await may be the last thing this process does: the case table in
//! `ARCHITECTURE.md` says what the next owner finds. Three commits carry an undisturbed event: taken up (by the runner),
//! planned (before the first send), finished (before the acknowledgement).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openclaw_common::bot::Bot;
use openclaw_common::config::{OnStale, Order};
use openclaw_common::envelope::EventKey;
use openclaw_common::fail_point::fail_point;
use openclaw_common::pool::Pool;
use openclaw_common::queue::Receipt;
use openclaw_common::quota::Urgency;
use openclaw_common::seal::Part;
use openclaw_common::send::SendOrder;
use openclaw_common::store::{ActionOutcome, ActionState, Change, NewAction, Row, Step, Wait};
use openclaw_common::{action_uuid, backoff, outside, telemetry, time};
use tokio_util::sync::CancellationToken;

use crate::action::Plan;
use crate::anchor::Anchor;
use crate::commit::CommitError;
use crate::engine::Engine;
use crate::event::Event;
use crate::handler::{Handler, HandlerError};
use crate::sender::Sender;
use crate::sending::{ActionRun, Sent};
use crate::verdict::LANE_PATIENCE;
use crate::{membership, order};

/// Handler starts without an end that make an event poison: each one was a crash of the process.
const POISON_STARTS: u32 = 3;
/// A handler that takes longer has failed (`docs/design/delivery.md` §10).
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);
/// A scheduled send this close to its time waits in its lane.
const NEARLY: Duration = Duration::from_secs(1);
const TOO_LATE: &str = "Sorry, this message could not be answered in time.";

/// An event that a lane runs.
pub(crate) struct Work {
    pub(crate) row: Row,
    /// The delivery that brought it; events from the waiting room have none.
    pub(crate) receipt: Option<Receipt>,
    /// Whether taking it up has already counted its handler's start.
    pub(crate) started: bool,
}

/// How it ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its row is terminal.
    Settled,
    /// Its row waits in the Store.
    Waiting {
        /// Later events of the chat wait behind it.
        hold: bool,
    },
    /// The row has had another owner: look at it again.
    Lost,
    /// Stopped on the way; the next owner goes on.
    Stopped,
}

/// What an event needs while it runs.
pub(crate) struct Run {
    pub(crate) engine: Arc<Engine>,
    pub(crate) bot: Arc<Bot>,
    pub(crate) handler: Arc<dyn Handler>,
    /// Bounds the bot's running handlers (`server.workers`).
    pub(crate) handlers: Arc<tokio::sync::Semaphore>,
    /// One suspect of being poison at a time.
    pub(crate) quarantine: Arc<tokio::sync::Semaphore>,
    /// Ends waits; a request on the wire and its commit are always finished.
    pub(crate) stop: CancellationToken,
    /// [`crate::pulse::Pulse::freezes`] when the attachment began.
    pub(crate) freezes: u64,
    /// How urgent it is; rises with what comes to wait for it in its chat.
    pub(crate) urgency: Urgency,
    /// Where its delivery goes when its end is committed.
    pub(crate) anchor: Anchor,
}

/// Why a run cannot go on by itself.
pub(crate) enum Interrupt {
    Stopped,
    Lost,
}

pub(crate) type Flow<T> = Result<T, Interrupt>;

impl From<CommitError> for Interrupt {
    fn from(error: CommitError) -> Self {
        // A refused row was logged where the batch was split; leaving the event to its next owner loses nothing.
        match error {
            CommitError::Stopped | CommitError::Refused(_) => Self::Stopped,
        }
    }
}

impl Run {
    /// Runs the event and settles its delivery once its end is committed.
    pub(crate) async fn run(&self, work: &mut Work) -> End {
        let end = match self.course(&mut work.row, work.started).await {
            Ok(end) => end,
            Err(Interrupt::Stopped) => End::Stopped,
            Err(Interrupt::Lost) => End::Lost,
        };
        if matches!(end, End::Settled | End::Waiting { .. })
            && let Some(receipt) = work.receipt.take()
        {
            self.anchor.settle(receipt);
            let place = if end == End::Settled { "W6" } else { "R2" };
            fail_point(place, &work.row.envelope.key.key);
        }
        end
    }

    /// Puts an event that has not run into the waiting room: it has to wait behind another one of its chat.
    pub(crate) async fn park(&self, work: &mut Work) -> End {
        let wait = Wait {
            actions: Vec::new(),
            due_in: Duration::ZERO,
            attempt: work.row.attempt,
            hold: true,
            failure: None,
        };
        match self.commit(&work.row, Step::Wait(wait)).await {
            Ok(()) => {
                if let Some(receipt) = work.receipt.take() {
                    self.anchor.settle(receipt);
                }
                End::Waiting { hold: true }
            }
            Err(Interrupt::Lost) => End::Lost,
            Err(Interrupt::Stopped) => End::Stopped,
        }
    }

    async fn course(&self, row: &mut Row, started: bool) -> Flow<End> {
        tokio::select! {
            () = self.engine.gate.known() => {}
            () = self.stop.cancelled() => return Err(Interrupt::Stopped),
        }
        // Before anything else: it must neither grow stale nor start its handler while nothing may be sent.
        if let Some(wait) = self.engine.gate.stopped(&self.bot) {
            return self
                .wait(row, Vec::new(), wait.wait, row.attempt, true, wait.failure())
                .await;
        }
        if let Some(end) = self.early(row).await? {
            return Ok(end);
        }
        if let Some(end) = self.stale(row).await? {
            return Ok(end);
        }
        let (plan, first_send) = match &row.plan {
            Some(bytes) => match self
                .open(row, Part::Plan, bytes)
                .and_then(|open| Plan::decode(&open).map_err(|error| error.to_string()))
            {
                Ok(plan) => (plan, false),
                Err(error) => return self.die(row, Vec::new(), "unreadable", None, error).await,
            },
            None => match self.make_plan(row, started).await? {
                Made::Plan(plan) => (plan, true),
                Made::End(end) => return Ok(end),
            },
        };
        self.carry_out(row, &plan, first_send).await
    }

    /// A scheduled send waits in the Store; later messages of its chat pass meanwhile.
    async fn early(&self, row: &Row) -> Flow<Option<End>> {
        let (wait, _) = order::scheduled(&self.engine, row);
        if wait > NEARLY {
            return self
                .wait(row, Vec::new(), wait, row.attempt, false, None)
                .await
                .map(Some);
        }
        if !wait.is_zero() {
            self.pause(wait).await?;
        }
        Ok(None)
    }

    /// `message.max_age`: a late answer is often worse than none. What was partly sent is carried through.
    async fn stale(&self, row: &Row) -> Flow<Option<End>> {
        let touched = row.actions.iter().any(|action| action.first_tried_ms_ago.is_some());
        if touched || !self.is_old(row) {
            return Ok(None);
        }
        match self.on_stale(row) {
            OnStale::DeadLetter | OnStale::Drop => self.outdated(row, Vec::new()).await,
            // An event that has a plan already would get a second one; its own answer is late but whole.
            OnStale::Reply if row.plan.is_some() => Ok(None),
            OnStale::Reply => {
                let plan = match self.event(row) {
                    Ok(event) => event.reply_text(TOO_LATE).map_or_else(Plan::default, Plan::one),
                    Err(_) => Plan::default(),
                };
                if plan.actions.is_empty() {
                    return self.finish(row, Vec::new()).await.map(Some);
                }
                match self.commit_plan(row, &plan).await? {
                    Some(end) => Ok(Some(end)),
                    None => self.carry_out(row, &plan, true).await.map(Some),
                }
            }
        }
    }

    /// Ends an event that has grown too old, unless a late answer is better than none; `actions` is how far it has got.
    pub(crate) async fn outdated(&self, row: &Row, actions: Vec<ActionOutcome>) -> Flow<Option<End>> {
        if !self.is_old(row) {
            return Ok(None);
        }
        match self.on_stale(row) {
            OnStale::DeadLetter => {
                let error = format!("older than message.max_age ({} s)", self.bot.message.max_age.as_secs());
                self.die(row, actions, "stale", None, error).await.map(Some)
            }
            OnStale::Drop => self.finish(row, actions).await.map(Some),
            OnStale::Reply => Ok(None),
        }
    }

    /// By its age when it was taken up, less what it had to wait for its time.
    fn is_old(&self, row: &Row) -> bool {
        let age = Duration::from_millis(u64::try_from(row.age_ms).unwrap_or(0));
        let age = age.saturating_sub(order::scheduled(&self.engine, row).1);
        age > self.bot.message.max_age && row.replay_generation == 0
    }

    fn on_stale(&self, row: &Row) -> OnStale {
        match self.bot.message.on_stale {
            // Where somebody only asked for a send there is nobody to answer.
            OnStale::Reply if order::is_order(&row.envelope) => OnStale::DeadLetter,
            on_stale => on_stale,
        }
    }

    /// Asks the handler, as often as it takes and its tries allow; short waits are spent in the lane.
    async fn make_plan(&self, row: &mut Row, mut started: bool) -> Flow<Made> {
        if let Some(order) = order::read(&self.engine, row) {
            return self.plan_order(row, order).await;
        }
        membership::heed(&self.engine, &self.bot, &row.envelope).await;
        let retry = &self.bot.message.retry;
        let mut patience = LANE_PATIENCE;
        loop {
            let earlier_starts = row.handler_starts.saturating_sub(u32::from(started));
            if earlier_starts >= POISON_STARTS {
                let error = format!("its handler took the process down {earlier_starts} times");
                return self.die(row, Vec::new(), "poison", None, error).await.map(Made::End);
            }
            // A suspect runs alone, so that what it takes down with it is not suspected in its turn.
            let alone = if earlier_starts > 0 {
                Some(self.permit(&self.quarantine).await?)
            } else {
                None
            };
            let error = match self.ask_handler(row, started).await? {
                Asked::End(end) => return Ok(Made::End(end)),
                Asked::Answer(Ok(plan)) if plan.actions.is_empty() => {
                    return self.finish(row, Vec::new()).await.map(Made::End);
                }
                Asked::Answer(Ok(plan)) => {
                    return Ok(match self.commit_plan(row, &plan).await? {
                        Some(end) => Made::End(end),
                        None => Made::Plan(plan),
                    });
                }
                Asked::Answer(Err(HandlerError::Retry(error))) if row.attempt + 1 < retry.max_attempts => {
                    outside::quoted(&error)
                }
                Asked::Answer(Err(HandlerError::Retry(error) | HandlerError::Refused(error))) => {
                    let error = outside::quoted(&error);
                    let died = self.die(row, Vec::new(), "handler", None, error).await;
                    return died.map(Made::End);
                }
            };
            let attempt = row.attempt + 1;
            let wait = backoff::delay(retry, attempt);
            tracing::warn!(event = %row.envelope.key, attempt, error, ?wait, "the handler failed; it is tried again later");
            if wait > patience {
                let failure = Some(("handler", None, error));
                let parked = self.wait(row, Vec::new(), wait, attempt, self.strict(), failure);
                return parked.await.map(Made::End);
            }
            patience -= wait;
            // Before the wait: a stop or a crash in it must not look like one that the event has caused.
            self.commit(row, Step::Fail { attempt, error }).await?;
            (row.attempt, row.handler_starts, started) = (attempt, 0, false);
            drop(alone);
            self.pause(wait).await?;
        }
    }

    async fn ask_handler(&self, row: &Row, started: bool) -> Flow<Asked> {
        let _running = match started {
            // Its start is counted already: it must come to an end, or the count would speak of a crash.
            true => self.handlers.acquire().await.map_err(|_| Interrupt::Stopped)?,
            false => self.permit(&self.handlers).await?,
        };
        let event = match self.event(row) {
            Ok(event) => event,
            Err(error) => {
                let died = self.die(row, Vec::new(), "unreadable", None, error).await;
                return died.map(Asked::End);
            }
        };
        if !started {
            self.commit(row, Step::Start).await?;
        }
        let begun = Instant::now();
        let answer = self.handle(&row.envelope.key, event).await?;
        telemetry::HANDLER_SECONDS.record(begun.elapsed());
        Ok(Asked::Answer(answer))
    }

    /// Somebody has said what to send: no handler is asked.
    async fn plan_order(&self, row: &Row, order: Result<SendOrder, String>) -> Flow<Made> {
        let dead = |class, error| self.die(row, Vec::new(), class, None, error);
        if order::is_conflict(row) {
            let error = "another message was sent under this Idempotency-Key: this one never is".to_owned();
            return dead(order::CONFLICT, error).await.map(Made::End);
        }
        let plan = match order {
            Ok(order) => order::plan(order),
            Err(error) => return dead("unreadable", error).await.map(Made::End),
        };
        Ok(match self.commit_plan(row, &plan).await? {
            Some(end) => Made::End(end),
            None => Made::Plan(plan),
        })
    }

    /// Runs the handler in a task of its own: its panic is its failure, not the lane's.
    async fn handle(&self, key: &EventKey, event: Event) -> Flow<Result<Plan, HandlerError>> {
        let (handler, key) = (self.handler.clone(), key.clone());
        let mut task = self.engine.tracker.spawn(async move {
            fail_point("handler", &key.key);
            handler.plan(&event).await
        });
        // Not ended by a stop: a start without an end would count as a crash.
        let ended = tokio::time::timeout(HANDLER_TIMEOUT, &mut task).await;
        Ok(match ended {
            Ok(Ok(answer)) => answer,
            // The process ends.
            Ok(Err(ended)) if ended.is_cancelled() => return Err(Interrupt::Stopped),
            // Without its words, which may be the message's: the panic hook has logged where it happened.
            Ok(Err(_)) => Err(HandlerError::Retry("the handler panicked".to_owned())),
            Err(_) => {
                task.abort();
                Err(HandlerError::Retry(format!(
                    "the handler did not end within {} s",
                    HANDLER_TIMEOUT.as_secs()
                )))
            }
        })
    }

    /// Commits a plan; answers the event's end when that cannot be.
    async fn commit_plan(&self, row: &Row, plan: &Plan) -> Flow<Option<End>> {
        let actions = plan
            .actions
            .iter()
            .enumerate()
            .map(|(index, action)| NewAction {
                kind: action.kind(),
                target: action.target().to_owned(),
                uuid: action_uuid::action_uuid(&row.envelope.key, index_u32(index), action.kind(), 0),
                // A pool's first action is tried when its sender is chosen.
                tried: index == 0 && !Pool::is_face(&self.bot),
            })
            .collect();
        match self.engine.keys.seal(&row.envelope, Part::Plan, plan.encode()) {
            Ok(plan) => {
                // A message that one of these made may be this very one: then the plan is refused, once they are recorded.
                self.engine.unrecorded.passed(&self.engine.people, &self.bot, row).await;
                match self.commit(row, Step::Plan { plan, actions }).await {
                    Ok(()) => {}
                    Err(Interrupt::Lost) if self.is_ours(row).await => {
                        tracing::debug!(event = %row.envelope.key, bot = %self.bot.id, "a message of our own: it is not answered");
                        telemetry::OWN_MESSAGES.add(1);
                        return self.finish(row, Vec::new()).await.map(Some);
                    }
                    Err(interrupt) => return Err(interrupt),
                }
                fail_point("W1", &row.envelope.key.key);
                Ok(None)
            }
            Err(error) => self
                .die(row, Vec::new(), "handler", None, error.to_string())
                .await
                .map(Some),
        }
    }

    /// Whether the event is a message that we sent. A database that is away says so at the next commit.
    async fn is_ours(&self, row: &Row) -> bool {
        order::is_message(&row.envelope) && matches!(self.engine.store.is_ours(&row.envelope.key).await, Ok(true))
    }

    async fn carry_out(&self, row: &Row, plan: &Plan, first_send: bool) -> Flow<End> {
        let mut sent = Vec::new();
        // Until what became of them is committed.
        let mut open = Vec::new();
        for (index, action) in plan.actions.iter().enumerate() {
            let index = index_u32(index);
            let stored = row.actions.iter().find(|stored| stored.index == index);
            if stored.is_some_and(|stored| stored.state == ActionState::Sent) {
                continue;
            }
            let mut attempt = ActionRun {
                run: self,
                row,
                action,
                index,
                uuid: stored.map_or_else(
                    || action_uuid::action_uuid(&row.envelope.key, index, action.kind(), 0),
                    |stored| stored.uuid.clone(),
                ),
                first_tried: stored
                    .and_then(|stored| stored.first_tried_ms_ago)
                    .map(|ago| Duration::from_millis(u64::try_from(ago).unwrap_or(0))),
                counted: first_send && index == 0 && !Pool::is_face(&self.bot),
                sender: Sender::new(&self.bot, stored.and_then(|stored| stored.sender.clone())),
                clean: stored.is_none_or(|stored| stored.refused_before || stored.first_tried_ms_ago.is_none()),
                since: Instant::now(),
                open: None,
            };
            match attempt.send().await? {
                Sent::Done(outcome) => {
                    sent.push(outcome);
                    open.extend(attempt.open.take());
                    if usize::try_from(index + 1).is_ok_and(|next| next < plan.actions.len()) {
                        self.commit(row, Step::Progress(std::mem::take(&mut sent))).await?;
                        open.clear();
                    }
                }
                Sent::End(end) => return Ok(end),
            }
        }
        let waited = time::now_ms().saturating_sub(row.envelope.received_ms);
        telemetry::ANSWER_SECONDS.record(Duration::from_millis(u64::try_from(waited).unwrap_or(0)));
        self.finish(row, sent).await
    }

    fn event(&self, row: &Row) -> Result<Event, String> {
        let body = self.open(row, Part::Body, &row.envelope.body)?;
        let event = Event::parse(&row.envelope, &body).map_err(|error| error.to_string())?;
        if let Some(message) = &event.message {
            let person = match message.chat_type.as_str() {
                "p2p" => Some(message.sender.open_id.as_str()),
                _ => None,
            };
            if !message.chat_type.is_empty() {
                let app = &self.bot.credentials.app_id;
                self.engine.people.learn(app, &message.chat_id, person);
            }
        }
        Ok(event)
    }

    fn open(&self, row: &Row, part: Part, bytes: &Bytes) -> Result<Bytes, String> {
        self.engine
            .keys
            .open(&row.envelope, part, bytes)
            .map_err(|error| error.to_string())
    }

    async fn finish(&self, row: &Row, actions: Vec<ActionOutcome>) -> Flow<End> {
        self.commit(row, Step::Finish(actions)).await?;
        fail_point("W5", &row.envelope.key.key);
        Ok(End::Settled)
    }

    /// Whether later events of the chat wait behind one that failed.
    pub(crate) fn strict(&self) -> bool {
        self.bot.message.order == Order::Strict
    }

    pub(crate) async fn wait(
        &self,
        row: &Row,
        actions: Vec<ActionOutcome>,
        due_in: Duration,
        attempt: u32,
        hold: bool,
        failure: Option<(&'static str, Option<i64>, String)>,
    ) -> Flow<End> {
        self.commit(
            row,
            Step::Wait(Wait {
                actions,
                due_in,
                attempt,
                hold,
                failure,
            }),
        )
        .await?;
        fail_point("R1", &row.envelope.key.key);
        Ok(End::Waiting { hold })
    }

    pub(crate) async fn die(
        &self,
        row: &Row,
        actions: Vec<ActionOutcome>,
        class: &'static str,
        code: Option<i64>,
        error: String,
    ) -> Flow<End> {
        tracing::error!(event = %row.envelope.key, bot = %self.bot.id, class, code, %error, "event given up: see the dead letters");
        self.commit(
            row,
            Step::Die {
                actions,
                class,
                code,
                error,
            },
        )
        .await?;
        fail_point("D1", &row.envelope.key.key);
        telemetry::DEAD_LETTERS.add(class);
        Ok(End::Settled)
    }

    pub(crate) async fn commit(&self, row: &Row, step: Step) -> Flow<()> {
        let change = Change {
            key: row.envelope.key.clone(),
            fence: row.fence,
            step,
        };
        if self.engine.commits.apply(change).await? {
            Ok(())
        } else {
            Err(Interrupt::Lost)
        }
    }

    async fn permit<'a>(&self, semaphore: &'a tokio::sync::Semaphore) -> Flow<tokio::sync::SemaphorePermit<'a>> {
        tokio::select! {
            permit = semaphore.acquire() => permit.map_err(|_| Interrupt::Stopped),
            () = self.stop.cancelled() => Err(Interrupt::Stopped),
        }
    }

    /// Waits because it was told to: by the platform, by a retry, by the time of a scheduled send.
    pub(crate) async fn pause(&self, pause: Duration) -> Flow<()> {
        let _told = self.urgency.told_to_wait();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.stop.cancelled() => Err(Interrupt::Stopped),
        }
    }
}

enum Made {
    Plan(Plan),
    End(End),
}

enum Asked {
    Answer(Result<Plan, HandlerError>),
    End(End),
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
