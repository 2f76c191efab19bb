//! Moves the write-ahead log into the file beside the writer, which would keep everybody waiting with it.
//!
//! SQLite would do this by itself within commits, and keep it to itself when the disk fails.

use std::fs::File;
use std::mem::ManuallyDrop;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use tracing::error;

use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// A part of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Moves what has been written into the file.
    Move,
    /// Moves it and syncs the file, so that next to nothing is left to whoever ends the merge.
    Sync,
}

/// A thread that merges when it is told to.
#[derive(Debug)]
pub(super) struct Merger {
    /// [`None`] once it is to end.
    orders: Option<SyncSender<Step>>,
    outcomes: Receiver<(Step, Result<(), StoreError>)>,
    is_busy: bool,
    thread: Option<JoinHandle<()>>,
}

impl Merger {
    pub(super) fn start(file: SqliteFile) -> std::io::Result<Self> {
        // Never closed: closing a descriptor of a file gives up all locks that the process has on it, SQLite's among them.
        let synced = ManuallyDrop::new(File::open(file.path())?);
        let (orders, ordered) = sync_channel(1);
        let (finished, outcomes) = sync_channel(1);
        let run = move || {
            while let Ok(step) = ordered.recv() {
                let outcome = match step {
                    Step::Move => file.checkpoint("PASSIVE"),
                    Step::Sync => merge(&file, &synced),
                };
                if finished.send((step, outcome)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("deliveries-file".into()).spawn(run)?;
        Ok(Self { orders: Some(orders), outcomes, is_busy: false, thread: Some(thread) })
    }

    /// Whether it begins; not while another step is being done.
    pub(super) fn begin(&mut self, step: Step) -> bool {
        let begins = !self.is_busy && self.orders.as_ref().is_some_and(|orders| orders.send(step).is_ok());
        self.is_busy |= begins;
        begins
    }

    /// What came of a step, once it has ended.
    pub(super) fn ended(&mut self) -> Option<(Step, Result<(), StoreError>)> {
        let outcome = self.outcomes.try_recv().ok()?;
        self.is_busy = false;
        Some(outcome)
    }
}

/// SQLite syncs the file only when all of the log is in it, and that is while the writer waits, so most of it is synced here. What comes
/// during the first turn is little, and what comes during the second is next to nothing.
fn merge(file: &SqliteFile, synced: &File) -> Result<(), StoreError> {
    for _ in 0..2 {
        file.checkpoint("PASSIVE")?;
        synced
            .sync_data()
            .map_err(|error| StoreError::Disk { file: file.path().to_owned(), reason: error.to_string() })?;
    }
    Ok(())
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
