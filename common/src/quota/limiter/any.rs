//! One slot among several ways to send: whichever is free first, and none of another way wasted.

use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::patience::Patience;
use super::{Answer, Held, Later, Level, Permit, Quota, Refused, Urgency};

/// A slot of one of several ways, taken and not yet used. To be redeemed or returned.
#[derive(Debug)]
pub struct Reservation {
    /// Which way.
    pub way: usize,
    came: Instant,
    held: Held,
}

/// A slot this close is as good as one now: no other way is asked.
const SOON: std::time::Duration = std::time::Duration::from_millis(2);

impl Quota {
    /// Waits for the earliest slot of several ways to send, each with its own levels. The slot may lie up to the horizon
    /// ahead: time to note the choice. `first` is asked first, so that whoever turns it spreads what finds every way free.
    ///
    /// # Errors
    /// [`Refused`]: cancelled, or a wait of minutes on every way. No ways at all never have a slot.
    pub async fn reserve(
        &self,
        ways: &[Vec<Level>],
        first: usize,
        urgency: &Urgency,
        cancel: &CancellationToken,
    ) -> Result<Reservation, Refused> {
        let came = Instant::now();
        // One question at a time: a slot that comes as the answer to a second one would be lost.
        let asking = tokio::sync::Mutex::new(());
        let mut waiting: FuturesUnordered<_> = (0..ways.len())
            .map(|turn| (first + turn) % ways.len())
            .map(|way| self.wait_for_way(way, &ways[way], urgency, &asking))
            .collect();
        let mut parked = std::time::Duration::MAX;
        let ready = async {
            while let Some(answer) = waiting.next().await {
                match answer {
                    Ok(found) => return Ok(found),
                    Err(Refused::Park(wait)) => parked = parked.min(wait),
                    Err(refused) => return Err(refused),
                }
            }
            Err(Refused::Park(parked))
        };
        // Never dropped while a question is on its way: that ends within the cache's own time limit.
        let (mut way, mut held) = tokio::select! {
            found = ready => found?,
            () = async { cancel.cancelled().await; let _idle = asking.lock().await; } => return Err(Refused::Cancelled),
        };
        drop(waiting);
        // A slot that lies ahead may not be the earliest: whoever is not in a line yet has not been asked.
        let others = (1..ways.len()).map(|turn| (way + turn) % ways.len());
        for other in others.collect::<Vec<_>>() {
            if held.at <= Instant::now() + SOON {
                break;
            }
            if self.lines.is_waited_for(&ways[other]) {
                continue;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Answer::Slot(found) = self.ask(&ways[other]).await {
                let (worse, later) = if found.at < held.at {
                    (std::mem::replace(&mut way, other), std::mem::replace(&mut held, found))
                } else {
                    (other, found)
                };
                self.give_back(&ways[worse], later).await;
            }
        }
        Ok(Reservation { way, came, held })
    }

    /// Waits for the reserved time. `None`: this process woke too late, and must take another slot.
    ///
    /// # Errors
    /// [`Refused::Cancelled`]
    pub async fn redeem(
        &self,
        levels: &[Level],
        reservation: Reservation,
        cancel: &CancellationToken,
    ) -> Result<Option<Permit>, Refused> {
        let Reservation { came, held, .. } = reservation;
        if cancel.run_until_cancelled(sleep_until(held.at)).await.is_none() {
            self.give_back(levels, held).await;
            return Err(Refused::Cancelled);
        }
        let now = Instant::now();
        if now > held.latest {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.give_back(levels, held).await;
            return Ok(None);
        }
        Ok(Some(Permit {
            waited: now - came,
            degraded: held.slot.is_none(),
            from: held.from,
            latest: held.latest,
            slot: held.slot,
            id: held.id,
        }))
    }

    /// Gives a reserved slot back.
    pub async fn give_up(&self, levels: &[Level], reservation: Reservation) {
        self.give_back(levels, reservation.held).await;
    }

    async fn wait_for_way(
        &self,
        way: usize,
        levels: &[Level],
        urgency: &Urgency,
        asking: &tokio::sync::Mutex<()>,
    ) -> Result<(usize, Held), Refused> {
        let order = self.arrivals.fetch_add(1, Ordering::Relaxed);
        let mut place = self.lines.arrive(order, urgency, levels);
        let mut patience = Patience::new(self, levels, Instant::now());
        loop {
            place.turn().await;
            let _alone = asking.lock().await;
            patience.ask();
            self.asked.fetch_add(1, Ordering::Relaxed);
            match self.ask(levels).await {
                Answer::Slot(held) => {
                    place.served();
                    return Ok((way, held));
                }
                Answer::Later { at, level, limited } => {
                    let wait = at.saturating_duration_since(Instant::now());
                    if wait > super::PARK {
                        return Err(Refused::Park(wait));
                    }
                    let opens = patience.told_later(&levels[level], at);
                    place.told_later(&levels[level].key, Later { opens, limited });
                }
            }
        }
    }
}
