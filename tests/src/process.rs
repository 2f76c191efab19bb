//! Child processes: every line they print is kept, they get signals, and they never outlive the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, kill_process};
use tokio::sync::watch;

pub use rustix::process::Signal;

use crate::wait;

/// A running (or finished) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    lines: watch::Receiver<Arc<Vec<String>>>,
}

impl Process {
    /// Starts `command` with both outputs captured. Its environment is what the caller put into `command`.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {command:?}: {error}"));
        let (sender, lines) = watch::channel(Arc::default());
        let sender = Arc::new(sender);
        keep_lines(child.stdout.take().expect("stdout is piped"), Arc::clone(&sender));
        keep_lines(child.stderr.take().expect("stderr is piped"), sender);
        Self { name: name.to_owned(), child: Mutex::new(child), lines }
    }

    /// Every line printed so far, of both outputs.
    #[must_use]
    pub fn lines(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.lines.borrow())
    }

    /// Every line of a process that has ended, or ends now.
    ///
    /// # Panics
    /// At the deadline, when somebody still holds its outputs.
    pub async fn all_lines(&self) -> Arc<Vec<String>> {
        let mut lines = self.lines.clone();
        let end = async { while lines.changed().await.is_ok() {} };
        wait::within(&format!("{}: its outputs end", self.name), end).await;
        self.lines()
    }

    /// The first line that `wanted` turns into something, now or later.
    ///
    /// # Panics
    /// At the deadline, or when the process has ended without such a line; `what` is named.
    pub async fn wait_for_line<T>(&self, what: &str, wanted: impl FnMut(&str) -> Option<T>) -> T {
        let mut wanted = wanted;
        let mut lines = self.lines.clone();
        let mut seen = 0;
        wait::within(&format!("{}: {what}", self.name), async {
            loop {
                let now = Arc::clone(&lines.borrow_and_update());
                if let Some(found) = now[seen..].iter().find_map(|line| wanted(line)) {
                    return found;
                }
                seen = now.len();
                if lines.changed().await.is_err() {
                    panic!("{} ended without {what}", self.name);
                }
            }
        })
        .await
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Sends a signal; to a process that has ended, nothing.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        if child.try_wait().expect("a child of ours").is_none() {
            let pid = Pid::from_child(&child);
            kill_process(pid, signal).expect("our own child takes signals");
        }
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn wait_for_exit(&self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, async || self.child().try_wait().expect("a child of ours")).await
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child().try_wait().expect("a child of ours").is_none()
    }

    /// Kills the process at once, and reaps it.
    pub fn kill(&self) {
        let mut child = self.child();
        // Both fail only for a process that has been reaped.
        drop(child.kill());
        drop(child.wait());
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the test runner shows what a failing test printed")]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            for line in self.lines().iter() {
                eprintln!("[{}] {line}", self.name);
            }
        }
    }
}

fn keep_lines(from: impl Read + Send + 'static, to: Arc<watch::Sender<Arc<Vec<String>>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).into_owned();
            to.send_modify(|lines| Arc::make_mut(lines).push(line));
        }
    });
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Both outputs, for messages and for searching.
    #[must_use]
    pub fn output(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The exit code.
    ///
    /// # Panics
    /// When a signal ended the command.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

/// Runs `command` to its end.
///
/// # Panics
/// At the deadline, or when the program cannot be started.
pub async fn run(mut command: Command) -> Finished {
    command.stdin(Stdio::null());
    let shown = format!("{command:?}");
    let mut command = tokio::process::Command::from(command);
    let output = wait::within(&shown, command.kill_on_drop(true).output()).await;
    let output = output.unwrap_or_else(|error| panic!("{shown}: {error}"));
    Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
