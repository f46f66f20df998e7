//! Where a play may go one way or another.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Decides every branch of a play. The first way is always the undisturbed one.
pub(super) enum Choices {
    /// By chance: disturbs one time in three.
    Random(Box<StdRng>),
    /// One path of a tree that is walked completely: what was chosen at each fork, and of how many ways. A fork that is
    /// not the same the second time is counted, and walked as it is now.
    Path {
        forks: Vec<(usize, usize)>,
        at: usize,
        strayed: u64,
    },
}

impl Choices {
    pub(super) fn seeded(seed: u64) -> Self {
        Self::Random(Box::new(StdRng::seed_from_u64(seed)))
    }

    /// The first path of a tree.
    pub(super) fn first() -> Self {
        Self::Path {
            forks: Vec::new(),
            at: 0,
            strayed: 0,
        }
    }

    /// Forks so far that were not the same the second time.
    pub(super) fn strayed(&self) -> u64 {
        match self {
            Self::Random(_) => 0,
            Self::Path { strayed, .. } => *strayed,
        }
    }

    /// One of `ways`; 0 unless something is to go wrong.
    pub(super) fn choose(&mut self, ways: usize) -> usize {
        match self {
            _ if ways < 2 => 0,
            Self::Random(random) => match random.random_bool(0.65) {
                true => 0,
                false => random.random_range(1..ways),
            },
            Self::Path { forks, at, strayed } => {
                if forks.get(*at).is_some_and(|(_, before)| *before != ways) {
                    forks.truncate(*at);
                    *strayed += 1;
                }
                if forks.len() == *at {
                    forks.push((0, ways));
                }
                *at += 1;
                forks[*at - 1].0
            }
        }
    }

    /// The next path; `None` when all have been walked.
    pub(super) fn next(self) -> Option<Self> {
        let Self::Path { mut forks, strayed, .. } = self else {
            return None;
        };
        while let Some((chosen, ways)) = forks.pop() {
            if chosen + 1 < ways {
                forks.push((chosen + 1, ways));
                return Some(Self::Path { forks, at: 0, strayed });
            }
        }
        None
    }
}
