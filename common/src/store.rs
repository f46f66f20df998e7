//! Seam 2: the Store. Nothing finished may be lost; it is the authority on what has happened to an event.
//!
//! Two backends, one conformance suite (`backends/tests/contracts/store.rs`): PostgreSQL and SQLite
//! (`backends/src/stores/`).
//!
//! ```text
//! event:   received ─▶ planned ─▶ done | waiting | dead        waiting ─▶ received/planned when due
//!                                                              dead ─▶ waiting by replay only
//! action:  planned ─▶ sent | refused | unknown
//! ```
//!
//! Whoever takes an event up raises its row's **fence**; every later write names the fence it was given and the states it
//! expects, and changes nothing otherwise. There are no leases: a row that nobody holds any more is found again by the
//! worker that next serves the bot ([`Store::unfinished`]). Due times use the database's clock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::bot::BotId;
use crate::envelope::{Envelope, EventKey};
use crate::priority::Priority;
use crate::seal::Part;

mod dead_letters;
mod inspection;
mod tenants;

pub use dead_letters::{Burial, DeadFilter, DeadLetter, Replay, Replayed, UnknownChoice};
pub use inspection::{ActionReport, Inspection, Standing};
pub use tenants::{Calls, Spent, Stop, Stopped, Tally};

/// What has happened to every event.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// How many transactions it writes beside each other. More would only wait for a connection.
    fn writers(&self) -> usize;

    /// Takes up delivered events, one commit for all. Input order is delivery order: new rows get their `position` in it.
    /// A message that we sent ends here. The answers stand in the input's order. A second copy of an event in one batch is settled: its row is committed and
    /// the first copy's holder owns it.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn begin(&self, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError>;

    /// Applies guarded changes, one commit for all, those of one event in their order; `false` where the row has another
    /// owner or state by now. A change whose answer was lost may be repeated: a row that this very fence has already
    /// brought to the change's target state counts as applied. A plan for a message that we sent is not applied: its id may
    /// have become known only after [`Store::begin`] ([`Store::is_ours`] says so).
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn apply(&self, changes: &[Change]) -> Result<Vec<bool>, StoreError>;

    /// Whether the event is a message that we sent: whichever bot's send was answered with its id.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn is_ours(&self, key: &EventKey) -> Result<bool, StoreError>;

    /// Takes up every row of `bot` that is neither finished nor waiting, oldest position first, and counts the rows that
    /// later events of their chat have to wait behind. For a worker that begins to serve the bot, and for one that cannot
    /// be sure any more what it has taken up: rows in `held` stay as they are. At most [`UNFINISHED_PAGE`] at once: a full
    /// page means that there may be more, which the next call finds when these are in `held`.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn unfinished(&self, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError>;

    /// Takes up waiting rows of `bot` whose time has come, as many as there is `room` for, none behind an earlier holding
    /// row of its chat that is not due. Chats come by their most urgent due row, then by how long that has been due; of a
    /// chat its first rows by position come, whatever their priority, so that its order holds and an answer pulls along
    /// what stands before it. Only replays come after all else of their chat. The rows are given in order of position.
    ///
    /// # Errors
    /// When the database cannot answer. Rows may have been taken up all the same; [`Store::unfinished`] finds them.
    async fn take_due(&self, bot: &BotId, room: Room<'_>) -> Result<Vec<Row>, StoreError>;

    /// When the next waiting row of each of `bots` is due, from now; bots with none are left out.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn next_due(&self, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError>;

    /// How many rows of each of `bots` wait, counted up to [`WAITING_COUNTED`]; bots with none are left out.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn waiting(&self, bots: &[BotId]) -> Result<HashMap<BotId, u64>, StoreError>;

    /// Rows that wait for more than `overdue` past their time: the sweeper's safety net, normally empty.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn overdue(&self, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError>;

    /// Adds dead letters for messages that never became an event row (unreadable, or killed by the broker). An event that
    /// is already finished, waiting or dead is left alone.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn bury(&self, deaths: &[Burial]) -> Result<(), StoreError>;

    /// How events stand; those that the Store does not know are left out. Looking takes nothing up.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn standing(&self, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError>;

    /// Everything about one event, for people. Looking takes nothing up.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn inspect(&self, key: &EventKey) -> Result<Option<Inspection>, StoreError>;

    /// Bodies and plans of what `bots` have still to do, a few ([`PARTS_A_MANNER`]) for each [manner](crate::seal::manner) in
    /// which they are sealed, or not: who cannot open them has the wrong key ring. Looks at [`PARTS_ROWS`] rows of a bot and
    /// state, not at all of them.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn parts(&self, bots: &[BotId]) -> Result<Vec<StoredPart>, StoreError>;

    /// Dead letters by filter, newest first unless the filter says otherwise, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError>;

    /// Dead letters by filter, counted by class.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn count_dead(&self, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError>;

    /// Turns dead events back into waiting ones, each due `spacing` after the one before it; a spaced order also keeps that
    /// distance from what other replays of these bots have left waiting, so that several together are no faster than one.
    /// Sent actions stay sent. One that is no longer dead is left alone, so concurrent and repeated calls are harmless.
    /// Writes the audit.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn replay(&self, order: &Replay) -> Result<Replayed, StoreError>;

    /// Closes dead letters for good. Writes the audit.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn drop_dead(&self, ids: &[i64], who: &str) -> Result<u64, StoreError>;

    /// How the events of `bot` stand, by state: for reports, readiness and tests.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn count(&self, bot: Option<&BotId>) -> Result<HashMap<State, u64>, StoreError>;

    /// Deletes events that ended (`done` or `dead`) longer than `retention` ago, with their actions and dead letters, at
    /// most `limit`; how many.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, StoreError>;

    /// Stops a tenant until [`Store::resume_tenants`]; whether this call did. The first reason stays.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn stop_tenant(&self, stop: &Stop) -> Result<bool, StoreError>;

    /// The tenants that are stopped.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn stopped_tenants(&self) -> Result<Vec<Stopped>, StoreError>;

    /// Lets stopped tenants go on; how many were stopped. Writes the audit.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn resume_tenants(&self, tenants: &[String], who: &str) -> Result<u64, StoreError>;

    /// Adds calls to this month's, which the database's clock names. A tally whose number its writer has stored already
    /// changes nothing: one whose answer was lost may be repeated.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn add_calls(&self, tally: &Tally) -> Result<(), StoreError>;

    /// This month's calls.
    ///
    /// # Errors
    /// When the database cannot answer.
    async fn spent(&self) -> Result<Spent, StoreError>;

    /// Notes that a tenant has used so many per cent of its budget this month; whether nobody has before.
    ///
    /// # Errors
    /// When nothing could be committed.
    async fn note_warning(&self, tenant: &str, percent: u32) -> Result<bool, StoreError>;

    /// Whether the database answers and has this program's schema.
    ///
    /// # Errors
    /// [`StoreError::Schema`] when `openclaw migrate` has to run, else what is wrong.
    async fn ready(&self) -> Result<(), StoreError>;

    /// Brings the schema to this program's version. Safe to run from several processes at once.
    ///
    /// # Errors
    /// When the database cannot be changed.
    async fn migrate(&self) -> Result<(), StoreError>;
}

