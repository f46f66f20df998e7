//! Which bots this worker consumes.
//!
//! Rendezvous hashing over the live workers gives each bot a primary and a standby; only those two attach. The broker
//! lets one of them be active: whoever attached first, so the standby attaches after the primary has announced that it
//! consumes. Membership is in the Cache; while that is away, the members stay as last seen, and the broker's single
//! active consumer keeps the promise of order whatever the members believe.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openclaw_common::bot::BotId;
use openclaw_common::cache::{Cache, Member};
use openclaw_common::queue::Deliveries;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::levels;
use crate::runner::{Command, Runner, Status};

const BEAT: Duration = Duration::from_secs(1);
/// A worker that has not been heard of for so long has gone. Until then a bot whose primary and standby both died waits for
/// them.
const MEMBER_TTL: Duration = Duration::from_secs(5);
/// How long a standby waits for the primary to attach first.
const STANDBY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a bot must have been nobody's before a worker serves it without a delivery. Longer than it takes an announcement
/// to come round (two beats): after a broken link everybody attaches at once, the broker chooses one, and a second one that
/// serves as well, because it has not heard of the first yet, would answer what waits in its own order.
const SERVE_PATIENCE: Duration = Duration::from_secs(4);
/// A bot moves back to its primary at most so often.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(60);

/// The bots that this worker is attached to, seen by the placement and the waiting room.
#[derive(Clone, Default)]
pub(crate) struct Roster(Arc<Mutex<HashMap<BotId, Place>>>);

struct Place {
    status: Arc<Status>,
    commands: mpsc::Sender<Command>,
    revoked: CancellationToken,
}

impl Roster {
    /// The bots that this worker actively serves.
    pub(crate) fn served(&self) -> Vec<BotId> {
        self.with(|places| {
            places
                .iter()
                .filter(|(_, place)| place.status.serves())
                .map(|(bot, _)| bot.clone())
                .collect()
        })
    }

    /// Whether this worker serves the bot and holds nothing of it.
    pub(crate) fn is_idle(&self, bot: &BotId) -> bool {
        self.with(|places| places.get(bot).is_some_and(|place| place.status.is_idle()))
    }

    /// Tells a bot's runner something; one that is busy is told again a second later.
    pub(crate) fn tell(&self, bot: &BotId, command: Command) {
        self.with(|places| {
            if let Some(place) = places.get(bot) {
                place.commands.try_send(command).ok();
            }
        });
    }

    fn with<R>(&self, look: impl FnOnce(&mut HashMap<BotId, Place>) -> R) -> R {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a worker announces to the others.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Note {
    consumes: BTreeSet<String>,
    /// The broker delivers here. Workers before this field said it with the last one.
    receives: BTreeSet<String>,
    serves: BTreeSet<String>,
    /// Served, because the broker has delivered.
    proved: BTreeSet<String>,
}

/// Places bots until the worker drains. Returns what must outlive the consuming connection.
pub(crate) struct Placement {
    engine: Arc<Engine>,
    cache: Arc<dyn Cache>,
    roster: Roster,
    id: String,
    members: Vec<(String, Note)>,
    /// Whether the last beat was answered.
    heard: bool,
    runners: JoinSet<(BotId, Option<Deliveries>)>,
    standby_since: HashMap<BotId, Instant>,
    unserved_since: HashMap<BotId, Instant>,
    given_back: HashMap<BotId, Instant>,
}

impl Placement {
    pub(crate) fn new(engine: Arc<Engine>, cache: Arc<dyn Cache>, roster: Roster, id: String) -> Self {
        Self {
            engine,
            cache,
            roster,
            id,
            members: Vec::new(),
            heard: false,
            runners: JoinSet::new(),
            standby_since: HashMap::new(),
            unserved_since: HashMap::new(),
            given_back: HashMap::new(),
        }
    }

    pub(crate) async fn run(mut self) -> Vec<Deliveries> {
        let drain = self.engine.drain.clone();
        let mut bots = self.engine.bots.watch();
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                _ = beat.tick() => self.beat().await,
                Ok(()) = bots.changed() => {}
                Some(ended) = self.runners.join_next() => self.runner_ended(ended),
            }
            self.place();
        }
        if let Err(error) = self.cache.leave(&self.id).await {
            tracing::debug!(%error, "could not take the announcement back; it ends by itself");
        }
        let mut kept = Vec::new();
        while let Some(ended) = self.runners.join_next().await {
            if let Ok((_, Some(deliveries))) = ended {
                kept.push(deliveries);
            }
        }
        kept
    }

