//! Per bot: its rate, and whether its queue is full.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use openclaw_common::bot::{BotId, Bots};
use openclaw_common::config::Rate;
use openclaw_common::queue::Queue;
use openclaw_common::telemetry;
use tokio_util::task::TaskTracker;

/// How long a measured depth is used.
const FRESH: Duration = Duration::from_secs(1);
/// The same while this node has used less than the [`LITTLE`]th part of the room that was left. With 2,000 quiet bots every
/// event would be measured for, at the price of another message.
const FRESH_IF_CALM: Duration = Duration::from_secs(10);
const LITTLE: u64 = 100;
/// A depth that takes longer is not waited for; the publish itself then decides.
const MEASURE: Duration = Duration::from_millis(300);

/// Measurements one event waits for while others take the room that each of them finds.
const MEASUREMENTS: usize = 4;

/// The gates of all bots.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    by_bot: RwLock<HashMap<BotId, Arc<Gate>>>,
}

impl Gates {
    /// The gate of one configured bot.
    pub(crate) fn of(&self, bot: &BotId) -> Arc<Gate> {
        if let Some(gate) = self.by_bot.read().unwrap_or_else(PoisonError::into_inner).get(bot) {
            return gate.clone();
        }
        let mut by_bot = self.by_bot.write().unwrap_or_else(PoisonError::into_inner);
        by_bot.entry(bot.clone()).or_default().clone()
    }

    /// Keeps the metric of each queue's depth true when no more events come: depths are measured for events, and the last one
    /// would be told for ever.
    pub(crate) async fn watch(&self, bots: &Bots, queue: &Arc<dyn Queue>) {
        loop {
            tokio::time::sleep(FRESH_IF_CALM).await;
            for (bot, gate) in self.doubtful(bots) {
                let limit = bots.now().served(bot.as_str()).map(|bot| bot.message.queue_size);
                if let (Some(limit), Ok(_measuring)) = (limit, gate.measuring.try_lock()) {
                    gate.measure(&bot, limit, queue).await;
                }
            }
        }
    }

    /// Whose depth was above nothing a while ago. Bots that were removed leave nothing behind.
    fn doubtful(&self, bots: &Bots) -> Vec<(BotId, Arc<Gate>)> {
        let known = bots.now();
        let mut by_bot = self.by_bot.write().unwrap_or_else(PoisonError::into_inner);
        by_bot.retain(|bot, _| {
            let stays = known.served(bot.as_str()).is_some();
            if !stays {
                telemetry::QUEUE_DEPTH.set(bot.as_str(), 0.0);
            }
            stays
        });
        let doubtful = by_bot.iter().filter(|(_, gate)| lock(&gate.depth).is_doubtful());
        doubtful.map(|(bot, gate)| (bot.clone(), gate.clone())).collect()
    }
}

/// One bot's gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    passed: Mutex<VecDeque<Instant>>,
    depth: Mutex<Depth>,
    /// Held while the depth is measured: everybody who needs it waits for the same answer.
    measuring: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Depth {
    /// When it was measured, and how deep the queue was.
    measured: Option<(Instant, u64)>,
    /// Events that were given room here.
    admitted: u64,
    /// Those that are stored, or were not.
    finished: u64,
    /// `finished` when the measurement began: it has counted these, and some of the others at most.
    counted: u64,
    /// What the metric says.
    told: u64,
}

impl Depth {
    fn is_doubtful(&self) -> bool {
        let is_old = self.measured.is_none_or(|(at, _)| at.elapsed() >= FRESH_IF_CALM);
        self.told > 0 && is_old
    }
}

/// Room for one event; held until it is stored, or not.
#[derive(Debug)]
pub(crate) struct Room(Arc<Gate>);

impl Drop for Room {
    fn drop(&mut self) {
        lock(&self.0.depth).finished += 1;
    }
}

enum Verdict {
    Yes,
    /// Yes, but the measurement is old.
    Likely,
    No,
    /// What was admitted here since the measurement may have filled it.
    Doubtful,
}

