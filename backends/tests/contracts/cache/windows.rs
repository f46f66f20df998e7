//! Whatever workers do and whatever happens to them, no window of any level holds more than its limit of **arrivals**.
//!
//! The model is the platform's side: workers take slots, wake late or not at all, send, and hear back; messages travel;
//! levels are paused; slots come back; the server forgets everything. Time is the model's own. The pure log and the
//! scripts in a real Redis run the same stories.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use openclaw_common::cache::Level;
use openclaw_common::quota::{HORIZON, JITTER, LATE_GUARD, Offer, SlidingWindowLog, WIDEST_GUARD};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use testkit::Servers;

use super::differential::Scripts;
use super::level;

/// Of the order of a real server's clock.
const BEGIN: u64 = 1_800_000_000_000_000;
/// How often a send that is on its way renews its slot.
const RENEWED: u64 = 400_000;
/// The one worker whose sends may be slow; it is never frozen, because then nothing would renew its slots.
const SLOW_WORKER: usize = 0;
/// How late each worker may start to send; the last two have a slow way to Redis.
const GUARDS: [Duration; 4] = [LATE_GUARD, LATE_GUARD, Duration::from_millis(60), WIDEST_GUARD];

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// A worker takes slots, and starts so late after each; each message travels, and is answered, for so long.
    Take {
        worker: usize,
        send: usize,
        times: u32,
        late: u64,
        travel: u64,
        answer: u64,
    },
    GiveBack(usize),
    Pause {
        level: usize,
        pause: u64,
    },
    /// The worker stands still: its clock jumps over everything it meant to do meanwhile.
    Freeze {
        worker: usize,
        pause: u64,
    },
    /// FLUSHALL, another process in its place, a failover.
    Forget,
}

#[derive(Clone, Debug)]
struct Story {
    steps: Vec<Step>,
    /// Sends in flight while everything is forgotten have nobody to count them but their own process. So a story has slow
    /// sends, or a server that forgets.
    forgets: bool,
}

fn story() -> impl Strategy<Value = Story> {
    let late = prop_oneof![4 => 0..=15_000u64, 2 => 15_001..=250_000u64, 1 => 250_001..3_000_000u64];
    let travel = prop_oneof![4 => 0..=10_000u64, 1 => 10_001..2_500_000u64];
    let step = prop_oneof![
        6 => (0..400_000u64).prop_map(Step::Pass),
        1 => (0..3_000_000u64).prop_map(Step::Pass),
        10 => (0..4usize, 0..5usize, 1..70u32, late, travel, 0..500_000u64).prop_map(
            |(worker, send, times, late, travel, answer)| Step::Take { worker, send, times, late, travel, answer }
        ),
        2 => any::<usize>().prop_map(Step::GiveBack),
        1 => (0..6usize, 0..1_500_000u64).prop_map(|(level, pause)| Step::Pause { level, pause }),
        2 => (1..4usize, 0..6_000_000u64).prop_map(|(worker, pause)| Step::Freeze { worker, pause }),
        2 => Just(Step::Forget),
    ];
    (prop::collection::vec(step, 1..100), any::<bool>()).prop_map(|(steps, forgets)| Story { steps, forgets })
}

/// Two bots, a chat of both, one of the first, an account, and an app's minute.
fn levels(worker: usize) -> [Level; 6] {
    // The second bot's limit is being lowered, and one process has not read it yet.
    let lowered = if worker == 1 { 4 } else { 3 };
    [
        level("b:1", 5, 1),
        level("b:2", lowered, 1),
        level("c:shared", 5, 1),
        level("c:1", 1, 1),
        level("acc:x", 55, 1),
        level("a:1", 90, 60),
    ]
}

/// The most any process thinks each may have.
const LIMITS: [usize; 6] = [5, 4, 5, 1, 55, 90];

fn levels_of(worker: usize, send: usize) -> Vec<Level> {
    let chosen: &[usize] = [&[0, 2][..], &[0, 3], &[4, 1, 2], &[4, 5], &[4]][send];
    chosen.iter().map(|index| levels(worker)[*index].clone()).collect()
}

/// What is asked for slots.
trait Slots {
    /// A name of the slot, if one was taken, and when it is.
    fn take(&mut self, now: u64, late: Duration, levels: &[Level]) -> Option<(u64, String)>;
    fn give_back(&mut self, levels: &[Level], slot: &str);
    /// Gives the slot's new name.
    fn hold(&mut self, now: u64, levels: &[Level], slot: &str) -> String;
    fn pause(&mut self, now: u64, key: &str, pause: u64);
    fn forget(&mut self, now: u64);
    /// How late this one lets a worker be.
    fn guard(&self, worker: usize) -> Duration;
}

