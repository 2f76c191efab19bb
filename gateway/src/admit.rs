//! Requests and bytes in flight: what the gateway takes on at once.

mod coming;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use self::coming::Coming;
pub use self::coming::Expected;
use crate::config::Limits;
use crate::error::Error;
use crate::http1::Activity;
use crate::pieces::WORTH_A_PIECE;

/// A full gateway drains in far less than a second, so that is when to come back.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Of the requests in flight, one in so many may wait for its body: slow clients leave room for the others.
const COMING_SHARE: usize = 2;
/// So many requests in flight are a crowd: the reactor brings several of them at once.
const CROWD: usize = 16;

/// What is in flight, over all relay threads.
#[derive(Debug, Default)]
pub struct InFlight {
    requests: AtomicUsize,
    /// Of requests' bodies, and of responses that their clients have not taken.
    bytes: AtomicU64,
    coming: Coming,
    short_of_bytes: Notify,
}

/// A request that was let in; what it took is given back when it is dropped.
#[derive(Debug)]
pub struct Admission {
    in_flight: Arc<InFlight>,
    bytes: AtomicU64,
    max_bytes: u64,
}

/// Bytes of a response that its client has not taken; given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Untaken {
    in_flight: Arc<InFlight>,
    connection: Activity,
    bytes: u64,
}

impl InFlight {
    /// Lets a request in.
    ///
    /// # Errors
    /// When `limits.max_in_flight` requests are in already, or `limits.max_bytes_in_flight` are used up.
    pub fn enter(self: &Arc<Self>, limits: &Limits) -> Result<Admission, Error> {
        let max_bytes = limits.max_bytes_in_flight;
        if self.bytes() >= max_bytes {
            return Err(self.out_of_bytes());
        }
        self.requests
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < limits.max_in_flight).then_some(n + 1)
            })
            .map_err(|_| full("the gateway is at limits.max_in_flight"))?;
        Ok(Admission { in_flight: Arc::clone(self), bytes: AtomicU64::new(0), max_bytes })
    }

    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// In a crowd, waits until the other requests that the reactor has just brought have come as far. What they send goes out in one
    /// burst then, and its receiver, awake from the first of it, need not be woken again for each: waking somebody costs as much as
    /// sending. With a large body, of so many bytes, it goes out while the processor's cache has it. Returns whether it waited.
    pub(crate) async fn gather(&self, body: u64) -> bool {
        let waits = self.requests() >= CROWD && body < WORTH_A_PIECE as u64;
        if waits {
            tokio::task::yield_now().await;
        }
        waits
    }

    /// Counts a response's bytes until they are taken. That is never refused, since what they answer has run: what is too much
    /// keeps new requests out.
    pub(crate) fn untaken(self: &Arc<Self>, connection: &Activity, bytes: u64) -> Untaken {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        connection.add_untaken(bytes);
        Untaken { in_flight: Arc::clone(self), connection: connection.clone(), bytes }
    }

    /// Returns after a request was refused for want of bytes.
    pub(crate) async fn short_of_bytes(&self) {
        self.short_of_bytes.notified().await;
    }

    /// Those who hold bytes and are slow are to give them up, for the next request.
    fn out_of_bytes(&self) -> Error {
        self.coming.give_up_a_slow_one();
        self.short_of_bytes.notify_one();
        full("the gateway is at limits.max_bytes_in_flight")
    }
}

impl Admission {
    /// Takes `more` bytes of the budget.
    ///
    /// # Errors
    /// When that would exceed `limits.max_bytes_in_flight`.
    pub fn reserve(&self, more: u64) -> Result<(), Error> {
        self.in_flight
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(more).filter(|then| *then <= self.max_bytes)
            })
            .map_err(|_| self.in_flight.out_of_bytes())?;
        self.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// As [`InFlight::gather`].
    pub(crate) async fn gather(&self, body: u64) -> bool {
        self.in_flight.gather(body).await
    }

    /// Its body did not come with its head, and is waited for.
    pub(crate) fn expect_body(&self, limits: &Limits) -> Expected<'_> {
        self.in_flight.coming.expect((limits.max_in_flight / COMING_SHARE).max(1))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.in_flight.requests.fetch_sub(1, Ordering::Relaxed);
        self.in_flight.bytes.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.in_flight.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.connection.sub_untaken(self.bytes);
    }
}

fn full(reason: &'static str) -> Error {
    Error::NotRun { reason: reason.into(), retry_after: RETRY_AFTER }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn only_a_crowd_waits_for_its_others() {
        let in_flight = Arc::new(InFlight::default());
        let limits = Config::default().limits;
        let mut few: Vec<_> = (1..CROWD).map(|_| in_flight.enter(&limits).unwrap()).collect();
        assert_eq!(in_flight.gather(0).now_or_never(), Some(false));
        few.push(in_flight.enter(&limits).unwrap());
        let mut waiting = Box::pin(few[0].gather(0));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(waiting.await);
        assert_eq!(in_flight.gather(1 << 20).now_or_never(), Some(false), "a large body");
        few.pop();
        assert_eq!(in_flight.gather(0).now_or_never(), Some(false));
    }
}