impl Gate {
    /// Lets at most `rate.count` events through in any `rate.window`.
    pub(crate) fn within(&self, rate: Rate, now: Instant) -> bool {
        let mut passed = lock(&self.passed);
        while passed
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= rate.window)
        {
            passed.pop_front();
        }
        let fits = passed.len() < usize::try_from(rate.count).unwrap_or(usize::MAX);
        if fits {
            passed.push_back(now);
        }
        fits
    }

    /// Room for one more event in the bot's queue below `limit`, if there is any. The depth is measured at most once a
    /// second, and every ten seconds while little comes, in the background; sooner, and waited for, only when this node's own
    /// events may have filled the queue since.
    pub(crate) async fn room(
        self: &Arc<Self>,
        bot: &BotId,
        limit: u64,
        queue: &Arc<dyn Queue>,
        tasks: &TaskTracker,
    ) -> Option<Room> {
        for _ in 0..MEASUREMENTS {
            let asked = Instant::now();
            match self.verdict(limit) {
                Verdict::Yes => return Some(Room(self.clone())),
                Verdict::No => return None,
                Verdict::Likely => {
                    if let Ok(measuring) = self.measuring.clone().try_lock_owned() {
                        let (gate, bot, queue) = (self.clone(), bot.clone(), queue.clone());
                        tasks.spawn(async move {
                            gate.measure(&bot, limit, &queue).await;
                            drop(measuring);
                        });
                    }
                    return Some(Room(self.clone()));
                }
                Verdict::Doubtful => {
                    let measuring = self.measuring.lock().await;
                    let measured = lock(&self.depth).measured;
                    // Unless somebody else has just done it.
                    if measured.is_none_or(|(at, _)| at < asked) {
                        self.measure(bot, limit, queue).await;
                    }
                    drop(measuring);
                }
            }
        }
        None
    }

    /// Admits one event if there is room for it.
    fn verdict(&self, limit: u64) -> Verdict {
        let mut depth = lock(&self.depth);
        let (fresh, deep) = match depth.measured {
            Some((at, deep)) => {
                let calm = (depth.admitted - depth.counted).saturating_mul(LITTLE) < limit.saturating_sub(deep);
                (at.elapsed() < if calm { FRESH_IF_CALM } else { FRESH }, deep)
            }
            None => (false, 0),
        };
        if fresh && deep >= limit {
            return Verdict::No;
        }
        if deep.saturating_add(depth.admitted - depth.counted) >= limit {
            return Verdict::Doubtful;
        }
        depth.admitted += 1;
        if fresh { Verdict::Yes } else { Verdict::Likely }
    }

    /// Call it with `measuring` held.
    async fn measure(&self, bot: &BotId, limit: u64, queue: &Arc<dyn Queue>) {
        let began = Instant::now();
        let finished = lock(&self.depth).finished;
        let answer = match tokio::time::timeout(MEASURE, queue.depth(bot)).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        let mut depth = lock(&self.depth);
        match answer {
            Ok(deep) => {
                telemetry::QUEUE_DEPTH.set(bot.as_str(), deep as f64);
                if deep >= limit && depth.measured.is_none_or(|(_, before)| before < limit) {
                    tracing::error!(%bot, deep, limit, "the queue of bot {bot} is full: its events are refused until it drains");
                }
                depth.measured = Some((began, deep));
                depth.counted = finished;
                depth.told = deep;
            }
            // Whether it takes events, the next publish finds out.
            Err(error) => {
                tracing::debug!(%bot, error, "the queue's depth is not known");
                depth.measured = Some((began, 0));
                depth.counted = depth.admitted;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a gate says of `limit` when `admitted` events have come since an empty queue was found two seconds ago.
    fn verdict(limit: u64, admitted: u64) -> Verdict {
        let gate = Gate::default();
        let measured = Instant::now().checked_sub(2 * FRESH).map(|at| (at, 0));
        *lock(&gate.depth) = Depth {
            measured,
            admitted,
            ..Depth::default()
        };
        gate.verdict(limit)
    }

    #[test]
    fn a_queue_with_much_room_is_measured_each_second_only_while_much_comes() {
        assert!(matches!(verdict(1000, 9), Verdict::Yes));
        assert!(matches!(verdict(1000, 10), Verdict::Likely));
        assert!(matches!(verdict(1000, 1000), Verdict::Doubtful));
    }

    #[test]
    fn never_more_than_the_rate_in_any_window() {
        let gate = Gate::default();
        let start = Instant::now();
        let rate = Rate::per_second(5);
        let mut passed: Vec<u64> = Vec::new();
        for at in (0..5000).step_by(7) {
            if gate.within(rate, start + Duration::from_millis(at)) {
                passed.push(at);
            }
        }
        assert!(passed.windows(6).all(|six| six[5] - six[0] >= 1000), "{passed:?}");
        assert_eq!(passed.len(), 25);
    }
}
