//! The end of a gateway's work, announced once and seen everywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long a connection without a request stays open once draining has begun. Its client may be sending at this very
/// moment, and would see its request lost; what comes within the grace is answered, and told that the connection
/// closes.
pub const IDLE_GRACE: Duration = Duration::from_secs(2);

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Asked with every response, where the token would take a lock.
    has_begun: AtomicBool,
    begun: CancellationToken,
    /// Another process accepts from the same sockets.
    for_successor: CancellationToken,
}

impl Drain {
    pub fn begin(&self) {
        self.0.has_begun.store(true, Ordering::Release);
        self.0.begun.cancel();
    }

    /// Begins because another process serves now, which accepts from the same sockets.
    pub fn begin_for_successor(&self) {
        self.0.for_successor.cancel();
        self.begin();
    }

    #[must_use]
    pub fn is_for_successor(&self) -> bool {
        self.0.for_successor.is_cancelled()
    }

    /// Waits until it begins because another process serves now.
    pub async fn begun_for_successor(&self) {
        self.0.for_successor.cancelled().await;
    }

    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.has_begun.load(Ordering::Acquire)
    }

    /// Waits until it begins.
    pub async fn begun(&self) {
        self.0.begun.cancelled().await;
    }
}
