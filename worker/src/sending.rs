//! One action on its way: a slot, a request, a verdict, until it has ended.

use std::time::{Duration, Instant};

use openclaw_common::cache::Level;
use openclaw_common::fail_point::fail_point;
use openclaw_common::quota::{Permit, Refused};
use openclaw_common::store::{ActionOutcome, ActionState, Row, Step};
use openclaw_common::telemetry;

use crate::action::Action;
use crate::feishu::{Outcome, Scope};
use crate::levels;
use crate::process::{End, Flow, Interrupt, Run};
use crate::verdict::{self, LANE_PATIENCE, LONG_PAUSE, Tries, UUID_LIFE, Verdict};

/// How an action left its lane.
pub(crate) enum Sent {
    Done(ActionOutcome),
    End(End),
}

enum Slot {
    Permit(Permit),
    /// Too long to wait for in memory.
    Park(Duration),
}

/// One action on its way.
pub(crate) struct ActionRun<'a> {
    pub(crate) run: &'a Run,
    pub(crate) row: &'a Row,
    pub(crate) action: &'a Action,
    pub(crate) index: u32,
    pub(crate) uuid: String,
    /// How long ago it was first tried, when it was taken up.
    pub(crate) first_tried: Option<Duration>,
    /// Whether the plan's commit has counted this try.
    pub(crate) counted: bool,
    /// Whether a copy may be visible that no answer told of.
    pub(crate) doubt: bool,
    pub(crate) tries: u32,
    pub(crate) since: Instant,
}

