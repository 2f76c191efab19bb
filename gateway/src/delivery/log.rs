//! The log: one thread writes `deliveries.db`, and whoever appends waits until it is on disk.
//!
//! Everything that waits is committed as one transaction, so that one sync serves as many requests as came meanwhile. What
//! records the past (attempts) waits a little for company: it must not make the next request wait for a sync of its own.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot, watch};
use tracing::{error, warn};

use super::inbox::{Arrival, Inbox};
use super::metrics::DeliveryMetrics;
use super::operator::{self, Filter, Replayed};
use super::record::{Delivery, Id};
use super::rows::{self, Appended, Numbers, RouteId, Settlement};
use super::schema::SCHEMA;
use super::upkeep::{self, Purge};
use crate::admit::Admission;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// How long what records the past waits for a request to share a sync with, and how much of it waits no longer.
const COMPANY: Duration = Duration::from_millis(10);
const ENOUGH: usize = 64;
/// How many requests may wait for a sync. Those beyond it would wait for seconds.
const QUEUE: usize = 4096;
/// Bytes in the write-ahead log, about, before they are moved into the file; and what a change takes there beside its content.
const CHECKPOINT_AFTER: usize = 16 << 20;
const OVERHEAD: usize = 4096;

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
    /// Whether nothing may be promised any more: what was written may not be what will be read.
    fn is_final(&self) -> bool {
        match self {
            Self::Store(StoreError::Disk { .. } | StoreError::Damaged { .. }) => true,
            Self::AtMaxStored(_)
            | Self::Busy
            | Self::Store(
                StoreError::Newer { .. }
                | StoreError::Full(_)
                | StoreError::Gone(_)
                | StoreError::Failed { .. }
                | StoreError::ShutDown,
            ) => false,
        }
    }

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
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Why the log takes nothing more.
    failed: watch::Sender<Option<StoreError>>,
    stored_bytes: AtomicU64,
    lacks_room: AtomicBool,
    room_wanted: Arc<Notify>,
    metrics: Arc<DeliveryMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    appends: Vec<Append>,
    records: Vec<(Record, Answer<Done>)>,
    /// When the first of `records` came.
    since: Option<Instant>,
    urgent: bool,
    closed: bool,
}

/// What is committed together.
type Group = (Vec<Append>, Vec<(Record, Answer<Done>)>);
type Answer<T> = oneshot::Sender<Result<T, LogError>>;

#[derive(Debug)]
struct Append {
    delivery: Arc<Delivery>,
    admission: Option<Arc<Admission>>,
    caller: Option<super::Caller>,
    answer: Answer<Appended>,
}

/// What the log is told of deliveries that it has.
#[derive(Debug)]
pub(super) enum Record {
    Settle(Arc<Settlement>),
    /// Due at another time, without an attempt.
    Postpone(Vec<Id>, i64),
    Replay(Id),
    /// So many of those that are meant.
    ReplayMany(Filter, usize),
    Remove(Id),
    Purge(Purge),
}

/// What came of a [`Record`].
#[derive(Debug, Clone, Default)]
pub(super) struct Done {
    /// How many deliveries it concerned.
    pub(super) count: usize,
    pub(super) replayed: Option<Replayed>,
    /// The last one that was looked at.
    pub(super) last: Option<Id>,
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
        // After a sync that failed, the system may take pages for written that never were. They are read from the log,
        // written and synced anew, and the log begins afresh, before anything follows them.
        file.execute("PRAGMA wal_autocheckpoint = 0")?;
        file.checkpoint("TRUNCATE")?;
        let numbers = Numbers::load(file.connection()).map_err(|error| file.explain(&error))?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            failed: watch::Sender::new(None),
            stored_bytes: AtomicU64::new(0),
            lacks_room: AtomicBool::new(false),
            room_wanted: Arc::default(),
            metrics,
            thread: Mutex::default(),
        });
        let path = file.path().to_owned();
        let writer = Writer {
            shared: Arc::clone(&shared),
            file,
            numbers,
            config,
            inbox,
            since_checkpoint: 0,
            _dir: dir.clone(),
        };
        writer.measure();
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
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(self.closed());
            }
            if queue.appends.len() >= QUEUE {
                return Err(LogError::Busy);
            }
            queue.appends.push(Append { delivery, admission, caller, answer });
        }
        self.shared.filled.notify_one();
        answered.await.unwrap_or_else(|_| Err(self.closed()))
    }

    /// Returns once it is on disk.
    pub(super) async fn record(&self, record: Record) -> Result<Done, LogError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closed {
                return Err(self.closed());
            }
            queue.urgent |= !matches!(record, Record::Settle(_));
            queue.since.get_or_insert_with(Instant::now);
            queue.records.push((record, answer));
        }
        self.shared.filled.notify_one();
        answered.await.unwrap_or_else(|_| Err(self.closed()))
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

    /// Whether somebody found no room lately.
    pub(super) fn lacks_room(&self) -> bool {
        self.shared.lacks_room.load(Ordering::Relaxed)
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
        self.shared.queue.lock().closed = true;
        self.shared.filled.notify_one();
        let thread = self.shared.thread.lock().take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the writer of the log of deliveries panicked");
        }
    }
}