/// A send that is due, under way, or over.
#[derive(Clone, Debug)]
struct Send {
    worker: usize,
    levels: Vec<Level>,
    kind: usize,
    slot: String,
    at: u64,
    late: u64,
    travel: u64,
    answer: u64,
    arrived: Option<u64>,
}

/// What happens to a send at a time.
#[derive(Clone, Copy, Debug)]
enum Moment {
    Start,
    /// The worker renews the slot; the last time because the answer has come.
    Hold {
        answered: u64,
    },
}

#[derive(Default)]
struct Model {
    now: u64,
    sends: Vec<Send>,
    agenda: BTreeMap<(u64, usize), Moment>,
    frozen_until: [u64; 4],
}

impl Model {
    fn tell(story: &Story, slots: &mut dyn Slots) -> TestCaseResult {
        let mut model = Self {
            now: BEGIN,
            ..Self::default()
        };
        for step in &story.steps {
            model.step(step, story.forgets, slots)?;
        }
        model.pass(BEGIN * 2, slots);
        model.judge(story.forgets)
    }

    fn step(&mut self, step: &Step, forgets: bool, slots: &mut dyn Slots) -> TestCaseResult {
        match *step {
            Step::Pass(time) => self.pass(self.now + time, slots),
            Step::Take {
                worker,
                send,
                times,
                late,
                travel,
                answer,
            } if self.frozen_until[worker] <= self.now => {
                let slow = worker == SLOW_WORKER && !forgets;
                let travel = if slow {
                    travel
                } else {
                    travel.min(JITTER.as_micros() as u64)
                };
                let levels = levels_of(worker, send);
                for _ in 0..times {
                    let Some((at, slot)) = slots.take(self.now, slots.guard(worker), &levels) else {
                        break;
                    };
                    prop_assert!(at >= self.now && at <= self.now + HORIZON.as_micros() as u64);
                    self.agenda.insert((at + late, self.sends.len()), Moment::Start);
                    self.sends.push(Send {
                        worker,
                        levels: levels.clone(),
                        kind: send,
                        slot,
                        at,
                        late,
                        travel,
                        answer,
                        arrived: None,
                    });
                }
            }
            Step::GiveBack(which) if !self.sends.is_empty() => {
                let index = which % self.sends.len();
                let send = &self.sends[index];
                // Only who still waits for his slot gives it back, and then does not send.
                if self.agenda.remove(&(send.at + send.late, index)).is_some() {
                    slots.give_back(&send.levels, &send.slot);
                }
            }
            Step::Pause { level, pause } => slots.pause(self.now, &levels(0)[level].key, pause),
            Step::Freeze { worker, pause } => self.frozen_until[worker] = self.now + pause,
            Step::Forget if forgets => slots.forget(self.now),
            Step::Take { .. } | Step::GiveBack(_) | Step::Forget => {}
        }
        Ok(())
    }

    /// Lets everything happen that is due until then.
    fn pass(&mut self, until: u64, slots: &mut dyn Slots) {
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((due, index), moment) = (*entry.key(), *entry.get());
            entry.remove();
            self.now = due;
            let send = &mut self.sends[index];
            let wakes = self.frozen_until[send.worker];
            match moment {
                _ if wakes > due => {
                    self.agenda.insert((wakes, index), moment);
                }
                Moment::Start if due <= send.at + slots.guard(send.worker).as_micros() as u64 => {
                    let answered = due + send.travel + send.answer;
                    send.arrived = Some(due + send.travel);
                    self.agenda
                        .insert((answered.min(due + RENEWED), index), Moment::Hold { answered });
                }
                // Too late: it gives this slot back instead of sending.
                Moment::Start => slots.give_back(&send.levels, &send.slot),
                Moment::Hold { answered } => {
                    send.slot = slots.hold(due, &send.levels, &send.slot);
                    if due < answered {
                        self.agenda
                            .insert((answered.min(due + RENEWED), index), Moment::Hold { answered });
                    }
                }
            }
        }
        self.now = until;
    }

    fn judge(&self, forgets: bool) -> TestCaseResult {
        for (index, level) in levels(0).iter().enumerate() {
            // A server that forgot cannot know of a minute; the sender's own memory does.
            if forgets && level.window > Duration::from_secs(1) {
                continue;
            }
            let counted = |send: &&Send| {
                levels_of(send.worker, send.kind)
                    .iter()
                    .any(|counts| counts.key == level.key)
            };
            let mut arrivals: Vec<u64> = self
                .sends
                .iter()
                .filter(counted)
                .filter_map(|send| send.arrived)
                .collect();
            arrivals.sort_unstable();
            for run in arrivals.windows(LIMITS[index] + 1) {
                let span = run[run.len() - 1] - run[0];
                let window = level.window.as_micros() as u64;
                prop_assert!(span >= window, "{} of {} within {} µs", run.len(), level.key, span);
            }
        }
        Ok(())
    }
}

