//! Packages of other languages, installed once for each set of pins and kept in the target directory.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, TryLockError};
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::binaries;

/// How long installing may take, waiting for another process that does the same included.
const SETUP_LIMIT: Duration = Duration::from_secs(900);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// The folder of a Python environment with what this file of requirements pins, which lies under `tests/`.
///
/// # Panics
/// When it cannot be made.
pub async fn python(requirements: &str) -> PathBuf {
    python_with(requirements, None).await
}

/// As [`python`], and a package of this repository as it is, editable.
///
/// # Panics
/// When it cannot be made.
pub async fn python_with(requirements: &str, package: Option<&Path>) -> PathBuf {
    let mut pins = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements)];
    pins.extend(package.map(|package| package.join("pyproject.toml")));
    let name = requirements.trim_end_matches("/requirements.txt");
    let installers = |dir: &Path| {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv", "."]);
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["-r", "requirements.txt"]);
        if let Some(package) = package {
            pip.arg("--editable").arg(package);
        }
        vec![venv, pip]
    };
    let installed = once(name, "python3", &pins, installers).await;
    installed.unwrap_or_else(|reason| {
        panic!("it takes `python3` with its venv module, and a package index to install from\n{reason}")
    })
}

/// Runs `installers` in a new folder that has copies of the `pins`, unless this process or another did so already for
/// the same pins and interpreter. The folder's name begins with `name`.
///
/// # Errors
/// When an installer fails or takes too long; the text has what it printed.
pub async fn once(
    name: &str,
    interpreter: &str,
    pins: &[PathBuf],
    installers: impl FnOnce(&Path) -> Vec<Command>,
) -> Result<PathBuf, String> {
    let setup = tokio::time::timeout(SETUP_LIMIT, set_up(name, interpreter, pins, installers)).await;
    setup.unwrap_or_else(|_| Err(format!("not done within {SETUP_LIMIT:?}")))
}

async fn set_up(
    name: &str,
    interpreter: &str,
    pins: &[PathBuf],
    installers: impl FnOnce(&Path) -> Vec<Command>,
) -> Result<PathBuf, String> {
    let mut version = Command::new(interpreter);
    version.arg("--version");
    let version = run(version).await?;
    let mut key = DefaultHasher::new();
    (&version.stdout, &version.stderr).hash(&mut key);
    let mut copies = Vec::new();
    for path in pins {
        let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.hash(&mut key);
        copies.push((path.file_name().unwrap_or_default(), text));
    }
    let dir = binaries::target_dir().join("installed").join(format!("{name}-{:016x}", key.finish()));
    let complete = dir.join(".complete");
    let io = |error: io::Error| format!("{}: {error}", dir.display());

    fs::create_dir_all(dir.parent().unwrap_or(&dir)).map_err(io)?;
    // Held until this function returns, and given up by the kernel if this process dies before.
    let lock = File::create(dir.with_extension("lock")).map_err(io)?;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
    }
    if complete.is_file() {
        return Ok(dir);
    }
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => fs::create_dir(&dir).map_err(io)?,
    }
    for (name, text) in copies {
        fs::write(dir.join(name), text).map_err(io)?;
    }
    for mut installer in installers(&dir) {
        installer.current_dir(&dir);
        run(installer).await?;
    }
    fs::write(complete, "").map_err(io)?;
    Ok(dir)
}

async fn run(mut command: Command) -> Result<Output, String> {
    command.stdin(Stdio::null());
    let shown = format!("{command:?}");
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    Err(format!("{shown}: {}\n{stdout}{stderr}", output.status))
}

/// A program of a Debian package, installed if it is missing. [`None`], said loudly, where it cannot be.
///
/// # Panics
/// In CI, where nothing may be missing.
pub async fn debian(program: &str, package: &str) -> Option<PathBuf> {
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/bin".into(), "/usr/sbin".into()]);
        folders.map(|folder| folder.join(program)).find(|file| file.is_file())
    };
    if let Some(found) = found() {
        return Some(found);
    }
    let mut install = Command::new("sh");
    // What a package would run as a service is started by tests alone, where they want it.
    let line = format!(
        "policy=/usr/sbin/policy-rc.d
         if [ ! -e $policy ]; then
             trap 'rm -f $policy' EXIT
             printf '#!/bin/sh\\nexit 101\\n' > $policy && chmod 755 $policy
         fi
         apt-get update && apt-get install --yes --no-install-recommends {package}"
    );
    install.args(["-c", &line]).env("DEBIAN_FRONTEND", "noninteractive");
    let installed = tokio::time::timeout(SETUP_LIMIT, run(install)).await;
    let found = found();
    if found.is_none() {
        let reason = format!("{program} is missing, and {package} could not be installed: {installed:?}");
        assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "{reason}");
        skipped(&reason);
    }
    found
}

#[expect(clippy::print_stderr, reason = "a test that shows nothing must not look as if it did")]
fn skipped(reason: &str) {
    eprintln!("!!! SKIPPED: {reason}");
}