/// The fields go in this order when the thread ends: the file is closed before the directory is unlocked.
struct Writer {
    shared: Arc<Shared>,
    file: SqliteFile,
    numbers: Numbers,
    config: Arc<ArcSwap<Config>>,
    inbox: Arc<Inbox>,
    since_checkpoint: usize,
    _dir: DataDir,
}

impl Writer {
    fn run(mut self) {
        while let Some((appends, records)) = self.next_group() {
            match self.write(appends, records) {
                Ok(()) => {}
                Err(error) => return self.give_up(error),
            }
        }
        if let Err(error) = self.file.checkpoint("TRUNCATE") {
            // Nothing is lost: the log is read when it is opened next.
            warn!(%error, "the log of deliveries could not be merged into its file");
        }
    }

    /// What is to be written next; [`None`] when there will be nothing more.
    fn next_group(&self) -> Option<Group> {
        let mut queue = self.shared.queue.lock();
        loop {
            let alone = queue.since.map(|since| since + COMPANY);
            let ready = !queue.appends.is_empty()
                || queue.urgent
                || queue.records.len() >= ENOUGH
                || (queue.closed && !queue.records.is_empty())
                || alone.is_some_and(|until| until <= Instant::now());
            if ready {
                queue.since = None;
                queue.urgent = false;
                return Some((mem::take(&mut queue.appends), mem::take(&mut queue.records)));
            }
            if queue.closed {
                return None;
            }
            match alone {
                Some(until) => drop(self.shared.filled.wait_until(&mut queue, until)),
                None => self.shared.filled.wait(&mut queue),
            }
        }
    }

    /// Commits a group and tells everybody. An error is final.
    fn write(
        &mut self,
        appends: Vec<Append>,
        records: Vec<(Record, Answer<Done>)>,
    ) -> Result<(), StoreError> {
        let outcome = self.commit(&appends, &records);
        match outcome {
            Ok((done, appended)) => {
                if !appends.is_empty() {
                    self.shared.lacks_room.store(false, Ordering::Relaxed);
                }
                let bytes: usize = appends.iter().map(|append| append.delivery.body.len()).sum();
                self.since_checkpoint += bytes + (appends.len() + records.len()) * OVERHEAD;
                for (append, appended) in appends.into_iter().zip(appended) {
                    self.appended(append, appended);
                }
                for ((_, answer), done) in records.into_iter().zip(done) {
                    done.routes.iter().for_each(|route| self.inbox.look_at(*route));
                    // Whoever no longer waits has given up the answer, and not the change.
                    drop(answer.send(Ok(done)));
                }
                self.measure();
                self.checkpoint_if_due()
            }
            Err(LogError::Store(error)) if LogError::from(error.clone()).is_final() => {
                refuse(appends, records, &error.clone().into());
                Err(error)
            }
            Err(error) => self.write_apart(appends, records, &error),
        }
    }

    /// What cannot be committed together is tried in smaller parts: what records the past needs hardly any room.
    fn write_apart(
        &mut self,
        mut appends: Vec<Append>,
        mut records: Vec<(Record, Answer<Done>)>,
        error: &LogError,
    ) -> Result<(), StoreError> {
        if appends.len() + records.len() <= 1 {
            if error.is_for_want_of_room() {
                self.shared.lacks_room.store(true, Ordering::Relaxed);
                self.shared.room_wanted.notify_one();
            } else {
                warn!(%error, "a change of the log of deliveries failed");
            }
            refuse(appends, records, error);
            return Ok(());
        }
        if !records.is_empty() && !appends.is_empty() {
            self.write(Vec::new(), records)?;
            return self.write(appends, Vec::new());
        }
        if appends.is_empty() {
            let rest = records.split_off(records.len() / 2);
            self.write(appends, records)?;
            return self.write(Vec::new(), rest);
        }
        let rest = appends.split_off(appends.len() / 2);
        self.write(appends, records)?;
        self.write(rest, Vec::new())
    }