/// Rows that [`Store::unfinished`] takes up at once: a bot with any number of them must not outlast a statement's time.
pub const UNFINISHED_PAGE: usize = 500;

/// [`Store::waiting`] counts no further: a number for a graph must not cost a walk over millions of rows.
pub const WAITING_COUNTED: u32 = 100_000;

/// [`Store::parts`] looks at so many rows of a bot and state: at a start nobody waits for a walk over a backlog.
pub const PARTS_ROWS: u32 = 100;

/// [`Store::parts`] gives so many of each manner: a single one may be damaged.
pub const PARTS_A_MANNER: u32 = 3;

/// A body or plan as it is stored.
#[derive(Clone, Debug)]
pub struct StoredPart {
    /// Its event, without the body.
    pub event: Envelope,
    /// Which part of it.
    pub part: Part,
    /// Sealed or not.
    pub bytes: Bytes,
}

/// Why the Store did not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The network's or the server's fault: retry. Whether a commit took place is not known; every change is guarded, so
    /// repeating it is safe.
    #[error("store: {0}")]
    Unavailable(String),
    /// The operator's, or that of a failover that is under way: retry. Nothing was changed.
    #[error(
        "store: the database is read-only (a standby, or a primary that was stood down): `database_url` has to lead to the primary"
    )]
    ReadOnly,
    /// The operator's: `openclaw migrate` has to run.
    #[error("store: the schema is version {found}, this program needs {needed}: run `openclaw migrate`")]
    Schema {
        /// What the database has; 0 when it has none.
        found: i64,
        /// What this program needs.
        needed: i64,
    },
    /// Ours: a statement or a row is wrong. Do not retry.
    #[error("store: {0}")]
    Internal(String),
}

