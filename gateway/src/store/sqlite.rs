//! A SQLite file of the data directory: how it is opened, checked, upgraded, and what its errors mean.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::StoreError;
use crate::data_dir::DataDir;

/// How long a transaction waits for somebody who reads or backs up the file with another program.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a file is called and what is in it.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) file: &'static str,
    /// What a gateway is without when the file has been moved away, for messages.
    pub(crate) holds: &'static str,
    /// Settings that SQLite takes only while the file is empty.
    pub(crate) when_new: &'static str,
    /// `migrations[n]` leads from schema `n`, which is the file's `user_version`, to `n + 1`. Released ones never change.
    pub(crate) migrations: &'static [&'static str],
    /// A larger file is checked when a damaged page is met, and not as a whole when it is opened.
    pub(crate) checked_up_to: u64,
}

impl Schema {
    /// For an error of a connection that only reads.
    pub(crate) fn explain(&'static self, error: &rusqlite::Error) -> StoreError {
        explain(Path::new(self.file), self, error)
    }
}

/// An open file, for the one thread that writes it.
pub(crate) struct SqliteFile {
    connection: Connection,
    path: PathBuf,
    identity: Identity,
    schema: &'static Schema,
}

impl SqliteFile {
    pub(crate) fn open(dir: &DataDir, schema: &'static Schema) -> Result<Self, StoreError> {
        // SQLite would make a file that everybody may read; its -wal and -shm files take over the mode of this one.
        let path = dir
            .private_file(schema.file)
            .map_err(|error| StoreError::Failed { file: dir.path(schema.file), reason: error.to_string() })?;
        let explain = |error| explain(&path, schema, &error);

        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(explain)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(explain)?;
        // Before anything else, so that a file which is refused stays as it is.
        let found = version(&connection, &path, schema)?;
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() <= schema.checked_up_to) {
            quick_check(&connection, &path, schema)?;
        }
        configure(&connection, &path, schema)?;
        migrate(&connection, found, schema.migrations).map_err(explain)?;
        // After a sync that failed, the system may take pages for written that never were. They are read from the log,
        // written and synced anew, and the log begins afresh, before anything follows them.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(explain)?;

        let identity = Identity::of(&path).ok_or_else(|| StoreError::Gone(path.clone()))?;
        Ok(Self { connection, path, identity, schema })
    }

    /// A second connection to an open file, for a thread that moves the log into the file while the writer writes.
    pub(crate) fn open_beside(&self) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags)
            .and_then(|connection| connection.busy_timeout(BUSY_TIMEOUT).map(|()| connection));
        let connection = opened.map_err(|error| self.explain(&error))?;
        configure(&connection, &self.path, self.schema)?;
        Ok(Self { connection, path: self.path.clone(), identity: self.identity, schema: self.schema })
    }

    /// A second connection, to read with while the writer writes.
    pub(crate) fn open_reader(dir: &DataDir, schema: &'static Schema) -> Result<Connection, StoreError> {
        let path = dir.path(schema.file);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let reader = Connection::open_with_flags(&path, flags)?;
            reader.busy_timeout(BUSY_TIMEOUT)?;
            keep_plans(&reader)?;
            Ok(reader)
        };
        open().map_err(|error| explain(&path, schema, &error))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn explain(&self, error: &rusqlite::Error) -> StoreError {
        explain(&self.path, self.schema, error)
    }

    pub(crate) fn begin(&self) -> Result<(), StoreError> {
        if Identity::of(&self.path) != Some(self.identity) {
            return Err(StoreError::Gone(self.path.clone()));
        }
        self.roll_back()?;
        self.execute_cached("BEGIN IMMEDIATE")
    }

    /// What the last `begin` began is on disk when this returns.
    pub(crate) fn commit(&self) -> Result<(), StoreError> {
        self.execute_cached("COMMIT")
    }

    fn execute_cached(&self, sql: &str) -> Result<(), StoreError> {
        let executed = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|error| self.explain(&error))
    }

    /// The size of what is in use in the file, without the pages that wait to be used again.
    pub(crate) fn used_bytes(&self) -> Result<u64, StoreError> {
        let pragma = |name: &str| -> rusqlite::Result<i64> {
            let mut statement = self.connection.prepare_cached(name)?;
            statement.query_row([], |row| row.get(0))
        };
        let used = || -> rusqlite::Result<i64> {
            let pages = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
            Ok(pages * pragma("PRAGMA page_size")?)
        };
        used().map(|bytes| u64::try_from(bytes).unwrap_or(0)).map_err(|error| self.explain(&error))
    }

    /// Ends a transaction that is still open; most of the failures that lose one have ended it.
    pub(crate) fn roll_back(&self) -> Result<(), StoreError> {
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK") }
    }

    pub(crate) fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.connection.execute_batch(sql).map_err(|error| self.explain(&error))
    }

    /// Moves the log into the file, as far as nobody else is in the way. `mode` is one of SQLite's.
    pub(crate) fn checkpoint(&self, mode: &str) -> Result<(), StoreError> {
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
            .map_err(|error| self.explain(&error))
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

fn version(connection: &Connection, file: &Path, schema: &'static Schema) -> Result<usize, StoreError> {
    let known = schema.migrations.len();
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| explain(file, schema, &error))?;
    usize::try_from(found).ok().filter(|version| *version <= known).ok_or_else(|| StoreError::Newer {
        file: file.to_owned(),
        found,
        known: known as i64,
    })
}

