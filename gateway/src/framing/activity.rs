//! Whether a request of a connection is being answered.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

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
}

/// One request in progress, from its head until its response's last byte was handed to hyper: drop it with the
/// response's body where that is streamed, and with the service's future where it is not.
#[derive(Debug)]
#[must_use = "the request counts as answered once this is dropped"]
pub struct InProgress(Activity);

impl Activity {
    /// Counts one request until the guard is dropped. Allocates nothing.
    pub fn begin(&self) -> InProgress {
        self.0.in_progress.fetch_add(1, Ordering::Relaxed);
        InProgress(self.clone())
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
        let shared = &self.0.0;
        if shared.in_progress.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.connection.wake();
        }
    }
}
