//! What one gateway process at a time may do, and how the next one gets it.
//!
//! During an upgrade two processes serve requests side by side, but only one writes the store, keeps leases and sends
//! stored deliveries. Each such duty is paused before the successor takes over, and then released to it for good, or resumed
//! because nobody took over.

use futures_util::future::BoxFuture;

/// Work that belongs to one gateway process at a time.
pub trait Duty: Send + Sync {
    /// What the log calls it.
    fn name(&self) -> &'static str;

    /// Finishes what was begun, then lets go of whatever a successor needs for itself. What is asked of the duty from now on waits
    /// for the outcome.
    ///
    /// # Errors
    /// When that cannot be done; then nothing has changed.
    fn pause(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Paused>>>;
}

/// A duty that nobody does at the moment. Dropped, it is resumed.
pub trait Paused: Send {
    /// Takes the duty up again, in this process.
    ///
    /// # Errors
    /// When what was let go of cannot be had again.
    fn resume(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>>;

    /// Leaves the duty to the successor: this process never does it again.
    fn release(self: Box<Self>);
}
