//! The thread that writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use super::database::Database;
use super::{Change, QUEUE, StoreError};
use crate::data_dir::DataDir;

/// One caller's changes, and where it waits for the outcome.
pub(super) struct Call {
    pub(super) changes: Vec<Change>,
    pub(super) answer: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) enum Job {
    Commit(Call),
    /// Take nothing more, finish what is queued, end.
    ShutDown,
    /// Lets a test make the disk full, or hold the writer up.
    #[cfg(test)]
    Meddle(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

/// The fields go in this order when the thread ends: the file is closed before the directory is unlocked, and both
/// before whoever waits for the end is told.
pub(super) struct Writer {
    database: Database,
    queue: mpsc::Receiver<Job>,
    transactions: Arc<AtomicU64>,
    _dir: DataDir,
    _ending: watch::Sender<()>,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        queue: mpsc::Receiver<Job>,
        transactions: Arc<AtomicU64>,
        dir: DataDir,
        ending: watch::Sender<()>,
    ) -> Self {
        Self { database, queue, transactions, _dir: dir, _ending: ending }
    }

    pub(super) fn run(mut self) {
        let mut jobs = Vec::with_capacity(QUEUE);
        while self.queue.blocking_recv_many(&mut jobs, QUEUE) > 0 {
            let mut group = Vec::with_capacity(jobs.len());
            for job in jobs.drain(..) {
                match job {
                    Job::Commit(call) => group.push(call),
                    Job::ShutDown => self.queue.close(),
                    #[cfg(test)]
                    Job::Meddle(meddle) => {
                        self.commit(std::mem::take(&mut group));
                        meddle(self.database.connection());
                    }
                }
            }
            self.commit(group);
        }
        if let Err(error) = self.database.checkpoint() {
            // Nothing is lost: the log is read when the store is opened next.
            tracing::warn!(%error, "the store's log could not be merged into its file");
        }
    }

    fn commit(&self, group: Vec<Call>) {
        if group.is_empty() {
            return;
        }
        let (changes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|call| (call.changes, call.answer)).unzip();
        for (answer, outcome) in answers.into_iter().zip(self.outcomes(&changes)) {
            // A caller that no longer waits has given up the answer, and not the change.
            drop(answer.send(outcome));
        }
    }

    /// What became of each call. When they cannot be committed together, as on a disk with room for some of them,
    /// each is tried by itself.
    fn outcomes(&self, calls: &[Vec<Change>]) -> Vec<Result<(), StoreError>> {
        match self.database.commit(calls) {
            Ok(outcomes) => {
                self.transactions.fetch_add(1, Ordering::Relaxed);
                outcomes
            }
            Err(lost) if lost.begun && calls.len() > 1 => {
                calls.chunks(1).flat_map(|alone| self.outcomes(alone)).collect()
            }
            Err(lost) => vec![Err(lost.error); calls.len()],
        }
    }
}
