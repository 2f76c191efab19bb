//! Moves the write-ahead log into the file beside the writer, which would keep everybody waiting with it.
//!
//! SQLite would do this by itself within commits, and keep it to itself when the disk fails.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tracing::error;

use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// A thread that merges when it is told to.
#[derive(Debug)]
pub(super) struct Merger {
    /// [`None`] once it is to end.
    orders: Option<SyncSender<()>>,
    outcomes: Receiver<Result<(), StoreError>>,
    is_busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Merger {
    pub(super) fn start(file: SqliteFile) -> std::io::Result<Self> {
        let (orders, ordered) = sync_channel::<()>(1);
        let (finished, outcomes) = sync_channel(1);
        let run = move || {
            while ordered.recv().is_ok() {
                if finished.send(file.checkpoint("PASSIVE")).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("deliveries-file".into()).spawn(run)?;
        Ok(Self { orders: Some(orders), outcomes, is_busy: false, thread: Some(thread) })
    }

    pub(super) fn begin(&mut self) {
        if !self.is_busy
            && let Some(orders) = &self.orders
        {
            self.is_busy = orders.send(()).is_ok();
        }
    }

    /// What came of it, once it has ended.
    pub(super) fn ended(&mut self) -> Option<Result<(), StoreError>> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.is_busy = false;
        Some(outcome)
    }
}

impl Drop for Merger {
    /// The file is nobody else's from then on.
    fn drop(&mut self) {
        self.orders = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the thread that merges the log of deliveries panicked");
        }
    }
}
