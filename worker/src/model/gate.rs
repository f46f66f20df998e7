//! The gates: wherever a run touches the world it stops, says what it is about to do, and waits to be let on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{
    self, Arrival, Begun, Burial, Change, DeadFilter, DeadLetter, Inspection, Replay, Replayed, Room, Row, Spent,
    Standing, State, Step, Stopped, Store, StoreError, StoredPart, Tally, Unfinished,
};
use tokio::sync::{Notify, mpsc, oneshot};

use super::tables::Tables;
use super::{Flaw, platform};
use crate::process::End;

/// A run that stands at a gate.
pub(super) struct Stop {
    pub(super) run: u64,
    pub(super) at: At,
}

/// Which gate.
pub(super) enum At {
    /// A commit. It takes place when the run is let on.
    Commit { step: Step, go: oneshot::Sender<Go> },
    /// A request has reached the platform.
    Send {
        request: platform::Request,
        answer: oneshot::Sender<platform::Answer>,
    },
    /// Nothing is left to do.
    Ended { end: End },
    /// Deliveries are about to be taken up; only [`super::taking_up`] has this gate, and nobody is let on.
    Begin,
}

/// How a commit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    /// It is made and answered.
    On,
    /// It is made, and its answer is lost on the way.
    Unanswered,
}

/// The real Store, with a gate before every change of one run.
pub(super) struct Gate {
    pub(super) store: Arc<dyn Store>,
    pub(super) tables: Tables,
    pub(super) run: u64,
    pub(super) line: mpsc::UnboundedSender<Stop>,
    pub(super) flaw: Option<Flaw>,
    /// A plan that [`Flaw::PlanAfterSend`] keeps back.
    pub(super) kept_back: Mutex<Option<Change>>,
    /// Told when a change is made whose answer is lost.
    pub(super) made: Arc<Notify>,
}

impl Gate {
    async fn change(&self, mut change: Change) -> Result<bool, StoreError> {
        match self.flaw {
            Some(Flaw::NoFence) => change.fence = self.tables.fence(&change.key).await.unwrap_or(change.fence),
            Some(Flaw::PlanAfterSend) if matches!(change.step, Step::Plan { .. }) => {
                *self.kept_back.lock().unwrap() = Some(change);
                return Ok(true);
            }
            _ => {}
        }
        let kept_back = self.kept_back.lock().unwrap().take();
        let mut changes: Vec<Change> = kept_back.into_iter().collect();
        changes.push(change);
        let applied = self.store.apply(&changes).await?;
        Ok(applied.iter().all(|applied| *applied))
    }
}

/// The Store's methods that stop at a gate, and those that are passed on as they are: one line each.
macro_rules! store {
    ({ $($gated:tt)* } $($name:ident($($argument:ident: $of:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl Store for Gate {
            $($gated)*

            $(async fn $name(&self, $($argument: $of),*) -> Result<$answer, StoreError> {
                self.store.$name($($argument),*).await
            })*
        }
    };
}

store! {
    {
        fn writers(&self) -> usize {
            self.store.writers()
        }

        async fn apply(&self, changes: &[Change]) -> Result<Vec<bool>, StoreError> {
            let mut applied = Vec::with_capacity(changes.len());
            for change in changes {
                let (go, let_on) = oneshot::channel();
                let at = At::Commit {
                    step: change.step.clone(),
                    go,
                };
                drop(self.line.send(Stop { run: self.run, at }));
                let Ok(go) = let_on.await else {
                    // The process is dead; what waits in it waits for ever.
                    return std::future::pending().await;
                };
                applied.push(self.change(change.clone()).await?);
                if go == Go::Unanswered {
                    self.made.notify_one();
                    return Err(StoreError::Unavailable("the answer was lost".to_owned()));
                }
            }
            Ok(applied)
        }

        async fn begin(&self, arrivals: &[Arrival]) -> Result<Vec<Begun>, StoreError> {
            assert!(!arrivals.is_empty());
            let at = At::Begin;
            drop(self.line.send(Stop { run: self.run, at }));
            std::future::pending().await
        }
    }

    is_ours(key: &EventKey) -> bool;
    unfinished(bot: &BotId, held: &[EventKey]) -> Unfinished;
    take_due(bot: &BotId, room: Room<'_>) -> Vec<Row>;
    next_due(bots: &[BotId]) -> HashMap<BotId, Duration>;
    waiting(bots: &[BotId]) -> HashMap<BotId, u64>;
    overdue(overdue: Duration) -> Vec<(BotId, u64)>;
    bury(deaths: &[Burial]) -> ();
    standing(keys: &[EventKey]) -> HashMap<EventKey, Standing>;
    inspect(key: &EventKey) -> Option<Inspection>;
    parts(bots: &[BotId]) -> Vec<StoredPart>;
    dead_letters(filter: &DeadFilter, limit: u32) -> Vec<DeadLetter>;
    count_dead(filter: &DeadFilter) -> HashMap<String, u64>;
    replay(order: &Replay) -> Replayed;
    drop_dead(ids: &[i64], who: &str) -> u64;
    count(bot: Option<&BotId>) -> HashMap<State, u64>;
    purge(retention: Duration, limit: u32) -> u64;
    stop_tenant(stop: &store::Stop) -> bool;
    stopped_tenants() -> Vec<Stopped>;
    resume_tenants(tenants: &[String], who: &str) -> u64;
    add_calls(tally: &Tally) -> ();
    spent() -> Spent;
    note_warning(tenant: &str, percent: u32) -> bool;
    ready() -> ();
    migrate() -> ();
}
