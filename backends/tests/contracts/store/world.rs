//! A store with a database of its own, and short names for what every promise needs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openclaw_backends::sqlite::Sqlite;
use openclaw_backends::stores::postgres::Postgres;
use openclaw_backends::stores::sqlite::SqliteStore;
use openclaw_common::bot::BotId;
use openclaw_common::config::Database;
use openclaw_common::envelope::{Envelope, EventKey, Origin, SEND};
use openclaw_common::secret::Secret;
use openclaw_common::store::{
    ActionOutcome, ActionState, Arrival, Begun, Change, Intent, NewAction, Room, Row, State, Step, Store, Wait,
};
use openclaw_common::time::now_ms;
use sqlx::{AssertSqlSafe, PgPool};
use testkit::{PgBouncer, Servers};

pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    tables: Tables,
}

/// The tables themselves: for moving time and for looking at what the contract does not show.
enum Tables {
    Sqlite {
        database: Sqlite,
        _folder: tempfile::TempDir,
    },
    // The pool is named first, so it is gone when the database is dropped.
    Postgres {
        pool: PgPool,
        database: testkit::Database,
        /// Through which the store goes, when there is one.
        bouncer: Option<PgBouncer>,
    },
}

impl Tables {
    /// Where a store on PostgreSQL connects.
    fn url(&self) -> Option<String> {
        match self {
            Self::Sqlite { .. } => None,
            Self::Postgres { database, bouncer, .. } => Some(bouncer.as_ref().map_or_else(
                || database.url().to_owned(),
                |bouncer| {
                    let server = database.address().to_string();
                    database.url().replace(&server, &bouncer.address().to_string())
                },
            )),
        }
    }
}

impl World {
    pub(super) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Sqlite::open(&folder.path().join("openclaw.db")).await.unwrap();
        let store = Arc::new(SqliteStore::new(database.clone()));
        Self {
            store,
            tables: Tables::Sqlite {
                database,
                _folder: folder,
            },
        }
    }

    pub(super) async fn postgres() -> Self {
        let world = Self::empty_postgres().await;
        world.store.migrate().await.unwrap();
        world
    }

    /// A database that nobody has migrated yet.
    pub(super) async fn empty_postgres() -> Self {
        Self::on(Servers::postgres().await, None)
    }

    /// The store reaches its database through a PgBouncer with these settings.
    pub(super) async fn pooled(settings: &[&str]) -> Self {
        let database = Servers::postgres().await;
        let bouncer = PgBouncer::start(database.address(), settings).await;
        Self::on(database, Some(bouncer))
    }

    fn on(database: testkit::Database, bouncer: Option<PgBouncer>) -> Self {
        let pool = PgPool::connect_lazy(database.url()).unwrap();
        let tables = Tables::Postgres {
            pool,
            database,
            bouncer,
        };
        Self {
            store: Arc::new(connect(&tables.url().unwrap())),
            tables,
        }
    }

    /// The store as another process sees it.
    pub(super) fn other(&self) -> Arc<dyn Store> {
        match &self.tables {
            // The embedded store has one process only, but its handles are many.
            Tables::Sqlite { database, .. } => Arc::new(SqliteStore::new(database.clone())),
            Tables::Postgres { .. } => Arc::new(connect(&self.tables.url().unwrap())),
        }
    }

    pub(super) fn database(&self) -> Option<&testkit::Database> {
        match &self.tables {
            Tables::Sqlite { .. } => None,
            Tables::Postgres { database, .. } => Some(database),
        }
    }

    pub(super) async fn execute(&self, statement: &str) {
        let query = AssertSqlSafe(statement.to_owned());
        match &self.tables {
            Tables::Sqlite { database, .. } => drop(sqlx::query(query).execute(&database.writer).await.unwrap()),
            Tables::Postgres { pool, .. } => drop(sqlx::query(query).execute(pool).await.unwrap()),
        }
    }

    /// One number from the tables.
    pub(super) async fn number(&self, statement: &str) -> i64 {
        let query = AssertSqlSafe(statement.to_owned());
        match &self.tables {
            Tables::Sqlite { database, .. } => sqlx::query_scalar(query).fetch_one(&database.writer).await.unwrap(),
            Tables::Postgres { pool, .. } => sqlx::query_scalar(query).fetch_one(pool).await.unwrap(),
        }
    }

    /// Moves a time of one event into the past, as if `ago` had gone by.
    pub(super) async fn pass(&self, table: &str, column: &str, key: &str, ago: Duration) {
        let ms = ago.as_millis();
        let earlier = match &self.tables {
            Tables::Sqlite { .. } => format!("{column} - {ms}"),
            Tables::Postgres { .. } => format!("{column} - {ms} * interval '1 millisecond'"),
        };
        self.execute(&format!("UPDATE {table} SET {column} = {earlier} WHERE key = '{key}'"))
            .await;
    }

    /// Takes up one new event whose handler starts, in chat `oc_1`.
    pub(super) async fn start(&self, key: &str) -> Row {
        taken(self.begin(vec![arrival(key, "oc_1", Intent::Start)]).await.remove(0))
    }

    pub(super) async fn begin(&self, arrivals: Vec<Arrival>) -> Vec<Begun> {
        let answers = self.store.begin(&arrivals).await.unwrap();
        assert_eq!(answers.len(), arrivals.len());
        answers
    }

    pub(super) async fn step(&self, row: &Row, step: Step) -> bool {
        self.store.apply(&[change(row, step)]).await.unwrap()[0]
    }

    /// A new event that has a plan of one action, tried once.
    pub(super) async fn planned(&self, key: &str) -> Row {
        let row = self.start(key).await;
        assert!(self.step(&row, plan(1)).await);
        row
    }

    /// A new event that died with the given outcome of its only action.
    pub(super) async fn dead(&self, key: &str, state: ActionState) -> Row {
        let row = self.planned(key).await;
        assert!(self.step(&row, die(vec![outcome(0, state)])).await);
        row
    }

    pub(super) async fn count(&self, state: State) -> u64 {
        self.store
            .count(Some(&bot()))
            .await
            .unwrap()
            .get(&state)
            .copied()
            .unwrap_or(0)
    }

    /// The row of an unfinished event, taken up again.
    pub(super) async fn again(&self, key: &str) -> Row {
        taken(self.begin(vec![arrival(key, "oc_1", Intent::Hold)]).await.remove(0))
    }

    pub(super) async fn take_due(&self, limit: u32) -> Vec<Row> {
        self.store.take_due(&bot(), room(&[], 1000, limit)).await.unwrap()
    }
}