    fn commit(
        &mut self,
        appends: &[Append],
        records: &[(Record, Answer<Done>)],
    ) -> Result<(Vec<Done>, Vec<Appended>), LogError> {
        let more: u64 = appends.iter().map(|append| append.delivery.body.len() as u64).sum();
        let max_stored = self.config.load().webhooks.max_stored;
        if !appends.is_empty() && self.shared.stored_bytes.load(Ordering::Relaxed) + more >= max_stored {
            return Err(LogError::AtMaxStored(max_stored));
        }
        self.file.begin()?;
        let outcome = self.apply(appends, records).map_err(|error| self.file.explain(&error));
        let started = Instant::now();
        let outcome = outcome.and_then(|applied| self.file.execute("COMMIT").map(|()| applied));
        self.shared.metrics.observe_sync(started.elapsed());
        outcome.map_err(|error| {
            self.numbers.forget_routes();
            if let Err(error) = self.file.roll_back() {
                error!(%error, "the log of deliveries could not roll a transaction back");
            }
            error.into()
        })
    }

    fn apply(
        &mut self,
        appends: &[Append],
        records: &[(Record, Answer<Done>)],
    ) -> rusqlite::Result<(Vec<Done>, Vec<Appended>)> {
        let done = records.iter().map(|(record, _)| self.apply_record(record)).collect::<Result<_, _>>()?;
        let connection = self.file.connection();
        let appended = appends
            .iter()
            .map(|append| rows::append(connection, &mut self.numbers, &append.delivery))
            .collect::<Result<_, _>>()?;
        Ok((done, appended))
    }

    fn apply_record(&mut self, record: &Record) -> rusqlite::Result<Done> {
        let (connection, numbers) = (self.file.connection(), &mut self.numbers);
        let mut done = Done::default();
        match record {
            Record::Settle(settlement) => rows::settle(connection, settlement)?,
            Record::Postpone(ids, due_at) => {
                ids.iter().try_for_each(|id| rows::postpone(connection, *id, *due_at))?;
            }
            Record::Replay(id) => {
                let (replayed, route) = operator::replay(connection, numbers, *id)?;
                done.replayed = Some(replayed);
                done.routes.extend(route);
            }
            Record::ReplayMany(filter, at_most) => {
                (done.count, done.last, done.routes) =
                    operator::replay_many(connection, numbers, filter, *at_most)?;
            }
            Record::Remove(id) => done.count = usize::from(operator::remove(connection, *id)?),
            Record::Purge(purge) => done.count = upkeep::purge(connection, *purge)?,
        }
        Ok(done)
    }

    /// The engine hears of it first: a caller that went away meanwhile changes nothing.
    fn appended(&self, append: Append, appended: Appended) {
        let Append { delivery, admission, caller, answer } = append;
        if let Appended::New(id, route) = appended {
            self.shared.metrics.count_accepted(&delivery.route.path);
            self.inbox.put(Arrival { id, route, attempts: 0, delivery, admission, caller });
        }
        drop(answer.send(Ok(appended)));
    }

    fn measure(&self) {
        let pragma = |name: &str| {
            let value = self.file.connection().pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            value.ok().and_then(|value| u64::try_from(value).ok()).unwrap_or(0)
        };
        let pages = pragma("page_count").saturating_sub(pragma("freelist_count"));
        self.shared.stored_bytes.store(pages * pragma("page_size"), Ordering::Relaxed);
    }

    /// SQLite would do this by itself, and keep it to itself when the disk fails.
    fn checkpoint_if_due(&mut self) -> Result<(), StoreError> {
        if self.since_checkpoint < CHECKPOINT_AFTER {
            return Ok(());
        }
        self.since_checkpoint = 0;
        match self.file.checkpoint("PASSIVE") {
            Err(error) if LogError::from(error.clone()).is_final() => Err(error),
            Err(error) => {
                warn!(%error, "the log of deliveries could not be merged into its file");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// A sync that failed is not tried again: the system may have dropped what it could not write.
    fn give_up(self, error: StoreError) {
        error!(%error, "the log of deliveries takes nothing more");
        let (appends, records) = {
            let mut queue = self.shared.queue.lock();
            queue.closed = true;
            (mem::take(&mut queue.appends), mem::take(&mut queue.records))
        };
        refuse(appends, records, &error.clone().into());
        self.shared.failed.send_replace(Some(error));
    }
}

fn refuse(appends: Vec<Append>, records: Vec<(Record, Answer<Done>)>, error: &LogError) {
    for append in appends {
        drop(append.answer.send(Err(error.clone())));
    }
    for (_, answer) in records {
        drop(answer.send(Err(error.clone())));
    }
}
