//! What may keep a bot from sending although it has slots: a stopped tenant, a spent budget, a platform that only fails.
//!
//! Nothing of it is a failure of the event that waits: it burns no attempt, and what has to wait long does so in the Store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::bot::{Bot, BotId, Bots};
use openclaw_common::config::SendKind;
use openclaw_common::store::Store;
use openclaw_common::telemetry;

use crate::breaker::{Breaker, Leave, Word};
use crate::engine::Engine;
use crate::feishu::Outcome;
use crate::meter::Meter;
use crate::spending::Spending;
use crate::tenants::Tenants;

/// Between two looks into the Store.
const REFRESH: Duration = Duration::from_secs(1);
/// Counted calls are stored each so many looks.
const FLUSH_EVERY: u32 = 2;
/// While nobody knows yet who is stopped.
const RETRY: Duration = Duration::from_millis(50);
/// Events of a stopped tenant are looked at again after this.
const STOPPED: Duration = Duration::from_secs(15);
/// The last counts of a worker that stops.
const LAST_FLUSH: Duration = Duration::from_secs(2);

/// The gate before every send. One a process.
pub(crate) struct Gate {
    pub(crate) tenants: Tenants,
    spending: Spending,
    breakers: Mutex<HashMap<BotId, Breaker>>,
    /// Whether the Store has said who is stopped and what is spent.
    known: AtomicBool,
}

/// What the gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Send. `probe`: as the one that finds out whether the platform is back.
    Go {
        /// Whether it is the probe.
        probe: bool,
    },
    /// Not now.
    Wait(Wait),
}

/// Why not, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Until the gate is to be asked again.
    pub(crate) wait: Duration,
    /// For the row: class, Feishu's code, sentence.
    pub(crate) why: (&'static str, Option<i64>, &'static str),
}

impl Wait {
    /// What the row says while it waits.
    pub(crate) fn failure(&self) -> Option<(&'static str, Option<i64>, String)> {
        let (class, code, sentence) = self.why;
        Some((class, code, sentence.to_owned()))
    }
}

impl Gate {
    pub(crate) fn new(store: Arc<dyn Store>, meter: Arc<Meter>) -> Self {
        Self {
            tenants: Tenants::new(store.clone()),
            spending: Spending::new(store, meter),
            breakers: Mutex::default(),
            known: AtomicBool::new(false),
        }
    }

    /// Waits until it is known who is stopped and what is spent: nothing is sent before.
    pub(crate) async fn known(&self) {
        while !self.known.load(Ordering::Acquire) {
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether a tenant is stopped: then its events need not even begin.
    pub(crate) fn stopped(&self, bot: &Bot) -> Option<Wait> {
        let stop = Wait {
            wait: spread(STOPPED),
            why: ("stopped", None, "the tenant is stopped: see `openclaw quota show`"),
        };
        self.tenants.is_stopped(bot.tenant()).then_some(stop)
    }

    /// Asks for leave to send.
    pub(crate) fn ask(&self, bot: &Bot, kind: SendKind, now: Instant) -> Pass {
        if let Some(wait) = self.stopped(bot) {
            return Pass::Wait(wait);
        }
        if let Some(wait) = self.spending.waits(bot, kind) {
            let why = (
                "budget",
                None,
                "the month's budget does not allow it: see `openclaw quota show`",
            );
            let wait = spread(wait);
            return Pass::Wait(Wait { wait, why });
        }
        let leave = match self.lock().get_mut(&bot.id) {
            Some(breaker) => breaker.ask(now),
            None => Leave::Go,
        };
        match leave {
            Leave::Go => Pass::Go { probe: false },
            Leave::Probe => Pass::Go { probe: true },
            Leave::Later(wait) => {
                let why = ("breaker", None, "the bot's sends only fail: one try now and then");
                Pass::Wait(Wait { wait, why })
            }
        }
    }

    /// Whether leave that was given still holds: a wait for a slot may have been long.
    pub(crate) fn holds(&self, bot: &Bot, probe: bool) -> bool {
        let open = || self.lock().get(&bot.id).is_some_and(Breaker::is_open);
        !self.tenants.is_stopped(bot.tenant()) && (probe || !open())
    }

    /// Hears how a send ended. Whether it was a probe that failed, which is not the event's failure.
    pub(crate) fn hear(&self, bot: &Bot, outcome: &Outcome, probe: bool, now: Instant) -> bool {
        let word = Word::of(outcome);
        let mut breakers = self.lock();
        let changed = match breakers.get_mut(&bot.id) {
            Some(breaker) => breaker.hear(word, probe, now),
            // Only who has failed has one.
            None if word == Word::Bad => breakers.entry(bot.id.clone()).or_default().hear(word, probe, now),
            None => false,
        };
        if changed {
            let open = breakers.get(&bot.id).is_some_and(Breaker::is_open);
            telemetry::BREAKER_OPEN.set(bot.id.as_str(), if open { 1.0 } else { 0.0 });
            match open {
                true => tracing::error!(
                    bot = %bot.id, code = outcome.code(), error = outcome.message(),
                    "the sends of bot {} only fail: one try now and then, everything else waits", bot.id
                ),
                false => tracing::info!(bot = %bot.id, "the sends of bot {} succeed again", bot.id),
            }
        }
        if word == Word::Good {
            breakers.remove(&bot.id);
        }
        probe && word == Word::Bad
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BotId, Breaker>> {
        // Nothing panics while it is held.
        self.breakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks into the Store; with `flush`, also at what is spent.
    pub(crate) async fn refresh(&self, flush: bool, bots: &Bots) {
        let looked = async {
            self.tenants.refresh().await?;
            if flush {
                self.spending.refresh(bots).await?;
            }
            Ok::<_, openclaw_common::store::StoreError>(())
        };
        match looked.await {
            Ok(()) if flush => self.known.store(true, Ordering::Release),
            Ok(()) => {}
            // That the database is away is said elsewhere.
            Err(error) => tracing::debug!(%error, "quota: cannot look into the store"),
        }
    }

    /// Stores the last counts.
    pub(crate) async fn last_flush(&self) {
        if !matches!(
            tokio::time::timeout(LAST_FLUSH, self.spending.flush()).await,
            Ok(Ok(()))
        ) {
            tracing::warn!("the last seconds' calls were not counted: the database is away");
        }
    }
}

/// Each second: who is stopped? And now and then: what has been spent?
pub(crate) async fn watch(engine: Arc<Engine>) {
    let mut looks = 0_u32;
    loop {
        let known = engine.gate.known.load(Ordering::Acquire);
        let flush = !known || looks.is_multiple_of(FLUSH_EVERY);
        engine.gate.refresh(flush, &engine.bots).await;
        looks = looks.wrapping_add(1);
        tokio::time::sleep(if known { REFRESH } else { RETRY }).await;
    }
}

/// A fifth more at most, so that what began to wait together does not come back together.
fn spread(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(1.0..1.2))
}
