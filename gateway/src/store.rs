//! What outlives the process: registrations, known routes and access tokens. Contract sections 4 and 6.
//!
//! One thread writes. It takes every call that waits and commits them as one transaction, so that a thousand workers
//! that register at once cost a handful of disk syncs; a call that fails fails alone.

mod database;
mod rows;
pub(crate) mod sqlite;
mod writer;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use gearway_protocol::{HandlerSpec, Registration};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::unconstrained;

use self::database::Database;
use self::writer::{Call, Job, Next, Pause, Writer};
use crate::config::Secret;
use crate::data_dir::DataDir;
use crate::handover::{Duty, Paused};

/// How many calls may wait for the writer; the next ones wait for a place.
const QUEUE: usize = 1024;

/// A handle on the open store; clones are cheap. When the last one is dropped, everything that was sent is written
/// and the file is closed; that drop waits for it, where [`shutdown`](Self::shutdown) would not block the thread.
#[derive(Debug, Clone)]
pub struct Store {
    // Dropped before `writer`, which waits for a thread that waits for the last sender.
    jobs: mpsc::Sender<Job>,
    writer: Arc<WriterHandle>,
}

/// Everything that was in the store when it was opened, in the order in which it was first written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    pub workers: Vec<WorkerRecord>,
    pub routes: Vec<RouteRecord>,
    pub tokens: Vec<TokenRecord>,
}

/// A registered worker. Times are kept to the millisecond, here and below.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRecord {
    pub worker_id: String,
    /// What the gateway presents to the worker.
    pub secret: Secret,
    pub registration: Registration,
    pub registered_at: SystemTime,
    /// An operator has drained it.
    pub draining: bool,
}

/// A known route without a worker, identified by `shape` and `method`.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteRecord {
    /// The pattern in the form in which two registrations of one route are equal.
    pub shape: String,
    pub method: String,
    /// The `name` of the workers that may claim it again.
    pub owner: String,
    /// The dialect, which decides how `handler.name` reads.
    pub protocol: String,
    /// As it was registered.
    pub handler: HandlerSpec,
    /// When its last worker went away.
    pub lost_at: SystemTime,
}

/// An opaque access token, of which only the hash is known.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: String,
    pub hash: [u8; 32],
    pub user: String,
    pub created_at: SystemTime,
    pub expires_at: Option<SystemTime>,
}

impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("id", &self.id)
            .field("user", &self.user)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What can be written. Putting replaces what has the same identity; removing what is not there does nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    PutWorker(WorkerRecord),
    RemoveWorker {
        worker_id: String,
    },
    /// Sets `draining`.
    DrainWorker {
        worker_id: String,
    },
    Remember(RouteRecord),
    ForgetRoute {
        shape: String,
        method: String,
    },
    PutToken(TokenRecord),
    RemoveToken {
        id: String,
    },
}

/// Why the store cannot be opened, or did not take a call's changes. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{} was written by a newer gearway (schema {found}, this version knows {known}); \
         start that version, or restore a backup from before the upgrade",
        file.display()
    )]
    Newer { file: PathBuf, found: i64, known: i64 },
    #[error(
        "{} is damaged ({reason}); restore a backup, or move it away together with its -wal file: \
         the gateway then starts without {holds}",
        file.display()
    )]
    Damaged { file: PathBuf, reason: String, holds: &'static str },
    #[error("{} cannot be written: the disk is full", .0.display())]
    Full(PathBuf),
    /// Writing on would succeed, and be lost with the process.
    #[error("{} was removed or replaced while the gateway was using it; put it back, or restart the gateway", .0.display())]
    Gone(PathBuf),
    /// What was written may or may not be on it.
    #[error("{}: the disk failed: {reason}", file.display())]
    Disk { file: PathBuf, reason: String },
    #[error("{}: {reason}", file.display())]
    Failed { file: PathBuf, reason: String },
    #[error("the store has been shut down")]
    ShutDown,
}

impl StoreError {
    /// Whether nothing may be promised any more: what was written may not be what will be read.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Disk { .. } | Self::Damaged { .. } => true,
            Self::Newer { .. } | Self::Full(_) | Self::Gone(_) | Self::Failed { .. } | Self::ShutDown => {
                false
            }
        }
    }
}

