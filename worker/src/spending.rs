//! The monthly budget: what has been spent, what that comes to, and what is given up for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openclaw_common::bot::{Bot, Bots};
use openclaw_common::budget::{self, Month};
use openclaw_common::config::{Budget, SendKind};
use openclaw_common::store::{Spent, Store, StoreError};
use openclaw_common::telemetry;

use crate::meter::Meter;

/// What waits for the budget is looked at again after this: the operator may have raised it.
const LOOK: Duration = Duration::from_secs(15);

/// The budgets of all tenants this worker sends for.
pub(crate) struct Spending {
    store: Arc<dyn Store>,
    meter: Arc<Meter>,
    /// Per cent that have been warned about, and how many kinds of send wait, by tenant.
    said: Mutex<HashMap<String, Said>>,
    /// One at a time stores: a tally that another one's answer settles would be lost if its own failed.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    month: Month,
    percent: u32,
    waiting: usize,
}

impl Spending {
    pub(crate) fn new(store: Arc<dyn Store>, meter: Arc<Meter>) -> Self {
        Self {
            store,
            meter,
            said: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// How long sends of this kind have to wait, if the budget does not allow them now.
    pub(crate) fn waits(&self, bot: &Bot, kind: SendKind) -> Option<Duration> {
        let most = budget::gives_up_at(&bot.quota.budget, kind)?;
        (self.meter.used(bot.tenant()) >= most).then_some(LOOK)
    }

    /// Stores what was counted, reads what all have counted, and says what that comes to.
    pub(crate) async fn refresh(&self, bots: &Bots) -> Result<(), StoreError> {
        let spent = {
            let _turn = self.turn.lock().await;
            self.store_counts().await?;
            let spent = self.store.spent().await?;
            self.meter.learn(&spent);
            spent
        };
        let tenants: BTreeMap<String, Budget> = bots
            .now()
            .iter()
            .map(|bot| (bot.tenant().to_owned(), bot.quota.budget.clone()))
            .collect();
        for (tenant, budget) in &tenants {
            self.report(tenant, budget, &spent).await?;
        }
        Ok(())
    }

    /// Stores what was counted.
    pub(crate) async fn flush(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        self.store_counts().await
    }

    async fn store_counts(&self) -> Result<(), StoreError> {
        // One that was left over, and then what was counted since.
        for _ in 0..2 {
            let Some(tally) = self.meter.tally() else { break };
            self.store.add_calls(&tally).await?;
            self.meter.stored();
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    async fn report(&self, tenant: &str, budget: &Budget, spent: &Spent) -> Result<(), StoreError> {
        let used = spent.by(tenant);
        let foretold = budget::forecast(used, spent.now_ms);
        telemetry::BUDGET_USED_CALLS.set(tenant, used as f64);
        telemetry::BUDGET_FORECAST_CALLS.set(tenant, foretold as f64);
        let Some(calls) = budget.calls else { return Ok(()) };
        telemetry::BUDGET_CALLS.set(tenant, calls as f64);
        let waiting = SendKind::ALL
            .into_iter()
            .filter(|kind| budget::gives_up_at(budget, *kind).is_some_and(|most| used >= most))
            .count();
        let month = Month::at(spent.now_ms);
        let before = self.said(tenant, month);
        let percent = budget::percent(used, calls);
        let reached = budget::WARNINGS
            .into_iter()
            .filter(|warning| percent >= u64::from(*warning));
        let mut said = Said {
            month,
            percent: 0,
            waiting,
        };
        for warning in reached {
            said.percent = warning;
            // Once a month, whichever process is first.
            if warning > before.percent && self.store.note_warning(tenant, warning).await? {
                tracing::warn!(
                    tenant,
                    used,
                    budget = calls,
                    forecast = foretold,
                    "tenant {tenant} has used {warning} % of its calls of {month}"
                );
            }
        }
        if waiting != before.waiting {
            tracing::warn!(
                tenant,
                used,
                budget = calls,
                waiting,
                "the budget of tenant {tenant}: {}",
                situation(budget, used)
            );
        }
        telemetry::BUDGET_WARNING_PERCENT.set(tenant, f64::from(said.percent));
        telemetry::BUDGET_WAITING_KINDS.set(tenant, waiting as f64);
        self.lock().insert(tenant.to_owned(), said);
        Ok(())
    }

    fn said(&self, tenant: &str, month: Month) -> Said {
        let said = self.lock().get(tenant).copied();
        let nothing = Said {
            month,
            percent: 0,
            waiting: 0,
        };
        match said {
            Some(said) if said.month == month => said,
            // A new month: what still waits is said all the same.
            Some(said) => Said {
                waiting: said.waiting,
                ..nothing
            },
            None => nothing,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Said>> {
        // Nothing panics while it is held.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits, for the operator.
fn situation(budget: &Budget, used: u64) -> String {
    let waits = |kind: &SendKind| budget::gives_up_at(budget, *kind).is_some_and(|most| used >= most);
    let waiting: Vec<&str> = SendKind::ALL.into_iter().filter(waits).map(SendKind::as_str).collect();
    match waiting.as_slice() {
        [] => "everything is sent again".to_owned(),
        waiting => format!(
            "sends of kind {} wait until it is raised or the month ends",
            waiting.join(" and ")
        ),
    }
}
