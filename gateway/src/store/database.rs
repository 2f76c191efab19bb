//! The SQLite file: how it is opened, checked and upgraded, and what a transaction is.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Change, Recovered, StoreError, rows};
use crate::data_dir::DataDir;

const FILE: &str = "gearway.db";

/// How long a transaction waits for somebody who reads or backs up the file with another program.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// `MIGRATIONS[n]` leads from schema `n`, which is the file's `user_version`, to `n + 1`. Released ones never change.
const MIGRATIONS: &[&str] = &["
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
"];

pub(super) struct Database {
    connection: Connection,
    file: PathBuf,
    identity: Identity,
}

/// Why no call of a transaction was committed.
pub(super) struct Lost {
    pub(super) error: StoreError,
    /// The transaction had begun: with fewer calls in it, it might have been committed.
    pub(super) begun: bool,
}

impl Database {
    pub(super) fn open(dir: &DataDir) -> Result<Self, StoreError> {
        // SQLite would make a file that everybody may read; its -wal and -shm files take over the mode of this one.
        let file = dir
            .private_file(FILE)
            .map_err(|error| StoreError::Failed { file: dir.path(FILE), reason: error.to_string() })?;
        let explain = |error| explain(&file, &error);

        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&file, flags).map_err(explain)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(explain)?;
        // Before anything else, so that a file which is refused stays as it is.
        let schema = schema(&connection, &file)?;
        quick_check(&connection, &file)?;
        configure(&connection, &file)?;
        migrate(&connection, schema).map_err(explain)?;

        let identity = Identity::of(&file).ok_or_else(|| StoreError::Gone(file.clone()))?;
        Ok(Self { connection, file, identity })
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    pub(super) fn load(&self) -> Result<Recovered, StoreError> {
        rows::load(&self.connection).map_err(|error| explain(&self.file, &error))
    }

    /// One synced transaction that holds every call that could be applied. A call is applied wholly or not at all.
    pub(super) fn commit(&self, calls: &[Vec<Change>]) -> Result<Vec<Result<(), StoreError>>, Lost> {
        self.begin().map_err(|error| Lost { error, begun: false })?;
        let outcomes = calls.iter().map(|changes| self.apply(changes)).collect::<Result<_, _>>();
        outcomes.and_then(|outcomes| self.execute("COMMIT").map(|()| outcomes)).map_err(|error| {
            if let Err(error) = self.roll_back() {
                tracing::error!(%error, "the store could not roll a transaction back");
            }
            Lost { error, begun: true }
        })
    }

    /// Moves the log into the file.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|error| explain(&self.file, &error))
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn begin(&self) -> Result<(), StoreError> {
        if Identity::of(&self.file) != Some(self.identity) {
            return Err(StoreError::Gone(self.file.clone()));
        }
        self.roll_back()?;
        self.execute("BEGIN IMMEDIATE")
    }

    /// Ends a transaction that is still open; most of the failures that lose one have ended it.
    fn roll_back(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK") }
    }

    /// The outer error means that the whole transaction is lost: SQLite rolls all of it back on some failures.
    fn apply(&self, changes: &[Change]) -> Result<Result<(), StoreError>, StoreError> {
        self.execute("SAVEPOINT call")?;
        let outcome = changes
            .iter()
            .try_for_each(|change| rows::apply(&self.connection, change))
            .map_err(|error| explain(&self.file, &error));
        match outcome {
            Ok(()) => self.execute("RELEASE call").map(Ok),
            Err(error) if self.connection.is_autocommit() => Err(error),
            Err(error) => self.execute("ROLLBACK TO call; RELEASE call").map(|()| Err(error)),
        }
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(|error| explain(&self.file, &error))
    }
}

/// Which file a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(file: &Path) -> Option<Self> {
        let metadata = fs::metadata(file).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

fn schema(connection: &Connection, file: &Path) -> Result<usize, StoreError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| explain(file, &error))?;
    usize::try_from(found)
        .ok()
        .filter(|schema| *schema <= MIGRATIONS.len())
        .ok_or_else(|| StoreError::Newer { file: file.to_owned(), found, known: MIGRATIONS.len() as i64 })
}

fn quick_check(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| explain(file, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { file: file.to_owned(), reason: verdict })
}

fn configure(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let explain = |error| explain(file, &error);
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(explain)?;
    if mode != "wal" {
        let reason = "its file system cannot hold a write-ahead log; put data_dir on a local disk".into();
        return Err(StoreError::Failed { file: file.to_owned(), reason });
    }
    // fullfsync: macOS syncs to the disk's own cache unless asked for more. Elsewhere it means nothing.
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA foreign_keys = ON")
        .map_err(explain)
}

fn migrate(connection: &Connection, schema: usize) -> rusqlite::Result<()> {
    if schema == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    for migration in &MIGRATIONS[schema..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
    transaction.commit()
}

fn explain(file: &Path, error: &rusqlite::Error) -> StoreError {
    let file = file.to_owned();
    match error {
        rusqlite::Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::DiskFull => StoreError::Full(file),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreError::Damaged { file, reason: error.to_string() }
            }
            _ => {
                StoreError::Failed { file, reason: format!("{error} (SQLite's code {})", code.extended_code) }
            }
        },
        rusqlite::Error::FromSqlConversionFailure(..) => {
            StoreError::Damaged { file, reason: error.to_string() }
        }
        _ => StoreError::Failed { file, reason: error.to_string() },
    }
}
