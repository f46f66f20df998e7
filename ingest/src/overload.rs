//! How much is taken on at once. What exceeds it is refused at once: Feishu pushes again, and a queue of waiting requests
//! would only make all of them late.
//!
//! Bytes are shared between addresses. Nobody is limited while there is room; when there is none, the heaviest address's
//! biggest body that is still arriving is given up, and who is the heaviest itself is refused. A part is for small bodies
//! alone, which is what Feishu pushes: large ones, whoever sends them, never take all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openclaw_common::serve::share;
use openclaw_common::telemetry;
use tokio_util::sync::CancellationToken;

use crate::reply::Refusal;

/// What one node holds at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Whose bodies have arrived. Those that still come are bounded by the connections, so that slow ones keep nobody out.
    pub(crate) requests: usize,
    /// Of bodies being read or stored.
    pub(crate) bytes: usize,
    /// Of these, for bodies that are small.
    pub(crate) reserve: usize,
    /// The largest small body.
    pub(crate) small: usize,
}

impl Default for Capacity {
    /// 2,048 requests are 25 ms (the p99 goal) at five times the highest measured rate; the bytes fit a 512 MiB container.
    fn default() -> Self {
        Self {
            requests: 2048,
            bytes: 64 * 1024 * 1024,
            reserve: 16 * 1024 * 1024,
            small: 64 * 1024,
        }
    }
}

/// What is taken on now.
#[derive(Debug)]
pub(crate) struct Overload {
    capacity: Capacity,
    requests: AtomicUsize,
    held: Mutex<Held>,
}

/// Bytes of bodies.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    last: u64,
    by_address: HashMap<IpAddr, Share>,
}

/// What one address holds.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// Its bodies of which more is to come, by number.
    arriving: HashMap<u64, Arriving>,
}

#[derive(Debug)]
struct Arriving {
    bytes: usize,
    cut: CancellationToken,
}

