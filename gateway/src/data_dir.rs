//! The directory that holds what outlives the process: readable by its owner alone, used by one gateway at a time.
//! Contract section 2, `data_dir`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use crate::config::Secret;

const LOCK: &str = "lock";
const TOKEN_BYTES: usize = 32;

/// A data directory that this process has locked. Clones share the lock, which ends with the last of them or, at the
/// latest, with the process.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    lock: Arc<File>,
}

/// Why a data directory cannot be used. The texts are for the operator.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data_dir {} is in use by another gateway; stop that one, or give this one a data_dir of its own", .0.display())]
    InUse(PathBuf),
    #[error("data_dir {}: {source}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
    /// Others may enter the directory, and it is not ours to change that.
    #[error(
        "data_dir {} is open to other users (mode {mode:04o}) and its permissions cannot be changed: {source}; \
         give it to the user that runs the gateway, or let data_dir name a new directory inside it",
        path.display()
    )]
    OpenToOthers { path: PathBuf, mode: u32, source: io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "data_dir {} is not the one that the gateway before uses; an upgrade keeps the data_dir, \
         so to change it stop the gateway and start it again",
        .0.display()
    )]
    NotHandedOver(PathBuf),
    #[error("{} holds no token; remove it, and the gateway makes a new one when it starts", .0.display())]
    NotAToken(PathBuf),
    #[error("the system gives no random bytes: {0}")]
    NoRandomness(getrandom::Error),
}

impl DataDir {
    /// Makes the directory and what is missing above it with mode 0700, or takes away other users' access to the one
    /// that is there, and locks it.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |source| DataDirError::Unusable { path: path.to_owned(), source };
        // The paths in messages must mean the same to somebody who stands in another directory.
        let path = path::absolute(path).map_err(unusable)?;
        make(&path).map_err(unusable)?;
        keep_others_out(&path)?;

        let lock_path = path.join(LOCK);
        let lock = open_private(&lock_path)
            .map_err(|source| DataDirError::File { path: lock_path.clone(), source })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(DataDirError::File { path: lock_path, source }),
        }
    }

    /// Takes over the directory from the process that locked it: `lock` is a copy of its descriptor, and locks as long as one of
    /// them is open.
    pub fn inherit(path: &Path, lock: OwnedFd) -> Result<Self, DataDirError> {
        let path = path::absolute(path)
            .map_err(|source| DataDirError::Unusable { path: path.to_owned(), source })?;
        let lock = File::from(lock);
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let handed_over = lock.metadata().map(identity).ok();
        let configured = fs::metadata(path.join(LOCK)).map(identity).ok();
        if handed_over.is_none() || handed_over != configured {
            return Err(DataDirError::NotHandedOver(path));
        }
        Ok(Self { path, lock: Arc::new(lock) })
    }

    /// What keeps other gateways out, for [`inherit`](Self::inherit).
    #[must_use]
    pub fn lock(&self) -> &File {
        &self.lock
    }

    /// Where the file `name` of this directory is; absolute.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The token in the file `name`, and the file's path. When there is no such file, 256 random bits in hexadecimal
    /// become the token and are on disk before this returns.
    pub fn read_or_make_token(&self, name: &str) -> Result<(Secret, PathBuf), DataDirError> {
        let path = self.path(name);
        let failed = |source| DataDirError::File { path: path.clone(), source };
        let token = match fs::read_to_string(&path) {
            Ok(text) => {
                tighten(&path, 0o600).map_err(failed)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = new_token()?;
                self.write(name, format!("{token}\n").as_bytes()).map_err(failed)?;
                token
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(DataDirError::NotAToken(path));
            }
            Err(error) => return Err(failed(error)),
        };
        let token = token.trim();
        // A token travels in an `Authorization` header, where nothing else could be sent.
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DataDirError::NotAToken(path));
        }
        Ok((Secret::new(token), path))
    }

    /// Makes sure that the file `name` exists and that only its owner can read it; returns its path.
    pub(crate) fn private_file(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path(name);
        open_private(&path)?;
        sync_dir(&self.path)?;
        Ok(path)
    }

    /// After a crash at any moment the file `name` has all of `content` or is as it was.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let unfinished = self.path(&format!("{name}.unfinished"));
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, self.path(name))?;
        sync_dir(&self.path)
    }
}

/// A directory entry is on disk only once the directory that holds it was synced, so each new one's parent is.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_dir)
}

/// Changing the mode succeeds for the directory's owner, and for root, whom no mode would bind.
fn keep_others_out(path: &Path) -> Result<(), DataDirError> {
    let mode = fs::metadata(path)
        .map_err(|source| DataDirError::Unusable { path: path.to_owned(), source })?
        .permissions()
        .mode();
    tighten(path, 0o700).map_err(|source| DataDirError::OpenToOthers {
        path: path.to_owned(),
        mode: mode & 0o7777,
        source,
    })
}

fn open_private(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    tighten(path, 0o600)?;
    Ok(file)
}

/// Gives `path` the mode `owner_only` if others have any access to it.
fn tighten(path: &Path, owner_only: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(owner_only))?;
        tracing::warn!(
            path = %path.display(),
            "was open to other users (mode {mode:04o}); it holds secrets, so its mode is now {owner_only:04o}"
        );
    }
    Ok(())
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Hexadecimal, because a token that starts with `-` would be a flag on a command line.
fn new_token() -> Result<String, DataDirError> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(DataDirError::NoRandomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