    fn runner_ended(&mut self, ended: Result<(BotId, Option<Deliveries>), tokio::task::JoinError>) {
        match ended {
            Ok((bot, _)) => self.roster.with(|places| drop(places.remove(&bot))),
            // The process ends.
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                tracing::error!(%error, "a bot's runner panicked: its bots are attached anew");
                self.roster
                    .with(|places| places.retain(|_, place| !place.commands.is_closed()));
            }
        }
    }

    async fn beat(&mut self) {
        let note = self.roster.with(|places| {
            let named = |wanted: fn(&Status) -> bool| {
                places
                    .iter()
                    .filter(|(_, place)| wanted(&place.status))
                    .map(|(bot, _)| bot.to_string())
                    .collect()
            };
            Note {
                consumes: named(Status::consumes),
                receives: named(Status::receives),
                serves: named(Status::serves),
                proved: named(Status::proved),
            }
        });
        let note = serde_json::to_string(&note).unwrap_or_default();
        let me = Member {
            id: self.id.clone(),
            note,
        };
        match self.cache.beat(&me, MEMBER_TTL).await {
            Ok(members) => {
                self.heard = true;
                self.members = members
                    .into_iter()
                    .map(|member| (member.id, serde_json::from_str(&member.note).unwrap_or_default()))
                    .collect();
            }
            Err(error) => {
                self.heard = false;
                tracing::debug!(%error, "the members stay as last seen");
            }
        }
        if self.members.iter().all(|(id, _)| *id != self.id) {
            self.members.push((self.id.clone(), Note::default()));
        }
    }

    fn place(&mut self) {
        let bots = self.engine.bots.now();
        self.engine.quota.share(levels::shared(&bots));
        self.roster.with(|places| {
            for (id, place) in places.iter() {
                if bots.served(id.as_str()).is_none() {
                    place.revoked.cancel();
                }
            }
        });
        for bot in bots.all_served() {
            self.place_bot(&bot.id);
        }
    }

    fn place_bot(&mut self, bot: &BotId) {
        let ranked = ranked(&self.members, bot);
        let rank = ranked.iter().position(|(id, _)| *id == self.id);
        let above = || ranked.iter().take_while(|(id, _)| *id != self.id);
        let others = || ranked.iter().filter(|(id, _)| *id != self.id);
        let consumed_above = above().any(|(_, note)| note.consumes.contains(bot.as_str()));
        let served_above = above().any(|(_, note)| note.serves.contains(bot.as_str()));
        let served_elsewhere = others().any(|(_, note)| note.serves.contains(bot.as_str()));
        let proved_elsewhere = others().any(|(_, note)| note.proved.contains(bot.as_str()));
        let fed_elsewhere = proved_elsewhere || others().any(|(_, note)| note.receives.contains(bot.as_str()));
        let place = self.roster.with(|places| {
            places
                .get(bot)
                .map(|place| (place.status.clone(), place.revoked.clone()))
        });
        if let Some((status, _)) = &place {
            status.set_alone(status.serves() || self.heard && !fed_elsewhere);
        }
        let mut unserved = false;
        match (place, rank) {
            (None, Some(0)) => self.attach(bot),
            (None, Some(1)) => {
                let since = *self.standby_since.entry(bot.clone()).or_insert_with(Instant::now);
                if consumed_above || since.elapsed() > STANDBY_PATIENCE {
                    self.attach(bot);
                }
            }
            (Some((status, revoked)), rank) if status.consumes() => {
                if status.serves() && !status.proved() && (proved_elsewhere || served_above) {
                    // The broker has chosen another, or is going to: two must not look after one bot's rows.
                    revoked.cancel();
                } else if !status.serves() {
                    if rank.is_none_or(|rank| rank > 1) {
                        revoked.cancel();
                    } else if self.heard && !served_elsewhere && !consumed_above {
                        unserved = true;
                        let since = *self.unserved_since.entry(bot.clone()).or_insert_with(Instant::now);
                        if since.elapsed() > SERVE_PATIENCE {
                            self.roster.tell(bot, Command::Serve);
                        }
                    }
                } else if rank != Some(0) && consumed_above && self.may_give_back(bot) {
                    self.roster.tell(bot, Command::GiveBack);
                }
            }
            _ => {}
        }
        if !unserved {
            self.unserved_since.remove(bot);
        }
        if rank != Some(1) {
            self.standby_since.remove(bot);
        }
    }

    fn may_give_back(&mut self, bot: &BotId) -> bool {
        if self
            .given_back
            .get(bot)
            .is_some_and(|last| last.elapsed() < GIVE_BACK_EVERY)
        {
            return false;
        }
        self.given_back.insert(bot.clone(), Instant::now());
        true
    }

    fn attach(&mut self, bot: &BotId) {
        let status = Arc::new(Status::default());
        let revoked = CancellationToken::new();
        let (commands, received) = mpsc::channel(4);
        let runner = Runner::new(
            self.engine.clone(),
            bot.clone(),
            status.clone(),
            received,
            revoked.clone(),
        );
        self.roster.with(|places| {
            places.insert(
                bot.clone(),
                Place {
                    status,
                    commands,
                    revoked,
                },
            )
        });
        let bot = bot.clone();
        self.runners.spawn(async move { (bot, runner.run().await) });
    }
}

/// The members by their weight for `bot`, the primary first.
fn ranked<'a>(members: &'a [(String, Note)], bot: &BotId) -> Vec<&'a (String, Note)> {
    let mut ranked: Vec<_> = members.iter().map(|member| (weight(&member.0, bot), member)).collect();
    ranked.sort_by(|(left, a), (right, b)| right.cmp(left).then_with(|| a.0.cmp(&b.0)));
    ranked.into_iter().map(|(_, member)| member).collect()
}

/// Rendezvous hashing: when a worker comes or goes, only the bots it wins or held move.
fn weight(member: &str, bot: &BotId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(member.as_bytes())
        .update(b"\0")
        .update(bot.as_str().as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn members(names: &[&str]) -> Vec<(String, Note)> {
        names.iter().map(|name| ((*name).to_owned(), Note::default())).collect()
    }

    #[test]
    fn a_new_worker_takes_only_its_share_and_nothing_else_moves() {
        let (before, after) = (members(&["a", "b", "c"]), members(&["a", "b", "c", "d"]));
        let mut moved = 0;
        for number in 0..1000 {
            let bot = BotId::new(&format!("bot{number}")).unwrap();
            let (old, new) = (&ranked(&before, &bot)[0].0, &ranked(&after, &bot)[0].0);
            if old != new {
                assert_eq!(new, "d", "a bot moved between workers that were there before");
                moved += 1;
            }
        }
        assert!(
            (150..350).contains(&moved),
            "{moved} of 1000 moved to the fourth worker"
        );
    }
}
