//! One action on its way: a slot, a request, a verdict, until it has ended.

use std::time::{Duration, Instant};

use openclaw_common::bot::Bot;
use openclaw_common::cache::Level;
use openclaw_common::config::OnUnknown;
use openclaw_common::fail_point::fail_point;
use openclaw_common::quota::{Permit, Refused};
use openclaw_common::store::{ActionOutcome, ActionState, Row, Step};
use openclaw_common::{action_uuid, backoff, telemetry};

use crate::action::Action;
use crate::feishu::{Outcome, Scope};
use crate::gate::{Pass, Wait};
use crate::levels::{self, Receiver};
use crate::process::{End, Flow, Interrupt, Run};
use crate::sender::{Choice, Sender};
use crate::unrecorded::Open;
use crate::verdict::{self, LANE_PATIENCE, LONG_PAUSE, Tries, UUID_LIFE, Verdict};

/// What is missing is looked for no more often than this.
const MOMENT: Duration = Duration::from_millis(50);

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
    /// Through whom.
    pub(crate) sender: Sender,
    /// How long ago it was first tried, when it was taken up.
    pub(crate) first_tried: Option<Duration>,
    /// Whether the plan's commit has counted this try.
    pub(crate) counted: bool,
    /// Whether every try under this uuid was definitely refused, so that no copy can exist. One ambiguous try ends that for
    /// good: the platform may refuse a repeat (a limit, a lost membership) of what it has long shown.
    pub(crate) clean: bool,
    pub(crate) since: Instant,
    /// While a message may be visible that the Store does not know of.
    pub(crate) open: Option<Open>,
}

