//! Disks that fail, and disks that are full.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::Process;

/// System calls of a running process on one file fail for as long as this lives.
#[derive(Debug)]
pub struct FailingDisk {
    _strace: Process,
}

impl FailingDisk {
    /// Every `call` (`fsync`, `pwrite64`) on `file` gets EIO from now on.
    ///
    /// # Panics
    /// When strace cannot attach to the process.
    pub async fn attach(pid: u32, file: &Path, call: &str) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-P"]).arg(file);
        command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=EIO")]);
        let strace = Process::spawn("strace", command);
        let attached = |line: &str| line.contains("attached").then_some(());
        strace.wait_for_line("it attaches", attached).await;
        Self { _strace: strace }
    }
}

/// A file system of its own that has little room. It goes with this value.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one of that size (`8m`) at `path`, which it makes.
    ///
    /// # Errors
    /// When this user may not mount, with the reason.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn mount(path: &Path, size: &str) -> Result<Self, String> {
        std::fs::create_dir_all(path).expect("a folder to mount at");
        mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "gearway-test"], path)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Makes it that large.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], &self.path).expect("what was mounted can be resized");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Files that a process still holds keep it alive until they are closed.
        drop(Command::new("umount").arg("-l").arg(&self.path).stderr(Stdio::null()).status());
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).arg(at).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Whether strace is there. A test that needs it and does not find it says so, and fails where everything has to run.
///
/// # Panics
/// When it is not and `CI` is `true`.
#[must_use]
pub fn strace_is_there() -> bool {
    let mut command = Command::new("strace");
    command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
    let is_there = command.status().is_ok_and(|status| status.success());
    if !is_there {
        skipped("strace is not installed");
    }
    is_there
}

/// Says that a test does not run here.
///
/// # Panics
/// When `CI` is `true`.
#[expect(clippy::print_stderr, reason = "what was not tested has to be seen")]
pub fn skipped(reason: &str) {
    assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "CI runs every test, and {reason}");
    eprintln!("!!! SKIPPED: {reason}");
}
