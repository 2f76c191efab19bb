//! The log: one thread writes `deliveries.db`, and whoever appends waits until it is on disk.
//!
//! Everything that waits is committed as one transaction, so that one sync serves as many requests as came meanwhile. What
//! records the past (attempts) waits a little for company: it must not make the next request wait for a sync of its own.

mod merger;
mod queue;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tracing::error;

use self::queue::{QUEUE, Queue, Refused};
use self::writer::Writer;
use super::inbox::Inbox;
use super::metrics::DeliveryMetrics;
use super::operator::Replayed;
use super::record::{Delivery, Id};
use super::rows::{Appended, Numbers, RouteId, Settlement};
use super::schema::SCHEMA;
use super::upkeep::Purge;
use crate::admit::Admission;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// Why something is not in the log. The texts are for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("the log of deliveries is at webhooks.max_stored ({0} bytes)")]
    AtMaxStored(u64),
    #[error("{QUEUE} requests wait for the disk already")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LogError {
    fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::Store(StoreError::Full(_)) | Self::AtMaxStored(_))
    }
}

/// A handle on the log; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Log {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Queue,
    /// Why the log takes nothing more.
    failed: watch::Sender<Option<StoreError>>,
    stored_bytes: AtomicU64,
    lacks_room: AtomicBool,
    room_wanted: Arc<Notify>,
    metrics: Arc<DeliveryMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

type Answer<T> = oneshot::Sender<Result<T, LogError>>;

#[derive(Debug)]
struct Append {
    delivery: Arc<Delivery>,
    admission: Option<Arc<Admission>>,
    caller: Option<super::Caller>,
    answer: Answer<Appended>,
    /// Whose thread waits for the answer.
    runtime: Handle,
}

/// What the log is told of deliveries that it has.
#[derive(Debug)]
pub(super) enum Record {
    Settle(Arc<Settlement>),
    /// Due at another time, without an attempt.
    Postpone(Vec<Id>, i64),
    Replay(Id),
    ReplayMany(Vec<Id>),
    Remove(Id),
    Purge(Purge),
}

/// What came of a [`Record`].
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// How many deliveries it concerned.
    pub(super) count: usize,
    pub(super) replayed: Option<Replayed>,
    /// Routes that have something new that is due.
    routes: Vec<RouteId>,
}

impl Log {
    pub(super) fn open(
        dir: &DataDir,
        config: Arc<ArcSwap<Config>>,
        inbox: Arc<Inbox>,
        metrics: Arc<DeliveryMetrics>,
    ) -> Result<Self, StoreError> {
        let file = SqliteFile::open(dir, &SCHEMA)?;
        let numbers = Numbers::load(file.connection()).map_err(|error| file.explain(&error))?;
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            failed: watch::Sender::new(None),
            stored_bytes: AtomicU64::new(0),
            lacks_room: AtomicBool::new(false),
            room_wanted: Arc::default(),
            metrics,
            thread: Mutex::default(),
        });
        let path = file.path().to_owned();
        let writer = Writer::new(Arc::clone(&shared), file, numbers, config, inbox, dir.clone())?;
        let thread = thread::Builder::new()
            .name("deliveries-log".into())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Failed {
                file: path,
                reason: format!("cannot start its writer: {error}"),
            })?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// Returns once the request is on disk, or the same event was found there. The engine hears of a new one before.
    pub(super) async fn append(
        &self,
        delivery: Arc<Delivery>,
        admission: Option<Arc<Admission>>,
        caller: Option<super::Caller>,
    ) -> Result<Appended, LogError> {
        let (answer, answered) = oneshot::channel();
        let append = Append { delivery, admission, caller, answer, runtime: Handle::current() };
        self.shared.queue.append(append).map_err(|refused| self.refused(refused))?;
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Returns once it is on disk.
    pub(super) async fn record(&self, record: Record) -> Result<Done, LogError> {
        let (answer, answered) = oneshot::channel();
        self.shared.queue.record(record, answer).map_err(|refused| self.refused(refused))?;
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    fn refused(&self, refused: Refused) -> LogError {
        match refused {
            Refused::Closed => self.closed(),
            Refused::Full => LogError::Busy,
        }
    }

    fn closed(&self) -> LogError {
        self.shared.failed.borrow().clone().unwrap_or(StoreError::ShutDown).into()
    }

    /// Returns when the log can promise nothing more, with the reason.
    pub(super) async fn failure(&self) -> StoreError {
        let mut failed = self.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(error)) => error.clone(),
            // The sender lives in `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Whether somebody found no room since this was last asked, and nobody did after that.
    pub(super) fn take_want_of_room(&self) -> bool {
        self.shared.lacks_room.swap(false, Ordering::Relaxed)
    }

    /// Told when somebody found no room.
    pub(super) fn room_wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.shared.room_wanted)
    }

    pub(super) fn stored_bytes(&self) -> u64 {
        self.shared.stored_bytes.load(Ordering::Relaxed)
    }

    /// Writes what was sent so far and returns once the file is closed.
    pub(super) fn shut_down(&self) {
        self.shared.queue.close();
        let thread = self.shared.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the writer of the log of deliveries panicked");
        }
    }
}
