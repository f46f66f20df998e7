//! One play: two workers, a queue that delivers at least once, a platform, an operator, a clock.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use openclaw_common::bot::BotId;
use openclaw_common::config::{Message, OnStale};
use openclaw_common::envelope::{Envelope, EventKey, Origin};
use openclaw_common::store::{Room, Standing, State};
use openclaw_common::time::now_ms;

use self::moves::{Fate, Move, Scope};
use super::Flaw;
use super::choices::Choices;
use super::gate::At;
use super::platform::{Request, Screen};
use super::stage::{Live, Stage};

pub(super) mod moves;
mod runs;
mod trouble;

/// Worker processes. Each may be the active one at any time: nothing here trusts the broker to have only one.
const WORKERS: usize = 2;
/// Rows taken from the waiting room at once.
const DUE: u32 = 64;
/// How often a worker looks into the waiting room.
const POLL: Duration = Duration::from_secs(1);
/// Longer than a retry's wait, and than a uuid is repeated, and than Feishu remembers one.
const WAITS: [Duration; 3] = [
    Duration::from_secs(20 * 60),
    Duration::from_secs(55 * 60),
    Duration::from_secs(70 * 60),
];
/// `database.retention`.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// Rounds in which everything must have come to its end once nothing goes wrong any more.
const ROUNDS: usize = 40;

/// How far a play goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    /// Actions of a plan.
    pub(super) actions: u32,
    /// Moves before nothing goes wrong any more.
    pub(super) moves: usize,
    /// How many of them are not the undisturbed course.
    pub(super) mischief: usize,
    /// Deliveries of one event beyond its first, and replays of it.
    pub(super) extras: u32,
    /// Which part of all that may go wrong.
    pub(super) scope: Scope,
}

pub(super) struct Event {
    pub(super) envelope: Arc<Envelope>,
    /// Copies that ingest has put into the queue.
    pub(super) published: u32,
    replays: u32,
    handled: u32,
    /// Deleted after its end, and no copy left: whatever comes is another event.
    pub(super) forgotten: bool,
    /// A handler or the stale policy has said that it needs no answer.
    pub(super) needs_nothing: bool,
    /// Uuids that a person's or the policy's decision made, by action.
    pub(super) resent: HashMap<u32, HashSet<String>>,
    /// Actions taken as sent by decision.
    pub(super) dropped: HashSet<u32>,
}

struct Copy {
    event: usize,
    with: Option<usize>,
}

struct Owner {
    worker: usize,
    event: usize,
    copy: Option<usize>,
    /// Whether its attachment lives: else its acknowledgements reach nobody.
    attached: bool,
    acks: Arc<Mutex<Vec<usize>>>,
    live: Live,
}

/// One play on a stage.
pub(super) struct Play<'a> {
    pub(super) stage: &'a mut Stage,
    choices: &'a mut Choices,
    bounds: Bounds,
    flaw: Option<Flaw>,
    pub(super) message: Message,
    name: String,
    pub(super) bot: BotId,
    now: Duration,
    pub(super) events: Vec<Event>,
    copies: BTreeMap<usize, Copy>,
    published: usize,
    runs: BTreeMap<u64, Owner>,
    /// By worker: the events in its memory, with further deliveries of each.
    held: Vec<HashMap<usize, Vec<usize>>>,
    wire: Vec<Request>,
    pub(super) screen: Screen,
    pub(super) standing: HashMap<EventKey, Standing>,
    story: Vec<String>,
}

/// A promise that was broken, and how it came to that.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) promise: String,
    pub(super) story: Vec<String>,
}

impl<'a> Play<'a> {
    pub(super) fn new(
        stage: &'a mut Stage,
        choices: &'a mut Choices,
        bounds: Bounds,
        message: Message,
        flaw: Option<Flaw>,
    ) -> Self {
        stage.plays += 1;
        let name = format!("p{}", stage.plays);
        let bot = BotId::new(&name).unwrap();
        let events = (0..bounds.events)
            .map(|number| Event {
                envelope: Arc::new(envelope(&bot, &format!("{name}-{number}"))),
                published: 0,
                replays: 0,
                handled: 0,
                forgotten: false,
                needs_nothing: message.on_stale != OnStale::DeadLetter,
                resent: HashMap::new(),
                dropped: HashSet::new(),
            })
            .collect();
        Self {
            stage,
            choices,
            bounds,
            flaw,
            message,
            name,
            bot,
            now: Duration::ZERO,
            events,
            copies: BTreeMap::new(),
            published: 0,
            runs: BTreeMap::new(),
            held: vec![HashMap::new(); WORKERS],
            wire: Vec::new(),
            screen: Screen::default(),
            standing: HashMap::new(),
            story: Vec::new(),
        }
    }