impl Overload {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            requests: AtomicUsize::new(0),
            held: Mutex::default(),
        })
    }

    /// For one request of `client`, of which nothing has been taken on yet.
    pub(crate) fn permit(self: &Arc<Self>, client: IpAddr) -> Permit {
        Permit {
            overload: self.clone(),
            address: share(client),
            entered: false,
            bytes: 0,
            arriving: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn add(&mut self, address: IpAddr, bytes: usize) {
        self.bytes += bytes;
        self.by_address.entry(address).or_default().bytes += bytes;
    }

    fn remove(&mut self, address: IpAddr, bytes: usize) {
        self.bytes -= bytes;
        if let Some(share) = self.by_address.get_mut(&address) {
            share.bytes -= bytes;
            if share.bytes == 0 && share.arriving.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    /// Gives up one body for another one of `address`, of which `bytes` are there; whether there was one.
    fn give_up(&mut self, address: IpAddr, bytes: usize) -> bool {
        let own = self.by_address.get(&address).map_or(0, |share| share.bytes);
        // Of its own ones only a bigger body goes: two of one size would cut each other for ever.
        let least = |other: &IpAddr| if *other == address { bytes } else { 0 };
        let shares = self.by_address.iter();
        let heavier = shares.filter(|(other, share)| **other == address || share.bytes > own);
        let with_biggest = heavier.filter_map(|(other, share)| {
            let (number, biggest) = share.arriving.iter().max_by_key(|(_, body)| body.bytes)?;
            (biggest.bytes > least(other)).then_some((share.bytes, *other, *number))
        });
        let Some((_, heaviest, number)) = with_biggest.max_by_key(|(bytes, ..)| *bytes) else {
            return false;
        };
        let share = self.by_address.get_mut(&heaviest);
        if let Some(body) = share.and_then(|share| share.arriving.remove(&number)) {
            // Its bytes are as good as gone: whoever reads it stops at once.
            body.cut.cancel();
            self.remove(heaviest, body.bytes);
            telemetry::BODIES_CUT.add(1);
        }
        true
    }
}

/// The right to handle one request; held until its event is stored or refused, client or no client.
#[derive(Debug)]
pub(crate) struct Permit {
    overload: Arc<Overload>,
    address: IpAddr,
    entered: bool,
    bytes: usize,
    /// Its number among those that arrive.
    arriving: Option<u64>,
}

impl Permit {
    /// Takes the request on.
    pub(crate) fn enter(&mut self) -> Result<(), Refusal> {
        // Counted first and given back by the permit, also when there was no room.
        self.entered = true;
        let before = self.overload.requests.fetch_add(1, Ordering::Relaxed);
        telemetry::REQUESTS_IN_FLIGHT.add(1.0);
        if before < self.overload.capacity.requests {
            Ok(())
        } else {
            Err(Refusal::unavailable())
        }
    }

    /// Takes `bytes` more of this request's body on.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let capacity = self.overload.capacity;
        let mut held = self.overload.lock();
        if let Some(number) = self.arriving {
            let share = held.by_address.get_mut(&self.address);
            match share.and_then(|share| share.arriving.get_mut(&number)) {
                Some(body) => body.bytes += bytes,
                // It was given up a moment ago.
                None => return Err(Refusal::unavailable()),
            }
        }
        held.add(self.address, bytes);
        self.bytes += bytes;
        let most = if self.bytes > capacity.small {
            capacity.bytes - capacity.reserve
        } else {
            capacity.bytes
        };
        while held.bytes > most {
            if !held.give_up(self.address, self.bytes) {
                return Err(Refusal::unavailable());
            }
        }
        Ok(())
    }

    /// Says that more of the body is to come. It is given up when the result is cancelled.
    pub(crate) fn arrives(&mut self) -> CancellationToken {
        let cut = CancellationToken::new();
        let mut held = self.overload.lock();
        held.last += 1;
        let number = held.last;
        let body = Arriving {
            bytes: self.bytes,
            cut: cut.clone(),
        };
        held.by_address
            .entry(self.address)
            .or_default()
            .arriving
            .insert(number, body);
        self.arriving = Some(number);
        cut
    }

    /// Says that the whole body is there: from now on it stays.
    pub(crate) fn arrived(&mut self) -> Result<(), Refusal> {
        let Some(number) = self.arriving else { return Ok(()) };
        let mut held = self.overload.lock();
        let share = held.by_address.get_mut(&self.address);
        match share.and_then(|share| share.arriving.remove(&number)) {
            Some(_) => {
                self.arriving = None;
                Ok(())
            }
            None => Err(Refusal::unavailable()),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.bytes > 0 || self.arriving.is_some() {
            let mut held = self.overload.lock();
            let still = self.arriving.is_none_or(|number| {
                let share = held.by_address.get_mut(&self.address);
                share.is_some_and(|share| share.arriving.remove(&number).is_some())
            });
            // What was given up has been taken off already.
            held.remove(self.address, if still { self.bytes } else { 0 });
        }
        if self.entered {
            self.overload.requests.fetch_sub(1, Ordering::Relaxed);
            telemetry::REQUESTS_IN_FLIGHT.add(-1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    const CAPACITY: Capacity = Capacity {
        requests: 2,
        bytes: 100,
        reserve: 20,
        small: 10,
    };

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// A body of `address` of which more is to come.
    fn arriving(overload: &Arc<Overload>, address: u8, bytes: usize) -> (Permit, CancellationToken) {
        let mut permit = overload.permit(ip(address));
        let cut = permit.arrives();
        permit.grow(bytes).unwrap();
        (permit, cut)
    }

    fn whole(overload: &Arc<Overload>, address: u8, bytes: usize) -> Result<Permit, Refusal> {
        let mut permit = overload.permit(ip(address));
        permit.grow(bytes)?;
        Ok(permit)
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let overload = Overload::new(CAPACITY);
        for _ in 0..3 {
            let (mut first, mut second) = (overload.permit(ip(1)), overload.permit(ip(1)));
            first.enter().unwrap();
            second.enter().unwrap();
            assert!(overload.permit(ip(2)).enter().is_err());
            first.grow(60).unwrap();
            assert!(second.grow(60).is_err());
            drop(second);
            first.grow(20).unwrap();
            drop(first);
            let held = overload.lock();
            assert!(held.bytes == 0 && held.by_address.is_empty(), "{held:?}");
        }
    }

    #[test]
    fn the_heaviest_address_gives_up_its_biggest_body() {
        let overload = Overload::new(CAPACITY);
        let (_light, light) = arriving(&overload, 1, 30);
        let (_small, small) = arriving(&overload, 9, 15);
        let (big, cut) = arriving(&overload, 9, 35);
        // 80 of 80 that large ones may use.
        let third = whole(&overload, 2, 30).unwrap();
        assert!(cut.is_cancelled() && !small.is_cancelled() && !light.is_cancelled());
        // Its place is another's at once, and taken off once.
        drop((big, third));
        assert_eq!(overload.lock().bytes, 45);
    }

    #[test]
    fn who_is_the_heaviest_is_refused() {
        let overload = Overload::new(CAPACITY);
        let (_light, light) = arriving(&overload, 1, 30);
        let _own = whole(&overload, 9, 40).unwrap();
        assert!(whole(&overload, 9, 40).is_err());
        assert!(!light.is_cancelled());
    }

    #[test]
    fn large_bodies_never_take_what_is_for_small_ones() {
        let overload = Overload::new(CAPACITY);
        let full = whole(&overload, 9, 80).unwrap();
        assert!(whole(&overload, 1, 11).is_err(), "nothing that could be given up");
        // Also from the same address.
        let first = whole(&overload, 9, 10).unwrap();
        let second = whole(&overload, 1, 10).unwrap();
        assert!(whole(&overload, 9, 1).is_err());
        drop((full, first, second));
        assert!(overload.lock().by_address.is_empty());
    }

    #[test]
    fn of_one_address_a_bigger_body_makes_way_for_a_smaller_one_and_no_equal_one() {
        let overload = Overload::new(CAPACITY);
        let (mut big, cut) = arriving(&overload, 9, 60);
        let _small = whole(&overload, 9, 30).unwrap();
        assert!(cut.is_cancelled());
        assert!(big.grow(1).is_err() && big.arrived().is_err());
        let (_other, cut) = arriving(&overload, 9, 40);
        assert!(whole(&overload, 9, 40).is_err());
        assert!(!cut.is_cancelled());
    }

    #[test]
    fn what_has_arrived_stays() {
        let overload = Overload::new(CAPACITY);
        let (mut stored, cut) = arriving(&overload, 9, 60);
        stored.arrived().unwrap();
        assert!(whole(&overload, 1, 30).is_err());
        assert!(!cut.is_cancelled());
        drop(stored);
        assert!(whole(&overload, 1, 30).is_ok());
    }
}