impl ActionRun<'_> {
    /// Sends it, as often as it takes and its tries allow.
    pub(crate) async fn send(&mut self) -> Flow<Sent> {
        let (engine, policy) = (&self.run.engine, &self.run.bot.message);
        let mut tries = Tries {
            attempts: self.row.attempt,
            ..Tries::default()
        };
        let levels = levels::levels(&self.run.bot, self.action, &self.row.envelope.chat);
        let mut waited = Duration::ZERO;
        if self.doubt && self.first_tried.is_some_and(|ago| ago > UUID_LIFE) {
            let error = "its outcome is unknown and the uuid's hour is over".to_owned();
            return self.unknown(None, error).await;
        }
        loop {
            if !std::mem::take(&mut self.counted) {
                self.run.commit(self.row, Step::Try { index: self.index }).await?;
            }
            // A token first: buying one can take longer than a slot is good for.
            let outcome = match engine.feishu.prepare(&self.run.bot).await {
                Ok(()) => {
                    let permit = match self.slot(&levels).await? {
                        Slot::Permit(permit) => permit,
                        Slot::Park(wait) => {
                            let actions = vec![self.outcome(ActionState::Planned, None, None)];
                            let parked = self.run.wait(self.row, actions, wait, tries.attempts, None);
                            return parked.await.map(Sent::End);
                        }
                    };
                    self.tries += 1;
                    fail_point("W2", &self.row.envelope.key.key);
                    let send = engine.feishu.send(&self.run.bot, self.action, &self.uuid);
                    engine.quota.sending(&levels, permit, send).await
                }
                Err(outcome) => outcome,
            };
            fail_point("W4", &self.row.envelope.key.key);
            telemetry::SENDS.add(outcome.class());
            match outcome {
                Outcome::Limited { .. } => tries.limits += 1,
                _ => tries.attempts += 1,
            }
            tries.since = self.first_tried.unwrap_or_default() + self.since.elapsed();
            // Sticky: a later refusal of another request says nothing about a copy that an earlier one may have left.
            self.doubt |= matches!(outcome, Outcome::Transient { ambiguous: true, .. });
            tries.doubt = self.doubt;
            let verdict = verdict::judge(&outcome, tries, policy);
            match verdict {
                Verdict::Sent { message_id } => {
                    return Ok(Sent::Done(self.outcome(ActionState::Sent, None, message_id)));
                }
                Verdict::TakenAsSent => return Ok(Sent::Done(self.outcome(ActionState::Sent, outcome.code(), None))),
                Verdict::Pause(pause) => {
                    self.pause_level(&outcome, pause).await;
                    if pause > LONG_PAUSE {
                        let actions = vec![self.outcome(ActionState::Planned, outcome.code(), None)];
                        return self
                            .run
                            .wait(self.row, actions, pause, tries.attempts, failure(&outcome))
                            .await
                            .map(Sent::End);
                    }
                }
                Verdict::Retry(wait) if waited + wait <= LANE_PATIENCE => {
                    waited += wait;
                    self.run.pause(wait).await?;
                }
                Verdict::Retry(wait) => {
                    let actions = vec![self.outcome(ActionState::Planned, outcome.code(), None)];
                    return self
                        .run
                        .wait(self.row, actions, wait, tries.attempts, failure(&outcome))
                        .await
                        .map(Sent::End);
                }
                Verdict::Dead { unknown: true, .. } => {
                    return self.unknown(outcome.code(), outcome.message().to_owned()).await;
                }
                Verdict::Dead { class, unknown: false } => {
                    let actions = vec![self.outcome(ActionState::Refused, outcome.code(), None)];
                    let (code, error) = (outcome.code(), outcome.message().to_owned());
                    return self.run.die(self.row, actions, class, code, error).await.map(Sent::End);
                }
            }
        }
    }

    /// Nobody can tell whether a message is visible: the bot's policy decides.
    async fn unknown(&mut self, code: Option<i64>, error: String) -> Flow<Sent> {
        match verdict::unknown(self.run.bot.message.on_unknown) {
            Verdict::TakenAsSent => Ok(Sent::Done(self.outcome(ActionState::Sent, code, None))),
            _ => {
                let actions = vec![self.outcome(ActionState::Unknown, code, None)];
                self.run
                    .die(self.row, actions, "ambiguous", code, error)
                    .await
                    .map(Sent::End)
            }
        }
    }

    /// Waits for a slot at every level, and for everything else without which nothing may be sent.
    async fn slot(&self, levels: &[Level]) -> Flow<Slot> {
        let engine = &self.run.engine;
        let begun = Instant::now();
        loop {
            tokio::select! {
                () = engine.commits.reachable() => {}
                () = self.run.stop.cancelled() => return Err(Interrupt::Stopped),
            }
            let permit = match engine.quota.acquire(levels, &self.run.stop).await {
                Ok(permit) => permit,
                Err(Refused::Cancelled) => return Err(Interrupt::Stopped),
                Err(Refused::Park(wait)) => return Ok(Slot::Park(wait)),
            };
            if engine.pulse.freezes() != self.run.freezes {
                return Err(Interrupt::Stopped);
            }
            // The database may have gone while the slot was waited for; then the slot is spent in vain.
            if engine.commits.is_reachable() && permit.in_time() {
                telemetry::QUOTA_WAIT_SECONDS.record(begun.elapsed());
                return Ok(Slot::Permit(permit));
            }
        }
    }

    async fn pause_level(&self, outcome: &Outcome, pause: Duration) {
        let Outcome::Limited { scope, .. } = outcome else {
            return;
        };
        let key = match scope {
            Scope::App => levels::bot_key(&self.run.bot),
            Scope::Chat => levels::chat_key(&self.row.envelope.chat),
        };
        tracing::warn!(bot = %self.run.bot.id, level = key, pause_ms = pause.as_millis(), "the platform limits us: paused");
        self.run.engine.quota.pause(&key, pause).await;
    }

    fn outcome(&self, state: ActionState, code: Option<i64>, message_id: Option<String>) -> ActionOutcome {
        ActionOutcome {
            index: self.index,
            state,
            message_id,
            code,
            refused: !self.doubt,
            tries: self.tries,
        }
    }
}

/// What the row says about its last failure.
fn failure(outcome: &Outcome) -> Option<(&'static str, Option<i64>, String)> {
    Some((outcome.class(), outcome.code(), outcome.message().to_owned()))
}
