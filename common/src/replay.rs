//! Replaying a bot's dead letters with care: oldest first, in small chunks, at a rate, and no further when most of a chunk
//! died again.
//!
//! Everything that matters is in the Store (`docs/design/delivery.md` §9): a letter is replayed in one transaction guarded by
//! `state = 'dead'`, so this may be killed, repeated and run twice at once; and places in a bot's schedule are given out by
//! the Store, so that several replays together are no faster than one.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::fail_point::fail_point;
use crate::store::{DeadFilter, DeadLetter, Replay, Replayed, State, Store, StoreError, UnknownChoice};

/// Letters between two looks at what became of them (`docs/design/delivery.md` §9).
pub const CHUNK: u32 = 20;

/// When nothing of a chunk that is due has moved for so long, nobody works on it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at a chunk.
const LOOK: Duration = Duration::from_millis(250);

/// A replay of one bot's dead letters.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Which letters. Bounded by [`DeadFilter::before`], or what dies again is replayed again.
    pub filter: DeadFilter,
    /// Between two letters.
    pub spacing: Duration,
    /// What becomes of actions whose outcome is unknown; `None` skips their letters.
    pub unknown: Option<UnknownChoice>,
    /// Also what was replayed three times already.
    pub force: bool,
    /// For the audit.
    pub who: String,
    /// How long to wait for the next sign of a worker, [`PATIENCE`] for one; `None` where no worker can run meanwhile:
    /// then everything is replayed without a look.
    pub patience: Option<Duration>,
}

/// How a campaign ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every letter was replayed or left alone.
    Finished,
    /// `stop` was cancelled.
    Stopped,
    /// More than half of a chunk died again.
    DiedAgain {
        /// So many died.
        died: usize,
        /// Of so many replayed.
        of: usize,
        /// The youngest of the new dead letters.
        example: Option<Box<DeadLetter>>,
    },
    /// Nobody works on a chunk.
    NobodyThere {
        /// So many wait for a worker.
        waiting: usize,
    },
}

/// How a chunk fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fates {
    revived: usize,
    died: usize,
    pending: usize,
    /// Somebody should be at work on one of them.
    due: bool,
}

impl Campaign {
    /// Replays. `replayed` hears of every chunk at once, so that its figures hold whatever happens after.
    ///
    /// # Errors
    /// When the Store cannot answer. Running the campaign again goes on where this one ended.
    pub async fn run(
        &self,
        store: &dyn Store,
        stop: &CancellationToken,
        mut replayed: impl FnMut(&Replayed),
    ) -> Result<Ending, StoreError> {
        let mut filter = DeadFilter {
            oldest_first: true,
            ..self.filter.clone()
        };
        while !stop.is_cancelled() {
            let letters = store.dead_letters(&filter, CHUNK).await?;
            let Some(last) = letters.last() else {
                return Ok(Ending::Finished);
            };
            filter.after = Some(last.id);
            let answer = store.replay(&self.order(&letters)).await?;
            fail_point("P1", "");
            replayed(&answer);
            let Some(patience) = self.patience.filter(|_| !answer.done.is_empty()) else {
                continue;
            };
            if let Some(ending) = self.watch(store, &letters, patience, stop).await? {
                return Ok(ending);
            }
        }
        Ok(Ending::Stopped)
    }

    fn order(&self, letters: &[DeadLetter]) -> Replay {
        Replay {
            ids: letters.iter().map(|letter| letter.id).collect(),
            first_in: Duration::ZERO,
            spacing: self.spacing,
            unknown: self.unknown,
            force: self.force,
            who: self.who.clone(),
        }
    }

    /// Waits until the chunk has been tried. `None`: it fared well enough to go on.
    async fn watch(
        &self,
        store: &dyn Store,
        letters: &[DeadLetter],
        patience: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Ending>, StoreError> {
        let mut seen = (Fates::default(), Instant::now());
        loop {
            let fates = fates(store, letters).await?;
            if fates.died * 2 > fates.revived {
                return self.died_again(store, letters, fates).await.map(Some);
            }
            if fates.pending == 0 {
                return Ok(None);
            }
            if fates != seen.0 || !fates.due {
                seen = (fates, Instant::now());
            }
            if seen.1.elapsed() > patience {
                let waiting = fates.pending;
                return Ok(Some(Ending::NobodyThere { waiting }));
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return Ok(None),
            }
        }
    }

    async fn died_again(&self, store: &dyn Store, letters: &[DeadLetter], fates: Fates) -> Result<Ending, StoreError> {
        let newest = DeadFilter {
            bot: self.filter.bot.clone(),
            after: letters.last().map(|letter| letter.id),
            ..DeadFilter::default()
        };
        let example = store
            .dead_letters(&newest, CHUNK)
            .await?
            .into_iter()
            .find(|new| letters.iter().any(|old| old.key == new.key));
        Ok(Ending::DiedAgain {
            died: fates.died,
            of: fates.revived,
            example: example.map(Box::new),
        })
    }
}

async fn fates(store: &dyn Store, letters: &[DeadLetter]) -> Result<Fates, StoreError> {
    let keys: Vec<_> = letters.iter().map(|letter| letter.key.clone()).collect();
    let standings = store.standing(&keys).await?;
    let mut fates = Fates::default();
    for letter in letters {
        // Gone with the retention, or not replayed: no longer this chunk's business.
        let Some(standing) = standings
            .get(&letter.key)
            .filter(|standing| standing.replay_generation > letter.replay_generation)
        else {
            continue;
        };
        fates.revived += 1;
        match standing.state {
            State::Dead => fates.died += 1,
            State::Done => {}
            // Tried, and tried again later: it may yet end well.
            State::Waiting if standing.attempt > 0 => {}
            State::Waiting => {
                fates.pending += 1;
                fates.due |= standing.due_in.is_none_or(|due_in| due_in.is_zero());
            }
            State::Received | State::Planned => {
                fates.pending += 1;
                fates.due = true;
            }
        }
    }
    Ok(fates)
}