/// An event's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A row exists, no plan yet.
    Received,
    /// The plan is committed.
    Planned,
    /// Nobody holds it; it is taken up when due.
    Waiting,
    /// Finished.
    Done,
    /// Given up; has a dead letter.
    Dead,
}

impl State {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Planned => "planned",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }

    /// The inverse of [`State::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Received, Self::Planned, Self::Waiting, Self::Done, Self::Dead]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// An action's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActionState {
    /// Not finished; may have been tried.
    Planned,
    /// Feishu has it.
    Sent,
    /// Feishu will never take it.
    Refused,
    /// Nobody can tell, and the uuid's hour is over.
    Unknown,
}

impl ActionState {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Sent => "sent",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }

    /// The inverse of [`ActionState::as_str`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Planned, Self::Sent, Self::Refused, Self::Unknown]
            .into_iter()
            .find(|state| state.as_str() == text)
    }
}

/// A delivered event to take up.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The event.
    pub envelope: Arc<Envelope>,
    /// What to do with it when it is new.
    pub intent: Intent,
}

/// What becomes of a **new** row. A row that exists keeps its course, only its fence is raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Its handler starts at once: counts one handler start.
    Start,
    /// It waits its turn in memory.
    Hold,
    /// Its lane is full: `waiting`, due now, and later events of its chat wait behind it.
    Park,
}

/// The answer to an [`Arrival`].
#[derive(Clone, Debug)]
pub enum Begun {
    /// It is ours, under the row's fence.
    Taken(Row),
    /// It is a message that we sent, which the platform has pushed back as if a person had written it: its row is finished.
    Ours,
    /// It is finished or in the waiting room: acknowledge the delivery, nothing else.
    Settled {
        /// Whether this call put it there ([`Intent::Park`]).
        parked: bool,
    },
}

/// An event's row, taken up.
#[derive(Clone, Debug)]
pub struct Row {
    /// The event as first stored (a re-push may differ in detail; the first copy counts).
    pub envelope: Arc<Envelope>,
    /// Ours until somebody raises it.
    pub fence: i64,
    /// Its place in its chat.
    pub position: i64,
    /// Whether this call created it.
    pub new: bool,
    /// Finished tries.
    pub attempt: u32,
    /// How often it was replayed.
    pub replay_generation: u32,
    /// Handler starts that were followed neither by a plan nor by a failure in good order: what the event may have killed.
    pub handler_starts: u32,
    /// Milliseconds since the event was accepted, by the database's clock at accept time of the row.
    pub age_ms: i64,
    /// Whether later events of the chat had to wait behind it while it waited.
    pub held: bool,
    /// The committed plan, if any; the worker crate writes and reads it.
    pub plan: Option<Bytes>,
    /// Its actions by index; empty without a plan.
    pub actions: Vec<ActionRow>,
}

impl Row {
    /// How urgent it is.
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority::of(&self.envelope, self.replay_generation)
    }
}

/// One action of a planned event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRow {
    /// Its place in the plan.
    pub index: u32,
    /// How it stands.
    pub state: ActionState,
    /// Milliseconds since it was first tried, by the database's clock; `None`: never.
    pub first_tried_ms_ago: Option<i64>,
    /// Whether the last try ended in a definite refusal, so that no copy can exist.
    pub refused_before: bool,
    /// The uuid its requests carry.
    pub uuid: String,
    /// Feishu's id of the visible message.
    pub message_id: Option<String>,
    /// The member of a pool that was chosen for it ([`Step::Choose`]).
    pub sender: Option<String>,
}

