//! Whether a request of a connection is being answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

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