    /// Plays to the end. Answers what happened.
    pub(super) async fn play(mut self) -> Result<Vec<String>, Broken> {
        let course = self.course().await;
        for worker in 0..WORKERS {
            self.kill(worker, Fate::Lost, false).await;
        }
        let story = self.story;
        course.map_err(|promise| Broken {
            promise,
            story: story.clone(),
        })?;
        Ok(story)
    }

    async fn course(&mut self) -> Result<(), String> {
        for event in 0..self.events.len() {
            self.publish(event);
        }
        for _ in 0..self.bounds.moves {
            let moves = self.moves();
            let made = moves[self.choose(moves.len())];
            if matches!(made, Move::Rest) {
                break;
            }
            self.make(made).await?;
            self.check().await?;
        }
        self.settle().await?;
        self.check_ends().await
    }

    /// A choice; whatever is not the undisturbed course uses up mischief.
    fn choose(&mut self, ways: usize) -> usize {
        if self.bounds.mischief == 0 {
            return 0;
        }
        let chosen = self.choices.choose(ways);
        self.bounds.mischief -= usize::from(chosen > 0);
        chosen
    }

    fn tell(&mut self, line: String) {
        self.story.push(line);
    }

    async fn make(&mut self, made: Move) -> Result<(), String> {
        match made {
            Move::On(run, go) => self.on(run, go).await?,
            Move::Tell(run, answer, shown) => self.answer(run, answer, shown).await,
            Move::Kill(worker, fate, acked) => self.kill(worker, fate, acked).await,
            Move::Cut(worker, noticed) => self.cut(worker, noticed),
            Move::Copy(event) => self.publish(event),
            Move::Deliver(worker, copy, intent) => self.deliver(worker, copy, intent).await,
            Move::DeliverAndKill(worker, copy, committed) => self.deliver_and_kill(worker, copy, committed).await,
            Move::Due(worker) => {
                self.tell(format!("worker {worker} takes what is due"));
                // The poll's second: what is due in a moment is due.
                self.stage.tables.pass(&self.name, POLL, true).await;
                self.now += POLL;
                let room = Room {
                    full: &[],
                    per_chat: DUE,
                    answers: DUE,
                    others: DUE,
                };
                let rows = self.stage.store.take_due(&self.bot, room).await.unwrap();
                self.take_all(worker, rows).await;
            }
            Move::Look(worker) => {
                self.tell(format!("worker {worker} looks for what is nobody's"));
                let held: Vec<EventKey> = (self.held[worker].keys())
                    .map(|event| self.events[*event].envelope.key.clone())
                    .collect();
                let unfinished = self.stage.store.unfinished(&self.bot, &held).await.unwrap();
                self.take_all(worker, unfinished.rows).await;
            }
            Move::Land => self.land(),
            Move::Pass(time) => self.pass(time).await,
            Move::Replay(unknown, twice) => self.replay(unknown, twice).await,
            Move::Purge => self.purge().await,
            Move::Rest => {}
        }
        Ok(())
    }

    /// From here on nothing goes wrong: everything must come to its end.
    async fn settle(&mut self) -> Result<(), String> {
        self.bounds.mischief = 0;
        self.tell("from here on all is well".to_owned());
        self.land();
        for _ in 0..ROUNDS {
            while let Some(&made) = self.moves().first().filter(|made| !matches!(made, Move::Rest)) {
                self.make(made).await?;
                self.check().await?;
            }
            self.make(Move::Look(0)).await?;
            if self.runs.is_empty() {
                let over = |standing: &Standing| matches!(standing.state, State::Done | State::Dead);
                if self.copies.is_empty() && self.standing.values().all(over) {
                    return Ok(());
                }
                self.pass(WAITS[0]).await;
            }
            self.check().await?;
        }
        Err("L: not everything comes to an end".to_owned())
    }

    /// A run that has acknowledged its delivery and still has something to do.
    pub(super) fn acknowledged_early(&self) -> Option<usize> {
        let early =
            |owner: &&Owner| !matches!(owner.live.at, At::Ended { .. }) && !owner.acks.lock().unwrap().is_empty();
        self.runs.values().find(early).map(|owner| owner.event)
    }

    pub(super) fn copies_of(&self, event: usize) -> usize {
        self.copies.values().filter(|copy| copy.event == event).count()
    }
}

pub(super) fn envelope(bot: &BotId, key: &str) -> Envelope {
    Envelope {
        key: EventKey::new(super::APP, key),
        bot: bot.clone(),
        origin: Origin::Push,
        event_type: "im.message.receive_v1".into(),
        chat: format!("oc_{key}").into(),
        tenant: "tenant".into(),
        created_ms: now_ms(),
        received_ms: now_ms(),
        traceparent: None,
        body: Bytes::from_static(
            br#"{"event":{"message":{"message_id":"om_1","message_type":"text","chat_id":"oc_1","content":"{}"}}}"#,
        ),
    }
}
