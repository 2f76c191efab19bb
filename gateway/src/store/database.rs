//! The gateway's own file, and what a transaction is.

use std::cell::Cell;
use std::path::Path;

use super::sqlite::{Schema, SqliteFile};
use super::{Change, Recovered, StoreError, rows};
use crate::data_dir::DataDir;

static SCHEMA: Schema = Schema {
    file: "gearway.db",
    holds: "registrations, known routes and access tokens",
    when_new: "",
    checked_up_to: u64::MAX,
    migrations: &["
    CREATE TABLE worker (
        worker_id TEXT PRIMARY KEY,
        secret TEXT NOT NULL,
        registration TEXT NOT NULL,       -- JSON, as the worker sent it
        registered_at INTEGER NOT NULL,   -- milliseconds since 1970, as all times
        draining INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE route (
        shape TEXT NOT NULL,
        method TEXT NOT NULL,
        owner TEXT NOT NULL,
        protocol TEXT NOT NULL,
        handler TEXT NOT NULL,            -- JSON
        lost_at INTEGER NOT NULL,
        PRIMARY KEY (shape, method)
    ) STRICT;
    CREATE TABLE token (
        id TEXT PRIMARY KEY,
        hash BLOB NOT NULL,
        user TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER
    ) STRICT;
"],
};

/// How many transactions there are in the log, at least, before it is moved into the file.
const CHECKPOINT_AFTER: usize = 200;

pub(super) struct Database {
    file: SqliteFile,
    since_checkpoint: Cell<usize>,
}

/// Why no call of a transaction was committed.
pub(super) struct Lost {
    pub(super) error: StoreError,
    /// The transaction had begun: with fewer calls in it, it might have been committed.
    pub(super) begun: bool,
}

impl Database {
    pub(super) fn open(dir: &DataDir) -> Result<Self, StoreError> {
        Ok(Self { file: SqliteFile::open(dir, &SCHEMA)?, since_checkpoint: Cell::new(0) })
    }

    pub(super) fn file(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn load(&self) -> Result<Recovered, StoreError> {
        rows::load(self.file.connection()).map_err(|error| self.file.explain(&error))
    }

    /// One synced transaction that holds every call that could be applied. A call is applied wholly or not at all.
    pub(super) fn commit(&self, calls: &[Vec<Change>]) -> Result<Vec<Result<(), StoreError>>, Lost> {
        self.file.begin().map_err(|error| Lost { error, begun: false })?;
        let outcomes = calls.iter().map(|changes| self.apply(changes)).collect::<Result<_, _>>();
        outcomes.and_then(|outcomes| self.file.commit().map(|()| outcomes)).map_err(|error| {
            if let Err(error) = self.file.roll_back() {
                tracing::error!(%error, "the store could not roll a transaction back");
            }
            Lost { error, begun: true }
        })
    }

    /// Moves the log into the file once it has grown.
    pub(super) fn checkpoint_if_due(&self) -> Result<(), StoreError> {
        self.since_checkpoint.update(|transactions| transactions + 1);
        if self.since_checkpoint.get() < CHECKPOINT_AFTER {
            return Ok(());
        }
        self.since_checkpoint.set(0);
        self.file.checkpoint("PASSIVE")
    }

    /// Moves the log into the file.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        self.file.checkpoint("TRUNCATE")
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &rusqlite::Connection {
        self.file.connection()
    }

    /// The outer error means that the whole transaction is lost: SQLite rolls all of it back on some failures.
    fn apply(&self, changes: &[Change]) -> Result<Result<(), StoreError>, StoreError> {
        let connection = self.file.connection();
        self.file.execute("SAVEPOINT call")?;
        let outcome = changes
            .iter()
            .try_for_each(|change| rows::apply(connection, change))
            .map_err(|error| self.file.explain(&error));
        match outcome {
            Ok(()) => self.file.execute("RELEASE call").map(Ok),
            Err(error) if connection.is_autocommit() => Err(error),
            Err(error) => self.file.execute("ROLLBACK TO call; RELEASE call").map(|()| Err(error)),
        }
    }
}