/// The log, which names a slot by its time and number. Its workers all have the default guard.
struct Pure(SlidingWindowLog);

impl Pure {
    fn parts(slot: &str) -> (u64, u64) {
        let (at, id) = slot.split_once(':').unwrap();
        (at.parse().unwrap(), id.parse().unwrap())
    }
}

impl Slots for Pure {
    fn take(&mut self, now: u64, _late: Duration, levels: &[Level]) -> Option<(u64, String)> {
        match self.0.take(now, levels, HORIZON) {
            Offer::Slot { at, id } => Some((at, format!("{at}:{id}"))),
            Offer::Later { .. } => None,
        }
    }

    fn give_back(&mut self, levels: &[Level], slot: &str) {
        let (at, id) = Self::parts(slot);
        self.0.give_back(levels, at, id);
    }

    fn hold(&mut self, now: u64, levels: &[Level], slot: &str) -> String {
        let (at, id) = Self::parts(slot);
        format!("{}:{id}", self.0.hold(now, levels, at, id))
    }

    fn pause(&mut self, now: u64, key: &str, pause: u64) {
        self.0.pause(key, now + pause);
    }

    fn forget(&mut self, now: u64) {
        self.0 = SlidingWindowLog::new(now);
    }

    fn guard(&self, _worker: usize) -> Duration {
        LATE_GUARD
    }
}

/// The scripts on a real server.
struct Shipped<'a> {
    scripts: &'a mut Scripts,
    takes: u64,
}

impl Slots for Shipped<'_> {
    fn take(&mut self, now: u64, late: Duration, levels: &[Level]) -> Option<(u64, String)> {
        self.takes += 1;
        let (granted, wait, rest) = self.scripts.take(now, levels, "run", self.takes, late);
        granted.then(|| (now + wait, redis::from_redis_value(rest).unwrap()))
    }

    fn give_back(&mut self, levels: &[Level], slot: &str) {
        self.scripts.give_back(levels, slot);
    }

    fn hold(&mut self, now: u64, levels: &[Level], slot: &str) -> String {
        self.scripts.hold(now, levels, slot);
        slot.to_owned()
    }

    fn pause(&mut self, now: u64, key: &str, pause: u64) {
        self.scripts.pause(now, key, pause);
    }

    fn forget(&mut self, _now: u64) {
        self.scripts.flush();
    }

    fn guard(&self, worker: usize) -> Duration {
        GUARDS[worker]
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    })
}

#[test]
fn no_window_holds_more_arrivals_than_its_limit_by_the_board() {
    runner(1_000)
        .run(&story(), |story| {
            Model::tell(&story, &mut Pure(SlidingWindowLog::new(BEGIN)))
        })
        .unwrap();
}

#[tokio::test]
async fn no_window_holds_more_arrivals_than_its_limit_by_the_script() {
    let server = Servers::redis().await;
    let scripts = RefCell::new(Scripts::new(&server));
    runner(150)
        .run(&story(), |story| {
            let mut scripts = scripts.borrow_mut();
            scripts.flush();
            let slots = &mut Shipped {
                scripts: &mut scripts,
                takes: 0,
            };
            Model::tell(&story, slots)
        })
        .unwrap();
}

/// The case that random stories seldom hit: the latest send of the widest guard, and the earliest slot after all was forgotten.
#[tokio::test]
async fn what_a_wide_guard_sends_last_is_a_window_before_what_a_server_that_forgot_grants_first() {
    let server = Servers::redis().await;
    let mut scripts = Scripts::new(&server);
    let take = |worker, late| Step::Take {
        worker,
        send: 1,
        times: 1,
        late,
        travel: if late > 0 { 10_000 } else { 0 },
        answer: 0,
    };
    let widest = WIDEST_GUARD.as_micros() as u64;
    let mut steps = vec![take(3, widest), Step::Pass(2_000_000), take(3, widest)];
    // A window after the last one, at the far end of the horizon.
    steps.extend([Step::Pass(1_000_000), take(3, widest), Step::Forget, take(1, 0)]);
    // Until well after the silence, or the story ends before anything is granted.
    steps.extend((0..80).flat_map(|_| [Step::Pass(25_000), take(1, 0)]));
    let story = Story { steps, forgets: true };
    let mut shipped = Shipped {
        scripts: &mut scripts,
        takes: 0,
    };
    Model::tell(&story, &mut shipped).unwrap();
}
