//! How much is taken on at once. What exceeds it is refused at once: Feishu pushes again, and a queue of waiting requests
//! would only make all of them late.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openclaw_common::telemetry;

use crate::reply::Refusal;

/// What one node holds at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Whose bodies have arrived. Those that still come are bounded by the connections, so that slow ones keep nobody out.
    pub(crate) requests: usize,
    /// Of bodies being read or stored.
    pub(crate) bytes: usize,
}

impl Default for Capacity {
    /// 2,048 requests are 25 ms (the p99 goal) at five times the highest measured rate; the bytes fit a 512 MiB container.
    fn default() -> Self {
        Self {
            requests: 2048,
            bytes: 64 * 1024 * 1024,
        }
    }
}

/// What is taken on now.
#[derive(Debug)]
pub(crate) struct Overload {
    capacity: Capacity,
    requests: AtomicUsize,
    bytes: AtomicUsize,
}

impl Overload {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        })
    }

    /// For one request, of which nothing has been taken on yet.
    pub(crate) fn permit(self: &Arc<Self>) -> Permit {
        Permit {
            overload: self.clone(),
            entered: false,
            bytes: 0,
        }
    }
}

/// The right to handle one request; held until its event is stored or refused, client or no client.
#[derive(Debug)]
pub(crate) struct Permit {
    overload: Arc<Overload>,
    entered: bool,
    bytes: usize,
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
        self.bytes += bytes;
        let before = self.overload.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes <= self.overload.capacity.bytes {
            Ok(())
        } else {
            Err(Refusal::unavailable())
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.overload.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let overload = Overload::new(Capacity {
            requests: 2,
            bytes: 100,
        });
        for _ in 0..3 {
            let (mut first, mut second) = (overload.permit(), overload.permit());
            first.enter().unwrap();
            second.enter().unwrap();
            assert!(overload.permit().enter().is_err());
            first.grow(60).unwrap();
            assert!(second.grow(60).is_err());
            drop(second);
            first.grow(40).unwrap();
        }
    }
}
