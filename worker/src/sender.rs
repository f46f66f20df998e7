//! Through whom an action goes out: its bot; for a pool, the member with the earliest free slot that is in the chat.
//!
//! The choice is committed before the first request, because a uuid is one app's: only the same member may repeat what may
//! have arrived. An action all of whose tries were definitely refused may change its sender, the new choice committed first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use openclaw_common::bot::Bot;
use openclaw_common::cache::Level;
use openclaw_common::fail_point::fail_point;
use openclaw_common::pool::Pool;
use openclaw_common::quota::{Refused, Reservation};
use openclaw_common::store::Step;

use crate::feishu::{Outcome, Scope};
use crate::membership;
use crate::process::{Flow, Interrupt};
use crate::sending::ActionRun;

/// Turned on by every choice, so that members that are all free take turns.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// Whether a bot that is missing from the configuration has come is looked at again after this.
const NOBODY: Duration = Duration::from_secs(5);

/// Through whom.
pub(crate) struct Sender {
    /// Whose app, token and limits; of a pool that has not chosen, the pool's stand-in.
    pub(crate) bot: Arc<Bot>,
    /// The member in the row.
    chosen: Option<String>,
    /// Members that told this action that they cannot reach its chat.
    turned_away: Vec<(Arc<Bot>, Option<i64>)>,
    reserved: Option<Reservation>,
}

/// What a choice came to.
pub(crate) enum Choice {
    /// Committed, or there is nothing to choose.
    Made,
    /// As if a request had ended so.
    Failed(Outcome),
    /// Too long to wait for in memory.
    Park(Duration),
    /// No member is in the chat.
    Nobody { code: Option<i64>, error: String },
}

impl Sender {
    /// `chosen` is the member in the action's row.
    pub(crate) fn new(bot: &Arc<Bot>, chosen: Option<String>) -> Self {
        Self {
            bot: bot.clone(),
            chosen,
            turned_away: Vec::new(),
            reserved: None,
        }
    }

    /// The slot that came with the choice.
    pub(crate) fn reserved(&mut self) -> Option<Reservation> {
        self.reserved.take()
    }
}

impl ActionRun<'_> {
    /// Chooses a member, where the action is a pool's.
    pub(crate) async fn choose(&mut self) -> Flow<Choice> {
        if !Pool::is_face(&self.run.bot) {
            return Ok(Choice::Made);
        }
        let bots = self.run.engine.bots.now();
        let unready = |message: String| {
            Ok(Choice::Failed(Outcome::Unready {
                wait: NOBODY,
                code: None,
                message,
            }))
        };
        let name = &self.run.bot.id;
        if !self.clean {
            // A copy may exist: only the same app can repeat it without doubling it.
            let chosen = self.sender.chosen.as_deref().unwrap_or_default();
            let Some(bot) = bots.get(chosen) else {
                return unready(format!("bot `{chosen}`, which may have sent it, is not configured"));
            };
            self.sender.bot = bot.clone();
            return Ok(Choice::Made);
        }
        let members: Vec<Arc<Bot>> = bots
            .pool(name.as_str())
            .map_or_else(Vec::new, |pool| pool.members(&bots).cloned().collect());
        if members.is_empty() {
            return unready(format!("no bot of pool `{name}` is configured"));
        }
        let away = &self.sender.turned_away;
        let left = members
            .into_iter()
            .filter(|bot| away.iter().all(|(gone, _)| gone.id != bot.id));
        let left: Vec<Arc<Bot>> = left.collect();
        if left.is_empty() {
            return Ok(self.nobody());
        }
        // Who only fails, or is stopped, is left to the others; when that is everybody, the gate says how long to wait.
        let open = left.iter().filter(|bot| self.run.engine.gate.holds(bot, false));
        let open: Vec<Arc<Bot>> = open.cloned().collect();
        let left = if open.is_empty() { left } else { open };
        let left = membership::likely(&self.run.engine, left, self.action.target()).await;
        let engine = &self.run.engine;
        let prepared = join_all(left.iter().map(|bot| engine.feishu.prepare(bot))).await;
        let mut failed = None;
        let mut ready = Vec::with_capacity(left.len());
        for (bot, prepared) in left.into_iter().zip(prepared) {
            match prepared {
                Ok(()) => ready.push(bot),
                // Whoever is ready soonest says how long to wait.
                Err(outcome) => failed = [failed, Some(outcome)].into_iter().flatten().min_by_key(Outcome::wait),
            }
        }
        if let Some(outcome) = failed.filter(|_| ready.is_empty()) {
            return Ok(Choice::Failed(outcome));
        }
        self.reserve(ready).await
    }

    async fn reserve(&mut self, members: Vec<Arc<Bot>>) -> Flow<Choice> {
        let (engine, stop) = (&self.run.engine, &self.run.stop);
        tokio::select! {
            () = engine.commits.reachable() => {}
            () = stop.cancelled() => return Err(Interrupt::Stopped),
        }
        let mut ways: Vec<Vec<Level>> = Vec::with_capacity(members.len());
        for bot in &members {
            let receiver = self.receiver(bot).await;
            ways.push(self.levels(bot, &receiver));
        }
        let first = TURN.fetch_add(1, Ordering::Relaxed) % ways.len().max(1);
        let reservation = match engine.quota.reserve(&ways, first, &self.run.urgency, stop).await {
            Ok(reservation) => reservation,
            Err(Refused::Cancelled) => return Err(Interrupt::Stopped),
            Err(Refused::Park(wait)) => return Ok(Choice::Park(wait)),
        };
        let way = reservation.way;
        let Some(bot) = members.into_iter().nth(way) else {
            return Err(Interrupt::Stopped);
        };
        let step = Step::Choose {
            index: self.index,
            sender: bot.id.to_string(),
        };
        if let Err(interrupt) = self.run.commit(self.row, step).await {
            engine.quota.give_up(&ways[way], reservation).await;
            return Err(interrupt);
        }
        fail_point("C1", &self.row.envelope.key.key);
        self.sender.chosen = Some(bot.id.to_string());
        self.sender.bot = bot;
        self.sender.reserved = Some(reservation);
        self.counted = true;
        Ok(Choice::Made)
    }

    /// Whether another member may try what this one cannot do; no attempt is used.
    pub(crate) async fn is_for_another(&mut self, outcome: &Outcome) -> bool {
        if !Pool::is_face(&self.run.bot) || !self.clean {
            return false;
        }
        if let Outcome::Limited { scope: Scope::Api, .. } = outcome {
            // Its level is paused: the next choice goes by that.
            return true;
        }
        if !outcome.is_about_this_bot() {
            return false;
        }
        let bot = self.sender.bot.clone();
        tracing::info!(pool = %self.run.bot.id, %bot.id, chat = self.action.target(), code = outcome.code(), "not through this bot: {}", outcome.message());
        membership::away(&self.run.engine, &bot, self.action.target()).await;
        self.sender.turned_away.push((bot, outcome.code()));
        true
    }

    fn nobody(&self) -> Choice {
        let away = &self.sender.turned_away;
        let told = away.iter().map(|(bot, code)| match code {
            Some(code) => format!("{} ({code})", bot.id),
            None => bot.id.to_string(),
        });
        let told: Vec<String> = told.collect();
        Choice::Nobody {
            code: away.last().and_then(|(_, code)| *code),
            error: format!(
                "no bot of pool `{}` can send to {}: {}",
                self.run.bot.id,
                self.action.target(),
                told.join(", ")
            ),
        }
    }
}
