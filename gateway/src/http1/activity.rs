//! Whether a request of a connection is being answered.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::clock;

/// The client waits for the gateway.
const WE_OWE: u64 = 0;
/// The connection is being closed to make room; no request of it begins any more.
const LET_GO: u64 = u64::MAX;

/// The count of one connection's requests in progress. The service takes a guard for each; while one lives, the
/// connection is not idle, however long its client is silent.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    in_progress: AtomicU32,
    /// Set only if a response was flushed before its guard went: then nothing but the guard's drop can start the
    /// idle timer.
    connection: AtomicWaker,
    /// When the connection ends if it is idle then. Set once, when the gateway drains.
    closes_at: OnceLock<Instant>,
    /// Since when the client owes bytes, in milliseconds that the system has been up; [`WE_OWE`], or [`LET_GO`].
    owing_since: AtomicU64,
    /// Bytes of responses that wait for the client to take them.
    untaken: AtomicU64,
    /// The connection ends because its client takes nothing, or floods it.
    given_up: AtomicBool,
}

/// One request in progress, from its head until its response's last byte was handed over: drop it with the
/// response's body where that is streamed, and with the service's future where it is not.
#[derive(Debug)]
#[must_use = "the request counts as answered once this is dropped"]
pub struct InProgress(Activity);

/// A request in progress whose client has to send the rest of it first. While all of a connection's requests wait so, its client
/// owes; drop it once the rest has come.
#[derive(Debug)]
#[must_use = "the gateway works for the request again once this is dropped"]
pub(crate) struct AwaitsClient(Activity);

impl Activity {
    /// Of a connection that has just been accepted: its client owes a request.
    #[must_use]
    pub fn new() -> Self {
        let activity = Self::default();
        activity.client_owes();
        activity
    }

    /// Since when the client owes bytes; [`None`] while the gateway works for it. Comparable between connections.
    #[must_use]
    pub fn owing_since(&self) -> Option<u64> {
        let since = self.0.owing_since.load(Ordering::Relaxed);
        (since != WE_OWE && since != LET_GO).then_some(since)
    }

    /// The [`owing_since`](Self::owing_since) of a client that begins to owe so long ago.
    pub(crate) fn since(ago: Duration) -> u64 {
        now().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
    }

    /// Gives the connection up, if its client still owes what it owed then. From then on none of its requests begins.
    #[must_use]
    pub fn let_go(&self, owing_since: u64) -> bool {
        let owing = &self.0.owing_since;
        owing.compare_exchange(owing_since, LET_GO, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    #[must_use]
    pub fn is_let_go(&self) -> bool {
        self.0.owing_since.load(Ordering::Acquire) == LET_GO
    }

    /// Waits forever if the connection was given up: whoever did that ends it.
    pub async fn unless_let_go(&self) {
        if self.is_let_go() {
            std::future::pending().await
        }
    }

    pub(super) fn client_owes(&self) {
        self.settle(|since| if since == WE_OWE { now() } else { since });
    }

    /// False if it is too late.
    pub(super) fn client_has_paid(&self) -> bool {
        self.settle(|_| WE_OWE)
    }

    fn settle(&self, then: impl Fn(u64) -> u64) -> bool {
        let changed = |since| (since != LET_GO).then(|| then(since));
        self.0.owing_since.fetch_update(Ordering::AcqRel, Ordering::Acquire, changed).is_ok()
    }

    /// Counts one request until the guard is dropped. Allocates nothing.
    pub fn begin(&self) -> InProgress {
        self.0.in_progress.fetch_add(1, Ordering::Relaxed);
        self.client_has_paid();
        InProgress(self.clone())
    }

    /// One of the requests in progress waits for its client.
    pub(crate) fn await_client(&self) -> AwaitsClient {
        self.end_one();
        AwaitsClient(self.clone())
    }

    /// What its client has not taken yet is not worth keeping: the connection ends, and with it what the system holds for it.
    pub(crate) fn give_up(&self) {
        self.0.given_up.store(true, Ordering::Release);
    }

    /// Whether the connection ends because of what its client did or left undone.
    pub(crate) fn is_given_up(&self) -> bool {
        self.0.given_up.load(Ordering::Acquire) || self.is_let_go()
    }

    pub(crate) fn add_untaken(&self, bytes: u64) {
        self.0.untaken.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sub_untaken(&self, bytes: u64) {
        self.0.untaken.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn untaken(&self) -> u64 {
        self.0.untaken.load(Ordering::Relaxed)
    }

    fn end_one(&self) {
        if self.0.in_progress.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.client_owes();
            self.0.connection.wake();
        }
    }

    /// Ends the connection at `at`, or as soon after that as it is idle. Takes effect when the connection is polled next.
    /// Bytes that have come by then are read first: what the client sent is not thrown away unseen.
    pub fn close_when_idle(&self, at: Instant) {
        self.0.closes_at.get_or_init(|| at);
    }

    pub(super) fn closes_at(&self) -> Option<Instant> {
        self.0.closes_at.get().copied()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.in_progress.load(Ordering::Acquire) == 0
    }

    /// Wakes the connection when the last guard goes.
    pub(super) fn wake_when_idle(&self, connection: &Waker) {
        self.0.connection.register(connection);
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.end_one();
    }
}

impl Drop for AwaitsClient {
    fn drop(&mut self) {
        self.0.0.in_progress.fetch_add(1, Ordering::Relaxed);
        self.0.client_has_paid();
    }
}

/// Never [`WE_OWE`].
fn now() -> u64 {
    1 + u64::try_from(clock::coarse_uptime().as_millis()).unwrap_or(LET_GO - 2)
}