impl ActionRun<'_> {
    /// Sends it, as often as it takes and its tries allow.
    pub(crate) async fn send(&mut self) -> Flow<Sent> {
        let (engine, policy) = (&self.run.engine, &self.run.bot.message);
        let mut tries = Tries {
            attempts: self.row.attempt,
            ..Tries::default()
        };
        let mut waited = Duration::ZERO;
        let mut patience = LANE_PATIENCE;
        loop {
            if self.outlived() {
                let error = "its outcome is unknown and the uuid's hour is over".to_owned();
                if let Some(end) = self.unknown(None, error).await? {
                    return Ok(end);
                }
                (tries, waited) = (Tries::default(), Duration::ZERO);
            }
            let choice = match self.choose().await {
                Ok(choice) => choice,
                Err(interrupt) => return self.untried(interrupt).await,
            };
            let failed = match choice {
                Choice::Made => None,
                Choice::Failed(outcome) => Some(outcome),
                Choice::Park(wait) => {
                    let actions = vec![self.outcome(ActionState::Planned, None, None)];
                    let parked = self.run.wait(self.row, actions, wait, tries.attempts, true, None);
                    return parked.await.map(Sent::End);
                }
                Choice::Nobody { code, error } => {
                    let actions = vec![self.outcome(ActionState::Refused, code, None)];
                    let died = self.run.die(self.row, actions, "permanent", code, error);
                    return died.await.map(Sent::End);
                }
            };
            let probe = match self.leave(&mut patience).await {
                Ok(Ok(probe)) => probe,
                Ok(Err(wait)) => {
                    let actions = vec![self.outcome(ActionState::Planned, None, None)];
                    // No failure of its own, so nothing of the chat passes it.
                    let parked = self
                        .run
                        .wait(self.row, actions, wait.wait, tries.attempts, true, wait.failure());
                    return parked.await.map(Sent::End);
                }
                Err(interrupt) => return self.untried(interrupt).await,
            };
            let receiver = self.receiver(&self.sender.bot).await;
            let prepared = match failed {
                Some(outcome) => Err(outcome),
                // A token first: buying one can take longer than a slot is good for.
                None => engine.feishu.prepare(&self.sender.bot).await,
            };
            let mut outcome = match prepared {
                Ok(()) => {
                    if !std::mem::replace(&mut self.counted, true) {
                        self.run.commit(self.row, Step::Try { index: self.index }).await?;
                    }
                    let levels = self.levels(&self.sender.bot, &receiver);
                    let permit = match self.slot(&levels).await {
                        Ok(Slot::Permit(permit)) => permit,
                        Ok(Slot::Park(wait)) => {
                            let actions = vec![self.outcome(ActionState::Planned, None, None)];
                            // Waiting for quota is no failure: nothing of the chat passes meanwhile.
                            let parked = self.run.wait(self.row, actions, wait, tries.attempts, true, None);
                            return parked.await.map(Sent::End);
                        }
                        Err(interrupt) => return self.untried(interrupt).await,
                    };
                    // The waits may have outlasted the uuid, or the leave to send.
                    if self.outlived() || !engine.gate.holds(&self.sender.bot, probe) {
                        continue;
                    }
                    fail_point("W2", &self.row.envelope.key.key);
                    self.counted = false;
                    // Kept over all tries: whoever waits for it waits until its outcome is recorded.
                    if self.action.carries_uuid() && self.open.is_none() {
                        self.open = Some(engine.unrecorded.begin(&self.sender.bot, self.action));
                    }
                    let send = engine.feishu.send(&self.sender.bot, self.action, &self.uuid);
                    engine.quota.sending(&levels, permit, send).await
                }
                Err(outcome) => outcome,
            };
            if let Outcome::Unready { wait, .. } = outcome {
                engine.gate.hear(&self.sender.bot, &outcome, probe, Instant::now());
                if self.clean {
                    // Nothing can be visible.
                    self.open = None;
                }
                match self.unready(&outcome, wait, &mut patience, tries.attempts).await? {
                    Some(end) => return Ok(end),
                    None => continue,
                }
            }
            fail_point("W4", &self.row.envelope.key.key);
            telemetry::SENDS.add(outcome.class());
            self.clean &= !matches!(outcome, Outcome::Transient { ambiguous: true, .. });
            if self.clean && !matches!(outcome, Outcome::Sent { .. }) {
                self.open = None;
            }
            if engine.gate.hear(&self.sender.bot, &outcome, probe, Instant::now()) {
                continue;
            }
            if self.is_for_another(&outcome).await {
                if let Outcome::Limited { pause, .. } = outcome {
                    let pause = pause.unwrap_or(Duration::from_secs(1));
                    self.pause_level(&outcome, &receiver, pause).await;
                }
                continue;
            }
            self.learn(&mut outcome, &receiver);
            if let Outcome::Limited {
                scope: Scope::Tenant,
                code,
                ..
            } = outcome
            {
                let (bot, error) = (&self.sender.bot, outcome.message());
                engine
                    .gate
                    .tenants
                    .stop(bot, code, error, &engine.bots, &engine.quota)
                    .await;
                continue;
            }
            match outcome {
                Outcome::Limited { .. } => tries.limits += 1,
                _ => tries.attempts += 1,
            }
            tries.since = self.first_tried.unwrap_or_default() + self.since.elapsed();
            tries.clean = self.clean;
            match verdict::judge(&outcome, tries, policy) {
                Verdict::Sent { message_id } => {
                    return Ok(Sent::Done(self.outcome(ActionState::Sent, None, message_id)));
                }
                Verdict::Pause(pause) => {
                    self.pause_level(&outcome, &receiver, pause).await;
                    if pause > LONG_PAUSE {
                        let actions = vec![self.outcome(ActionState::Planned, outcome.code(), None)];
                        let parked = self
                            .run
                            .wait(self.row, actions, pause, tries.attempts, true, failure(&outcome));
                        return parked.await.map(Sent::End);
                    }
                    // The paused level may be one that is switched off here: then only this wait obeys the platform.
                    self.pause(pause).await?;
                }
                Verdict::Retry(wait) if waited + wait <= LANE_PATIENCE => {
                    waited += wait;
                    self.pause(wait).await?;
                }
                Verdict::Retry(wait) => {
                    let actions = vec![self.outcome(ActionState::Planned, outcome.code(), None)];
                    return self
                        .run
                        .wait(
                            self.row,
                            actions,
                            wait,
                            tries.attempts,
                            self.run.strict(),
                            failure(&outcome),
                        )
                        .await
                        .map(Sent::End);
                }
                Verdict::Unknown => {
                    if let Some(end) = self.unknown(outcome.code(), outcome.message().to_owned()).await? {
                        return Ok(end);
                    }
                    (tries, waited) = (Tries::default(), Duration::ZERO);
                    let pause = backoff::delay(&policy.retry, 1).min(LANE_PATIENCE);
                    self.pause(pause).await?;
                }
                Verdict::Dead(class) => {
                    let (state, error) = if self.clean {
                        (ActionState::Refused, outcome.message().to_owned())
                    } else {
                        let error = format!("{}; an earlier try may have become visible", outcome.message());
                        (ActionState::Unknown, error)
                    };
                    let actions = vec![self.outcome(state, outcome.code(), None)];
                    let died = self.run.die(self.row, actions, class, outcome.code(), error);
                    return died.await.map(Sent::End);
                }
            }
        }
    }

    /// Nothing was sent, so no attempt is used: a short wait is spent here, a longer one in the Store, where nothing of the chat
    /// passes. `None`: it is to be tried again now.
    async fn unready(
        &self,
        outcome: &Outcome,
        wait: Duration,
        patience: &mut Duration,
        attempts: u32,
    ) -> Flow<Option<Sent>> {
        let wait = wait.max(MOMENT);
        if wait <= *patience {
            *patience -= wait;
            return self.pause(wait).await.map(|()| None);
        }
        let actions = vec![self.outcome(ActionState::Planned, outcome.code(), None)];
        // The first action of an event, of which no copy can exist: nobody has had an answer, and a late one may be worse.
        if self.index == 0
            && self.clean
            && let Some(end) = self.run.outdated(self.row, actions.clone()).await?
        {
            return Ok(Some(Sent::End(end)));
        }
        let parked = self.run.wait(self.row, actions, wait, attempts, true, failure(outcome));
        parked.await.map(|end| Some(Sent::End(end)))
    }

    /// Nobody can tell whether a message is visible: the bot's policy decides. `None`: it goes on under a new uuid.
    async fn unknown(&mut self, code: Option<i64>, error: String) -> Flow<Option<Sent>> {
        match self.run.bot.message.on_unknown {
            OnUnknown::Drop => Ok(Some(Sent::Done(self.outcome(ActionState::Sent, code, None)))),
            OnUnknown::Resend if !self.is_renewed() => self.renew(&error).await.map(|()| None),
            OnUnknown::Park | OnUnknown::Resend => {
                let actions = vec![self.outcome(ActionState::Unknown, code, None)];
                let died = self.run.die(self.row, actions, "ambiguous", code, error);
                died.await.map(|end| Some(Sent::End(end)))
            }
        }
    }

    /// Whether `on_unknown: resend` has already sent it once more: its uuid is neither the plan's nor any replay's.
    fn is_renewed(&self) -> bool {
        let (key, kind) = (&self.row.envelope.key, self.action.kind());
        (0..=self.row.replay_generation)
            .all(|generation| action_uuid::action_uuid(key, self.index, kind, generation) != self.uuid)
    }

    /// Gives it a new uuid and all its tries back. The new uuid is committed before it is used.
    async fn renew(&mut self, error: &str) -> Flow<()> {
        let uuid = action_uuid::renewed(&self.uuid);
        let step = Step::Renew {
            index: self.index,
            uuid: uuid.clone(),
        };
        self.run.commit(self.row, step).await?;
        tracing::warn!(event = %self.row.envelope.key, bot = %self.run.bot.id, error, "nobody can tell whether it was sent: sent once more");
        self.uuid = uuid;
        self.first_tried = None;
        self.since = Instant::now();
        self.counted = true;
        self.clean = true;
        Ok(())
    }

    /// Waits for a slot at every level, and for everything else without which nothing may be sent.
    async fn slot(&mut self, levels: &[Level]) -> Flow<Slot> {
        let engine = &self.run.engine;
        let begun = Instant::now();
        loop {
            tokio::select! {
                () = engine.commits.reachable() => {}
                () = self.run.stop.cancelled() => return Err(Interrupt::Stopped),
            }
            let permit = match self.sender.reserved() {
                Some(reserved) => engine.quota.redeem(levels, reserved, &self.run.stop).await,
                None => engine
                    .quota
                    .acquire_as(levels, &self.run.urgency, &self.run.stop)
                    .await
                    .map(Some),
            };
            let permit = match permit {
                Ok(Some(permit)) => permit,
                Ok(None) => continue,
                Err(Refused::Cancelled) => return Err(Interrupt::Stopped),
                Err(Refused::Park(wait)) => return Ok(Slot::Park(wait)),
            };
            if engine.pulse.freezes() != self.run.freezes {
                return Err(Interrupt::Stopped);
            }
            // The database may have gone while the slot was waited for; then the slot is spent in vain.
            if engine.commits.is_reachable() && permit.in_time() {
                let waited = begun.elapsed().max(permit.waited);
                telemetry::QUOTA_WAIT_SECONDS.record(self.run.bot.id.as_str(), waited);
                return Ok(Slot::Permit(permit));
            }
        }
    }

    /// Whether a repeat could double a message: the uuid's hour is over and a copy may exist.
    fn outlived(&self) -> bool {
        !self.clean && self.first_tried.unwrap_or_default() + self.since.elapsed() > UUID_LIFE
    }

    /// Stopped before the request was begun: where no copy can exist, says so, so that nobody has to doubt it later.
    async fn untried(&self, interrupt: Interrupt) -> Flow<Sent> {
        if self.clean && matches!(interrupt, Interrupt::Stopped) {
            let planned = vec![self.outcome(ActionState::Planned, None, None)];
            self.run.commit(self.row, Step::Progress(planned)).await?;
        }
        Err(interrupt)
    }

    /// Waits in the lane. A stop meanwhile leaves the row saying whether its tries were all refused.
    async fn pause(&self, wait: Duration) -> Flow<()> {
        match self.run.pause(wait).await {
            Ok(()) => Ok(()),
            Err(interrupt) => self.untried(interrupt).await.map(drop),
        }
    }

    /// Asks the gate; short waits are spent here.
    async fn leave(&self, patience: &mut Duration) -> Flow<Result<bool, Wait>> {
        loop {
            let kind = levels::send_kind(&self.row.envelope);
            match self.run.engine.gate.ask(&self.sender.bot, kind, Instant::now()) {
                Pass::Go { probe } => return Ok(Ok(probe)),
                Pass::Wait(wait) if wait.wait <= *patience => {
                    *patience -= wait.wait;
                    self.run.pause(wait.wait).await?;
                }
                Pass::Wait(wait) => return Ok(Err(wait)),
            }
        }
    }

    pub(crate) async fn receiver(&self, bot: &Bot) -> Receiver {
        let chat = &self.row.envelope.chat;
        let app = &bot.credentials.app_id;
        let whose = self.run.engine.people.whose(app, levels::chat_of(self.action, chat));
        Receiver::of(&bot.quota, self.action, chat, whose.await.as_ref())
    }

    pub(crate) fn levels(&self, bot: &Bot, receiver: &Receiver) -> Vec<Level> {
        let mut levels = levels::levels(bot, self.action, receiver);
        for level in levels.iter_mut().filter(|level| level.key == receiver.key) {
            self.run.engine.adaptive_limits.narrow(level, Instant::now());
        }
        levels
    }

    /// What an answer says about its receiver.
    fn learn(&self, outcome: &mut Outcome, receiver: &Receiver) {
        let engine = &self.run.engine;
        match outcome {
            Outcome::Limited {
                scope: Scope::Chat,
                pause,
                ..
            } => {
                let count = receiver.rate.map(|rate| rate.count);
                *pause = Some(engine.adaptive_limits.refused(&receiver.key, count, Instant::now()));
            }
            Outcome::Sent { chat_id, .. } => {
                engine.adaptive_limits.accepted(&receiver.key);
                if let (Action::Create { to, .. }, Some(chat)) = (self.action, chat_id)
                    && to.starts_with("ou_")
                {
                    engine.people.learn(&self.sender.bot.credentials.app_id, chat, Some(to));
                }
            }
            _ => {}
        }
    }

    async fn pause_level(&self, outcome: &Outcome, receiver: &Receiver, pause: Duration) {
        let Outcome::Limited { scope, .. } = outcome else {
            return;
        };
        let key = match scope {
            Scope::Api => levels::paused_key(&self.sender.bot, self.action),
            Scope::Chat => receiver.key.clone(),
            Scope::Tenant => return,
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
            refused: self.clean,
            // Every try was counted before it began.
            tries: 0,
        }
    }
}

/// What the row says about its last failure.
fn failure(outcome: &Outcome) -> Option<(&'static str, Option<i64>, String)> {
    Some((outcome.class(), outcome.code(), outcome.message().to_owned()))
}
