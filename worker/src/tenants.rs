//! Tenants whose monthly calls are used up (99991403): nothing more is sent for them until an operator resumes them.
//!
//! A retry loop here costs nothing but calls that are refused, and once made 76,744 of them in eight hours. So the stop is a row
//! of the Store, which every worker reads each second and no restart forgets. The worker that was told stops at once, and the
//! others with it: it pauses the tenant's bots in the cache for as long as they need to read the row.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use openclaw_common::bot::{Bot, Bots};
use openclaw_common::quota::Quota;
use openclaw_common::store::{Stop, Store, StoreError};
use openclaw_common::telemetry;

use crate::levels;

/// Longer than another worker's look into the Store takes.
const SPREAD: Duration = Duration::from_secs(3);

/// Who is stopped.
pub(crate) struct Tenants {
    store: Arc<dyn Store>,
    /// As last read, and what is unwritten.
    stopped: ArcSwap<BTreeSet<String>>,
    /// Stops of this process that the Store does not have yet.
    unwritten: Mutex<Vec<Stop>>,
    /// One at a time reads or writes, so that an older answer never covers a newer one.
    turn: tokio::sync::Mutex<()>,
}

impl Tenants {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            stopped: ArcSwap::default(),
            unwritten: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn is_stopped(&self, tenant: &str) -> bool {
        self.stopped.load().contains(tenant)
    }

    /// Stops the bot's tenant, here at once, everywhere else within a moment.
    pub(crate) async fn stop(&self, bot: &Bot, code: i64, error: &str, bots: &Bots, quota: &Quota) {
        let tenant = bot.tenant();
        if self.is_stopped(tenant) {
            return;
        }
        tracing::error!(
            tenant, bot = %bot.id, code,
            "the monthly calls of tenant {tenant} are used up: nothing more is sent for it until `openclaw quota resume`"
        );
        let stop = Stop {
            tenant: tenant.to_owned(),
            bot: bot.id.to_string(),
            code,
            error: error.to_owned(),
        };
        self.unwritten().push(stop);
        self.show((*self.stopped.load_full()).clone());
        for other in bots.now().iter().filter(|other| other.tenant() == tenant) {
            quota.pause(&levels::bot_key(other), SPREAD).await;
        }
        // What fails now the next look does.
        self.refresh().await.ok();
    }

    /// Writes what is not written and reads who is stopped.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let unwritten = self.unwritten().clone();
        for stop in &unwritten {
            self.store.stop_tenant(stop).await?;
            self.unwritten().retain(|other| other != stop);
        }
        let stopped = self.store.stopped_tenants().await?;
        self.show(stopped.into_iter().map(|stopped| stopped.stop.tenant).collect());
        Ok(())
    }

    fn show(&self, mut stopped: BTreeSet<String>) {
        stopped.extend(self.unwritten().iter().map(|stop| stop.tenant.clone()));
        let before = self.stopped.swap(Arc::new(stopped.clone()));
        for tenant in stopped.difference(&before) {
            telemetry::TENANT_STOPPED.set(tenant, 1.0);
            tracing::warn!(tenant, "tenant {tenant} is stopped: its events wait");
        }
        for tenant in before.difference(&stopped) {
            telemetry::TENANT_STOPPED.set(tenant, 0.0);
            tracing::info!(tenant, "tenant {tenant} was resumed");
        }
    }

    fn unwritten(&self) -> std::sync::MutexGuard<'_, Vec<Stop>> {
        // Nothing panics while it is held.
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
