//! The thread that writes the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tracing::{error, warn};

use super::merger::{Merger, Step};
use super::queue::{Group, Pace};
use super::{Answer, Append, Done, LogError, Record, Shared};
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::delivery::inbox::{Arrival, Inbox};
use crate::delivery::rows::{self, Appended, Numbers};
use crate::delivery::{operator, upkeep};
use crate::store::StoreError;
use crate::store::sqlite::SqliteFile;

/// Bytes in the write-ahead log, about, before they are moved into the file; and what a change and a commit take there beside bodies.
const MERGE_AFTER: usize = 4 << 20;
const PER_CHANGE: usize = 1536;
const PER_COMMIT: usize = 3 * 4096;
/// Bytes, counted in the same way, that are moved at a time: a few tenths of a millisecond of work. A scheduler lets a commit that is due wait
/// for all of it on the same CPU, even while another one is idle.
const MOVE_AFTER: usize = 256 << 10;
/// Bytes, counted in the same way, that may be written before the file is measured: SQLite reads each question anew, as text.
const MEASURE_AFTER: usize = 1 << 20;

/// The fields go in this order when the thread ends: the file is closed before the directory is unlocked.
pub(super) struct Writer {
    shared: Arc<Shared>,
    merger: Merger,
    file: SqliteFile,
    numbers: Numbers,
    config: Arc<ArcSwap<Config>>,
    inbox: Arc<Inbox>,
    pace: Pace,
    since_merge: usize,
    since_moved: usize,
    since_measured: usize,
    _dir: DataDir,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        file: SqliteFile,
        numbers: Numbers,
        config: Arc<ArcSwap<Config>>,
        inbox: Arc<Inbox>,
        dir: DataDir,
    ) -> Result<Self, StoreError> {
        let merger = Merger::start(file.open_beside()?).map_err(|error| StoreError::Failed {
            file: file.path().to_owned(),
            reason: format!("cannot start the thread that merges its log: {error}"),
        })?;
        let pace = Pace::new();
        let writer = Self {
            shared,
            merger,
            file,
            numbers,
            config,
            inbox,
            pace,
            since_merge: 0,
            since_moved: 0,
            since_measured: 0,
            _dir: dir,
        };
        writer.measure();
        Ok(writer)
    }

    pub(super) fn run(mut self) {
        while let Some(group) = self.shared.queue.next(&self.pace) {
            match self.write(group) {
                Ok(()) => {}
                Err(error) => return self.give_up(error),
            }
        }
        drop(self.merger);
        if let Err(error) = self.file.checkpoint("TRUNCATE") {
            // Nothing is lost: the log is read when it is opened next.
            warn!(%error, "the log of deliveries could not be merged into its file");
        }
    }

    /// Commits a group and tells everybody. An error is final.
    fn write(&mut self, mut group: Group) -> Result<(), StoreError> {
        group.sort();
        match self.commit(&group) {
            Ok((done, appended)) => {
                let Group { appends, records } = group;
                let made_room = records.iter().any(|(record, _)| !matches!(record, Record::Settle(_)));
                if !appends.is_empty() {
                    self.shared.lacks_room.store(false, Ordering::Relaxed);
                }
                let bytes: usize = appends.iter().map(|append| append.delivery.body.len()).sum();
                let written = bytes + (appends.len() + records.len()) * PER_CHANGE + PER_COMMIT;
                self.since_merge += written;
                self.since_moved += written;
                self.since_measured += written;
                self.tell(appends, appended);
                // Whoever makes room asks next how much there is.
                self.measure_if_due(made_room);
                for ((record, answer), done) in records.into_iter().zip(done) {
                    if let Record::Remove(id) = record {
                        self.inbox.remove(id);
                    }
                    done.routes.iter().for_each(|route| self.inbox.look_at(*route));
                    // Whoever no longer waits has given up the answer, and not the change.
                    drop(answer.send(Ok(done)));
                }
                self.merge_if_due()
            }
            Err(LogError::Store(error)) if error.is_final() => {
                refuse(group, &error.clone().into());
                Err(error)
            }
            Err(error) => self.write_apart(group, &error),
        }
    }

    /// What cannot be committed together is tried in smaller parts: what records the past needs hardly any room.
    fn write_apart(&mut self, mut group: Group, error: &LogError) -> Result<(), StoreError> {
        let (appends, records) = (&mut group.appends, &mut group.records);
        if appends.len() + records.len() <= 1 {
            if error.is_for_want_of_room() {
                self.shared.lacks_room.store(true, Ordering::Relaxed);
                self.shared.room_wanted.notify_one();
            } else {
                warn!(%error, "a change of the log of deliveries failed");
            }
            refuse(group, error);
            return Ok(());
        }
        let rest = if appends.is_empty() {
            Group { appends: Vec::new(), records: records.split_off(records.len() / 2) }
        } else if records.is_empty() {
            Group { appends: appends.split_off(appends.len() / 2), records: Vec::new() }
        } else {
            Group { appends: std::mem::take(appends), records: Vec::new() }
        };
        self.write(group)?;
        self.write(rest)
    }

    fn commit(&mut self, group: &Group) -> Result<(Vec<Done>, Vec<Appended>), LogError> {
        let more: u64 = group.appends.iter().map(|append| append.delivery.body.len() as u64).sum();
        let max_stored = self.config.load().webhooks.max_stored;
        let is_full = self.shared.stored_bytes.load(Ordering::Relaxed) + more >= max_stored;
        if !group.appends.is_empty() && is_full {
            return Err(LogError::AtMaxStored(max_stored));
        }
        self.file.begin()?;
        let outcome = self.apply(&group.appends, &group.records).map_err(|error| self.file.explain(&error));
        let started = Instant::now();
        let outcome = outcome.and_then(|applied| self.file.commit().map(|()| applied));
        let took = started.elapsed();
        self.shared.metrics.observe_sync(took);
        self.pace.learn(group.appends.len(), took);
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
            Record::ReplayMany(ids) => {
                (done.count, done.routes) = operator::replay_many(connection, numbers, ids)?;
            }
            Record::Remove(id) => done.count = usize::from(operator::remove(connection, *id)?),
            Record::Purge(purge) => upkeep::purge(connection, purge)?,
        }
        Ok(done)
    }

    /// The engine hears of it first: callers that went away meanwhile change nothing.
    fn tell(&self, appends: Vec<Append>, appended: Vec<Appended>) {
        let mut told = Told::default();
        let arrivals = appends.into_iter().zip(appended).filter_map(|(append, appended)| {
            let Append { delivery, admission, caller, answer, runtime } = append;
            told.add(runtime, answer, appended);
            let Appended::New(id, route) = appended else { return None };
            self.shared.metrics.count_accepted(&delivery.route.path);
            Some(Arrival { id, route, attempts: 0, delivery, admission, caller, share: None })
        });
        self.inbox.put(arrivals);
        told.send();
    }

    /// Far from the limit a look now and then is enough.
    fn measure_if_due(&mut self, made_room: bool) {
        let stored = self.shared.stored_bytes.load(Ordering::Relaxed);
        let max_stored = self.config.load().webhooks.max_stored;
        let is_far = stored < max_stored / 2 && (self.since_measured as u64) < max_stored / 4;
        if made_room || !is_far || self.since_measured >= MEASURE_AFTER {
            self.measure();
            self.since_measured = 0;
        }
    }

    fn measure(&self) {
        let bytes = self.file.used_bytes().unwrap_or(0);
        self.shared.stored_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The log begins afresh only when all of it is in the file. Most of it gets there beside the commits, so what is left for this
    /// thread is what came meanwhile.
    fn merge_if_due(&mut self) -> Result<(), StoreError> {
        if let Some((step, outcome)) = self.merger.ended() {
            let merged = match step {
                Step::Move => outcome,
                Step::Sync => {
                    self.since_merge = 0;
                    outcome.and_then(|()| self.file.checkpoint("PASSIVE"))
                }
            };
            match merged {
                Err(error) if error.is_final() => return Err(error),
                Err(error) => warn!(%error, "the log of deliveries could not be merged into its file"),
                Ok(()) => {}
            }
        }
        let due = if self.since_merge >= MERGE_AFTER {
            Some(Step::Sync)
        } else {
            (self.since_moved >= MOVE_AFTER).then_some(Step::Move)
        };
        if due.is_some_and(|step| self.merger.begin(step)) {
            self.since_moved = 0;
        }
        Ok(())
    }

    /// A sync that failed is not tried again: the system may have dropped what it could not write.
    fn give_up(self, error: StoreError) {
        error!(%error, "the log of deliveries takes nothing more");
        refuse(self.shared.queue.give_up(), &error.clone().into());
        self.shared.failed.send_replace(Some(error));
    }
}

fn refuse(group: Group, error: &LogError) {
    for append in group.appends {
        drop(append.answer.send(Err(error.clone())));
    }
    for (_, answer) in group.records {
        drop(answer.send(Err(error.clone())));
    }
}

/// What became of requests, by the runtime that waits to hear it: to wake a thread for every one of them would take longer than
/// their share of a sync.
#[derive(Default)]
struct Told(Vec<(Handle, Answers)>);

type Answers = Vec<(Answer<Appended>, Appended)>;

impl Told {
    fn add(&mut self, runtime: Handle, answer: Answer<Appended>, appended: Appended) {
        match self.0.iter_mut().find(|(known, _)| known.id() == runtime.id()) {
            Some((_, answers)) => answers.push((answer, appended)),
            None => self.0.push((runtime, vec![(answer, appended)])),
        }
    }

    fn send(self) {
        for (runtime, answers) in self.0 {
            runtime.spawn(async move {
                for (answer, appended) in answers {
                    // Whoever no longer waits has given up the answer, and not the change.
                    drop(answer.send(Ok(appended)));
                }
            });
        }
    }
}