impl Store {
    /// Opens `gearway.db` in `dir`, making or upgrading it as needed. The lock on `dir` is kept until the writer ends.
    pub fn open(dir: &DataDir) -> Result<(Self, Recovered), StoreError> {
        let database = Database::open(dir)?;
        let recovered = database.load()?;
        let file = database.file().to_owned();

        let (jobs, queue) = mpsc::channel(QUEUE);
        let (ending, ended) = watch::channel(());
        let (failing, failed) = watch::channel(None);
        let transactions = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(database, queue, transactions.clone(), dir.clone(), failing, ending);
        let thread =
            thread::Builder::new().name("store".into()).spawn(move || writer.run()).map_err(|error| {
                StoreError::Failed { file, reason: format!("cannot start its writer: {error}") }
            })?;
        Ok((
            Self {
                jobs,
                writer: Arc::new(WriterHandle { thread: Some(thread), transactions, failed, ended }),
            },
            recovered,
        ))
    }

    /// Writes `changes`, all or none of them, and returns once they are synced to disk. Calls take effect in the
    /// order in which they were first polled, as long as the queue has room: those that wait for a place may overtake
    /// each other, so a call that must come after another awaits it. One that was polled and then dropped may still
    /// take effect.
    ///
    /// After an error nothing of the call is seen by this process. [`StoreError::Disk`] is the end of the store, see
    /// [`failure`](Self::failure), and what such a call wrote may be there at the next start; after others, later calls may succeed.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (answer, answered) = oneshot::channel();
        // Tokio's budget could make this call yield before it has its place in the queue, and so lose its turn.
        unconstrained(self.jobs.send(Job::Commit(Call { changes, answer })))
            .await
            .map_err(|_| StoreError::ShutDown)?;
        answered.await.map_err(|_| StoreError::ShutDown)?
    }

    /// Writes everything that was sent so far and returns once the file is closed. From then on every clone's calls
    /// get [`StoreError::ShutDown`].
    pub async fn shutdown(&self) {
        // A queue that is closed already means that another clone was first; then only the wait is left.
        drop(self.jobs.send(Job::ShutDown).await);
        let mut ended = self.writer.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Returns when the disk has failed, so that nothing can be promised any more, with the reason.
    pub async fn failure(&self) -> StoreError {
        let mut failed = self.writer.failed.clone();
        match failed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // A writer that has ended has not failed.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How many transactions were committed since the store was opened.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.writer.transactions.load(Ordering::Relaxed)
    }
}

impl Duty for Store {
    fn name(&self) -> &'static str {
        "the store"
    }

    fn pause(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Paused>>> {
        Box::pin(async {
            let (closed, is_closed) = oneshot::channel();
            let (word, next) = oneshot::channel();
            let pause = Job::Pause(Pause { closed, next });
            self.jobs.send(pause).await.map_err(|_| StoreError::ShutDown)?;
            is_closed.await.map_err(|_| StoreError::ShutDown)?;
            let paused: Box<dyn Paused> = Box::new(Closed { word });
            Ok(paused)
        })
    }
}

/// A store whose file is closed, and whose calls wait.
struct Closed {
    word: oneshot::Sender<Next>,
}

impl Paused for Closed {
    fn resume(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        Box::pin(async {
            let (answer, answered) = oneshot::channel();
            self.word.send(Next::GoOn(answer)).map_err(|_| StoreError::ShutDown)?;
            Ok(answered.await.map_err(|_| StoreError::ShutDown)??)
        })
    }

    fn release(self: Box<Self>) {
        // A writer that has ended has released it already.
        drop(self.word.send(Next::ShutDown));
    }
}

/// Joins the writer's thread when it is dropped.
#[derive(Debug)]
struct WriterHandle {
    thread: Option<JoinHandle<()>>,
    transactions: Arc<AtomicU64>,
    failed: watch::Receiver<Option<StoreError>>,
    ended: watch::Receiver<()>,
}

impl Drop for WriterHandle {
    fn drop(&mut self) {
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's writer panicked");
        }
    }
}

#[cfg(test)]
mod tests;
