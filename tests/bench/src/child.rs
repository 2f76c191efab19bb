//! Processes that end with the bench.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::procfs;

/// How long anything may take to start.
const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

/// A running process; it ends with this value.
#[derive(Debug)]
pub(crate) struct Running {
    name: &'static str,
    child: Child,
}

impl Running {
    /// Starts it with both outputs thrown away.
    pub(crate) fn start(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { name, child: spawn(name, &mut command)? })
    }

    /// Starts it with standard output and input as pipes; the lines come through the channel.
    pub(crate) fn start_talking(
        name: &'static str,
        mut command: Command,
    ) -> anyhow::Result<(Self, Receiver<String>)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = spawn(name, &mut command)?;
        let lines = child.stdout.take().map(lines_of::<ChildStdout>).context("stdout is piped")?;
        Ok((Self { name, child }, lines))
    }

    /// Starts it with standard error as a pipe; the lines come through the channel.
    pub(crate) fn start_logging(
        name: &'static str,
        mut command: Command,
    ) -> anyhow::Result<(Self, Receiver<String>)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(name, &mut command)?;
        let lines = child.stderr.take().map(lines_of::<ChildStderr>).context("stderr is piped")?;
        Ok((Self { name, child }, lines))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// It and its children, as they are now.
    pub(crate) fn family(&self) -> Vec<u32> {
        procfs::family(self.id())
    }

    /// An error if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Asks until there is an answer; an error if the process ends before, or takes too long.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        mut ask: impl FnMut() -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + START;
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!("{}: {what} did not happen within {START:?}", self.name);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A signal that cannot be sent is to a process that has ended.
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        let deadline = Instant::now() + END;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                self.child.kill().ok();
                self.child.wait().ok();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Child> {
    command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))
}

fn lines_of<R: Read + Send + 'static>(from: R) -> Receiver<String> {
    let (sender, lines) = sync_channel(1024);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // What nobody reads any more is thrown away, so that the process never waits for it.
            sender.try_send(line).ok();
        }
    });
    lines
}
