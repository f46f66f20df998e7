//! The gates: wherever a run touches the world it stops, says what it is about to do, and waits to be let on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use openclaw_common::bot::BotId;
use openclaw_common::envelope::EventKey;
use openclaw_common::store::{
    Arrival, Begun, Burial, Change, DeadFilter, DeadLetter, Inspection, Replay, Replayed, Row, Standing, State, Step,
    Store, StoreError, Unfinished,
};
use tokio::sync::{mpsc, oneshot};

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

#[async_trait]
impl Store for Gate {
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

    async fn unfinished(&self, bot: &BotId, held: &[EventKey]) -> Result<Unfinished, StoreError> {
        self.store.unfinished(bot, held).await
    }

    async fn take_due(
        &self,
        bot: &BotId,
        full: &[Arc<str>],
        per_chat: u32,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        self.store.take_due(bot, full, per_chat, limit).await
    }

    async fn next_due(&self, bots: &[BotId]) -> Result<HashMap<BotId, Duration>, StoreError> {
        self.store.next_due(bots).await
    }

    async fn overdue(&self, overdue: Duration) -> Result<Vec<(BotId, u64)>, StoreError> {
        self.store.overdue(overdue).await
    }

    async fn bury(&self, deaths: &[Burial]) -> Result<(), StoreError> {
        self.store.bury(deaths).await
    }

    async fn standing(&self, keys: &[EventKey]) -> Result<HashMap<EventKey, Standing>, StoreError> {
        self.store.standing(keys).await
    }

    async fn inspect(&self, key: &EventKey) -> Result<Option<Inspection>, StoreError> {
        self.store.inspect(key).await
    }

    async fn dead_letters(&self, filter: &DeadFilter, limit: u32) -> Result<Vec<DeadLetter>, StoreError> {
        self.store.dead_letters(filter, limit).await
    }

    async fn count_dead(&self, filter: &DeadFilter) -> Result<HashMap<String, u64>, StoreError> {
        self.store.count_dead(filter).await
    }

    async fn replay(&self, order: &Replay) -> Result<Replayed, StoreError> {
        self.store.replay(order).await
    }

    async fn drop_dead(&self, ids: &[i64], who: &str) -> Result<u64, StoreError> {
        self.store.drop_dead(ids, who).await
    }

    async fn count(&self, bot: Option<&BotId>) -> Result<HashMap<State, u64>, StoreError> {
        self.store.count(bot).await
    }

    async fn purge(&self, retention: Duration, limit: u32) -> Result<u64, StoreError> {
        self.store.purge(retention, limit).await
    }

    async fn ready(&self) -> Result<(), StoreError> {
        self.store.ready().await
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        self.store.migrate().await
    }
}
