//! Requests and bytes in flight: what the gateway takes on at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Limits;
use crate::error::Error;

/// A full gateway drains in far less than a second, so that is when to come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What is in flight, over all relay threads.
#[derive(Debug, Default)]
pub struct InFlight {
    requests: AtomicUsize,
    bytes: AtomicU64,
}

/// A request that was let in; what it took is given back when it is dropped.
#[derive(Debug)]
pub struct Admission {
    in_flight: Arc<InFlight>,
    bytes: u64,
    max_bytes: u64,
}

impl InFlight {
    /// Lets a request in.
    ///
    /// # Errors
    /// When `limits.max_in_flight` requests are in already.
    pub fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Admission, Error> {
        self.requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limits.max_in_flight).then_some(n + 1)
            })
            .map_err(|_| full("the gateway is at limits.max_in_flight"))?;
        Ok(Admission { in_flight: Arc::clone(self), bytes: 0, max_bytes: limits.max_bytes_in_flight })
    }

    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Admission {
    /// Takes `more` bytes of the budget.
    ///
    /// # Errors
    /// When that would exceed `limits.max_bytes_in_flight`.
    pub fn reserve(&mut self, more: u64) -> Result<(), Error> {
        self.in_flight
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(more).filter(|then| *then <= self.max_bytes)
            })
            .map_err(|_| full("the gateway is at limits.max_bytes_in_flight"))?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        self.in_flight.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn full(reason: &'static str) -> Error {
    Error::NotRun { reason: reason.into(), retry_after: RETRY_AFTER }
}