/// Room for so many rows of either kind of chat.
pub(super) fn room(full: &[Arc<str>], per_chat: u32, limit: u32) -> Room<'_> {
    Room {
        full,
        per_chat,
        answers: limit,
        others: limit,
    }
}

pub(super) fn connect(url: &str) -> Postgres {
    Postgres::connect(&Secret::new(url), &Database::default()).unwrap()
}

pub(super) fn bot() -> BotId {
    BotId::new("bot1").unwrap()
}

pub(super) fn key(key: &str) -> EventKey {
    EventKey::new("cli_1", key)
}

pub(super) fn envelope(name: &str, chat: &str) -> Envelope {
    Envelope {
        key: key(name),
        bot: bot(),
        origin: Origin::Push,
        event_type: "im.message.receive_v1".into(),
        chat: chat.into(),
        tenant: "tenant".into(),
        created_ms: now_ms() - 20,
        received_ms: now_ms(),
        traceparent: None,
        body: Bytes::from(format!("{{\"key\":\"{name}\"}}")),
    }
}

pub(super) fn arrival(key: &str, chat: &str, intent: Intent) -> Arrival {
    Arrival {
        envelope: Arc::new(envelope(key, chat)),
        intent,
    }
}

/// A call of the send API.
pub(super) fn notification(key: &str, chat: &str, intent: Intent) -> Arrival {
    let envelope = Envelope {
        origin: Origin::Send,
        event_type: SEND.into(),
        ..envelope(key, chat)
    };
    Arrival {
        envelope: Arc::new(envelope),
        intent,
    }
}

pub(super) fn taken(begun: Begun) -> Row {
    match begun {
        Begun::Taken(row) => row,
        other => panic!("{other:?} instead of taken"),
    }
}

pub(super) fn is_settled(begun: &Begun) -> bool {
    matches!(begun, Begun::Settled { parked: false })
}

pub(super) fn change(row: &Row, step: Step) -> Change {
    Change {
        key: row.envelope.key.clone(),
        fence: row.fence,
        step,
    }
}

/// A plan of `count` actions, the first one sent right after.
pub(super) fn plan(count: u32) -> Step {
    plan_of(b"\x00the plan\xff", count)
}

pub(super) fn plan_of(plan: &[u8], count: u32) -> Step {
    let actions = (0..count)
        .map(|index| NewAction {
            kind: "reply",
            target: "oc_1".to_owned(),
            uuid: format!("uuid-{index}"),
            tried: index == 0,
        })
        .collect();
    Step::Plan {
        plan: Bytes::copy_from_slice(plan),
        actions,
    }
}

pub(super) fn outcome(index: u32, state: ActionState) -> ActionOutcome {
    let message_id = (state == ActionState::Sent).then(|| format!("om_sent_{index}"));
    let code = match state {
        ActionState::Sent => Some(0),
        ActionState::Refused => Some(230_002),
        ActionState::Planned | ActionState::Unknown => None,
    };
    ActionOutcome {
        index,
        state,
        message_id,
        code,
        refused: state == ActionState::Refused,
        tries: 0,
    }
}

pub(super) fn wait(due_in: Duration, hold: bool) -> Step {
    Step::Wait(Wait {
        actions: Vec::new(),
        due_in,
        attempt: 1,
        hold,
        failure: None,
    })
}

pub(super) fn die(actions: Vec<ActionOutcome>) -> Step {
    Step::Die {
        actions,
        class: "permanent",
        code: Some(230_002),
        error: "the bot is not in the chat".to_owned(),
    }
}

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// The keys of rows, in their order.
pub(super) fn keys(rows: &[Row]) -> Vec<String> {
    rows.iter().map(|row| row.envelope.key.key.to_string()).collect()
}