/// A guarded change of one event.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which event.
    pub key: EventKey,
    /// The fence it was taken up with.
    pub fence: i64,
    /// What happens.
    pub step: Step,
}

/// What happens to an event.
#[derive(Clone, Debug)]
pub enum Step {
    /// Its handler starts: one more handler start.
    Start,
    /// Its handler failed in good order and is asked again by the same worker, which keeps it in its lane meanwhile.
    Fail {
        /// Finished tries so far.
        attempt: u32,
        /// One sentence for the operator.
        error: String,
    },
    /// `received` → `planned`, with its actions. The first action counts as tried now.
    Plan {
        /// What [`Row::plan`] gives back.
        plan: Bytes,
        /// One for each action of the plan.
        actions: Vec<NewAction>,
    },
    /// An action is about to be sent (the first one already counts as tried by `Plan`).
    Try {
        /// The action's index.
        index: u32,
    },
    /// An action whose outcome nobody can tell is about to be sent as a new message: the platform must not suppress it, and
    /// its hour begins anew. Counts as tried now.
    Renew {
        /// The action's index.
        index: u32,
        /// At most 50 characters, never used before.
        uuid: String,
    },
    /// A pool's action is about to be sent through this member, and through no other until every try was definitely
    /// refused. Counts as tried now.
    Choose {
        /// The action's index.
        index: u32,
        /// The member's id.
        sender: String,
    },
    /// Actions have ended, the event goes on.
    Progress(Vec<ActionOutcome>),
    /// → `done`. An event without a plan may finish too (an empty plan is never written).
    Finish(Vec<ActionOutcome>),
    /// → `waiting`.
    Wait(Wait),
    /// → `dead`, with its dead letter in the same transaction.
    Die {
        /// How its actions stand.
        actions: Vec<ActionOutcome>,
        /// `permanent`, `exhausted`, `ambiguous`, `stale`, `poison`, `handler`, …
        class: &'static str,
        /// Feishu's code, if it gave one.
        code: Option<i64>,
        /// One sentence for the operator.
        error: String,
    },
}

/// An event goes to the waiting room.
#[derive(Clone, Debug)]
pub struct Wait {
    /// How its actions stand.
    pub actions: Vec<ActionOutcome>,
    /// From now, by the database's clock.
    pub due_in: Duration,
    /// Finished tries so far.
    pub attempt: u32,
    /// Whether later events of the chat have to wait behind it.
    pub hold: bool,
    /// Why, for the operator: class, Feishu's code, sentence. `None` when nothing failed.
    pub failure: Option<(&'static str, Option<i64>, String)>,
}

/// An action of a new plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAction {
    /// `create`, `reply`, …
    pub kind: &'static str,
    /// Whom it goes to, for reports.
    pub target: String,
    /// At most 50 characters.
    pub uuid: String,
    /// Marks it tried at once: it is sent right after this commit.
    pub tried: bool,
}

/// How an action ended, or how its last try did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionOutcome {
    /// Its place in the plan.
    pub index: u32,
    /// Where it stands now.
    pub state: ActionState,
    /// Feishu's id of the visible message.
    pub message_id: Option<String>,
    /// Feishu's code, if it answered.
    pub code: Option<i64>,
    /// Whether the last try was definitely refused.
    pub refused: bool,
    /// Tries since the last commit.
    pub tries: u32,
}

/// How much [`Store::take_due`] may take.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    /// Chats that have no room.
    pub full: &'a [Arc<str>],
    /// Rows of one chat.
    pub per_chat: u32,
    /// Rows of chats in which an answer is due.
    pub answers: u32,
    /// Rows of all other chats: notifications and replays.
    pub others: u32,
}

/// Rows in the Store that later events of their chat wait behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    /// How many.
    pub rows: u64,
    /// The most urgent one's priority.
    pub priority: Priority,
    /// The first one's position. Replays do not count: they have lost their place, and nothing waits for it.
    pub first: Option<i64>,
}

/// What a worker finds when it begins to serve a bot.
#[derive(Clone, Debug, Default)]
pub struct Unfinished {
    /// Taken up, by position.
    pub rows: Vec<Row>,
    /// Chats with waiting rows that later events wait behind.
    pub held: HashMap<Arc<str>, Behind>,
}
