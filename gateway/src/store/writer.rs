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
    /// Finish what is queued, close the file, and wait for a word.
    Pause(Pause),
    /// Take nothing more, finish what is queued, end.
    ShutDown,
    /// Lets a test make the disk full, or hold the writer up.
    #[cfg(test)]
    Meddle(Box<dyn FnOnce(&rusqlite::Connection) + Send>),
}

/// Somebody who wants the file closed for a while.
pub(super) struct Pause {
    /// Where the outcome of closing goes.
    pub(super) closed: oneshot::Sender<()>,
    /// What comes next; dropped without a word, the file is opened again.
    pub(super) next: oneshot::Receiver<Next>,
}

pub(super) enum Next {
    /// Open the file again, and say how that went.
    GoOn(oneshot::Sender<Result<(), StoreError>>),
    /// Another process has the file.
    ShutDown,
}

/// The fields go in this order when the thread ends: the file is closed before the directory is unlocked, and both
/// before whoever waits for the end is told.
pub(super) struct Writer {
    /// [`None`] when the file could not be opened again after a pause, or is not this process's any more.
    database: Option<Database>,
    queue: mpsc::Receiver<Job>,
    transactions: Arc<AtomicU64>,
    dir: DataDir,
    /// Why nothing more is written: the disk did not do what it said.
    failed: watch::Sender<Option<StoreError>>,
    _ending: watch::Sender<()>,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        queue: mpsc::Receiver<Job>,
        transactions: Arc<AtomicU64>,
        dir: DataDir,
        failed: watch::Sender<Option<StoreError>>,
        ending: watch::Sender<()>,
    ) -> Self {
        Self { database: Some(database), queue, transactions, dir, failed, _ending: ending }
    }

    pub(super) fn run(mut self) {
        let mut jobs = Vec::with_capacity(QUEUE);
        while self.queue.blocking_recv_many(&mut jobs, QUEUE) > 0 {
            let mut group = Vec::with_capacity(jobs.len());
            for job in jobs.drain(..) {
                match job {
                    Job::Commit(call) => group.push(call),
                    Job::ShutDown => self.queue.close(),
                    Job::Pause(pause) => {
                        self.commit(std::mem::take(&mut group));
                        self.pause(pause);
                    }
                    #[cfg(test)]
                    Job::Meddle(meddle) => {
                        self.commit(std::mem::take(&mut group));
                        if let Some(database) = &self.database {
                            meddle(database.connection());
                        }
                    }
                }
            }
            self.commit(group);
        }
        self.close();
    }

    fn close(&mut self) {
        if let Some(database) = self.database.take()
            && let Err(error) = database.checkpoint()
        {
            // Nothing is lost: the log is read when the store is opened next.
            tracing::warn!(%error, "the store's log could not be merged into its file");
        }
    }

    fn pause(&mut self, Pause { closed, next }: Pause) {
        self.close();
        // Whoever does not wait any more has dropped the other end too, and the file is opened again.
        closed.send(()).ok();
        match next.blocking_recv() {
            Ok(Next::ShutDown) => self.queue.close(),
            Ok(Next::GoOn(answer)) => drop(answer.send(self.open())),
            Err(_) => {
                if let Err(error) = self.open() {
                    tracing::error!(%error, "the store cannot be opened again");
                }
            }
        }
    }

    fn open(&mut self) -> Result<(), StoreError> {
        if let Some(error) = &*self.failed.borrow() {
            return Err(error.clone());
        }
        self.database = Some(Database::open(&self.dir)?);
        Ok(())
    }

    fn commit(&mut self, group: Vec<Call>) {
        if group.is_empty() {
            return;
        }
        let (changes, answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|call| (call.changes, call.answer)).unzip();
        if self.database.is_none()
            && !self.queue.is_closed()
            && let Err(error) = self.open()
        {
            tracing::warn!(%error, "the store cannot be opened again");
        }
        let outcomes = match self.database.take() {
            Some(database) => {
                let outcomes = self.outcomes(&database, &changes);
                match self.look_after(&database, &outcomes) {
                    Ok(()) => self.database = Some(database),
                    Err(error) => self.give_up(&error),
                }
                outcomes
            }
            None => {
                let error = self.failed.borrow().clone().unwrap_or(StoreError::ShutDown);
                vec![Err(error); changes.len()]
            }
        };
        for (answer, outcome) in answers.into_iter().zip(outcomes) {
            // A caller that no longer waits has given up the answer, and not the change.
            drop(answer.send(outcome));
        }
    }

    /// An error is final.
    fn look_after(&self, database: &Database, outcomes: &[Result<(), StoreError>]) -> Result<(), StoreError> {
        let failure =
            outcomes.iter().find_map(|outcome| outcome.as_ref().err().filter(|error| error.is_final()));
        if let Some(error) = failure {
            return Err(error.clone());
        }
        match database.checkpoint_if_due() {
            Err(error) if error.is_final() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the store's log could not be merged into its file");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A sync that failed is not tried again: the system may have dropped what it could not write. The file is left as it is, for
    /// the next start.
    fn give_up(&mut self, error: &StoreError) {
        tracing::error!(%error, "the store takes nothing more");
        self.queue.close();
        self.failed.send_replace(Some(error.clone()));
    }

    /// What became of each call. When they cannot be committed together, as on a disk with room for some of them,
    /// each is tried by itself.
    fn outcomes(&self, database: &Database, calls: &[Vec<Change>]) -> Vec<Result<(), StoreError>> {
        match database.commit(calls) {
            Ok(outcomes) => {
                self.transactions.fetch_add(1, Ordering::Relaxed);
                outcomes
            }
            Err(lost) if lost.begun && !lost.error.is_final() && calls.len() > 1 => {
                calls.chunks(1).flat_map(|alone| self.outcomes(database, alone)).collect()
            }
            Err(lost) => vec![Err(lost.error); calls.len()],
        }
    }
}