fn quick_check(connection: &Connection, file: &Path, schema: &'static Schema) -> Result<(), StoreError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| explain(file, schema, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(StoreError::Damaged { file: file.to_owned(), reason: verdict, holds: schema.holds })
}

fn configure(connection: &Connection, file: &Path, schema: &'static Schema) -> Result<(), StoreError> {
    let explain = |error| explain(file, schema, &error);
    connection.execute_batch(schema.when_new).map_err(explain)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)).map_err(explain)?;
    if mode != "wal" {
        let reason = "its file system cannot hold a write-ahead log; put data_dir on a local disk".into();
        return Err(StoreError::Failed { file: file.to_owned(), reason });
    }
    // Closing would move the log into the file even after a sync that failed, and such a sync must not be tried again.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(explain)?;
    keep_plans(connection).map_err(explain)?;
    // What checkpoints meet on the disk, SQLite keeps to itself when it begins them: see `checkpoint`.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(explain)?;
    // fullfsync: macOS syncs to the disk's own cache unless asked for more. Elsewhere it means nothing.
    connection
        .execute_batch("PRAGMA synchronous = FULL; PRAGMA fullfsync = ON; PRAGMA foreign_keys = ON")
        .map_err(explain)
}

/// Otherwise SQLite compiles a statement anew, each time, whose plan might be a better one for other parameters: for what joins tables, reads a
/// part of an index or has a limit, that takes several times as long as running it.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn migrate(connection: &Connection, from: usize, migrations: &[&str]) -> rusqlite::Result<()> {
    if from == migrations.len() {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    for migration in &migrations[from..] {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", migrations.len() as i64)?;
    transaction.commit()
}

fn explain(file: &Path, schema: &'static Schema, error: &rusqlite::Error) -> StoreError {
    let file = file.to_owned();
    let holds = schema.holds;
    match error {
        // The index of the log, which is no promise to anybody, finds no room to grow.
        rusqlite::Error::SqliteFailure(code, _) if code.extended_code == ffi::SQLITE_IOERR_SHMSIZE => {
            StoreError::Full(file)
        }
        rusqlite::Error::SqliteFailure(code, _) => match code.code {
            ErrorCode::DiskFull => StoreError::Full(file),
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                StoreError::Damaged { file, reason: error.to_string(), holds }
            }
            ErrorCode::SystemIoFailure => {
                StoreError::Disk { file, reason: format!("{error} (SQLite's code {})", code.extended_code) }
            }
            _ => {
                StoreError::Failed { file, reason: format!("{error} (SQLite's code {})", code.extended_code) }
            }
        },
        rusqlite::Error::FromSqlConversionFailure(..) => {
            StoreError::Damaged { file, reason: error.to_string(), holds }
        }
        _ => StoreError::Failed { file, reason: error.to_string() },
    }
}
