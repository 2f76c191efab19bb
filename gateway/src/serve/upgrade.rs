//! SIGUSR2, seen from the gateway that goes: starts its successor, hands over, or stays.

use std::env;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tracing::{error, info};

use super::signals::Signals;
use super::sockets::Sockets;
use super::takeover;
use super::talk::{self, Hello, Message, Serving, Yours};
use crate::admin::Succession;
use crate::data_dir::DataDir;
use crate::handover::{Duty, Paused};

/// For the new process to read its configuration.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// For what this process has begun to write.
const PAUSED_WITHIN: Duration = Duration::from_secs(10);
/// For the new process to read what is in `data_dir`. Changes by workers and operators wait meanwhile.
const SERVING_WITHIN: Duration = Duration::from_secs(60);

/// How this process was started, so that its successor is started the same way.
#[derive(Debug)]
pub(super) struct Program {
    /// Not resolved: a link may lead to another version by then, and the file may be another one.
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// What there is to hand over.
pub(super) struct Estate<'a> {
    pub(super) program: &'a Program,
    pub(super) sockets: &'a Sockets,
    pub(super) data_dir: &'a DataDir,
    /// In the order in which they are paused.
    pub(super) duties: &'a [Arc<dyn Duty>],
    pub(super) succession: &'a Succession,
    pub(super) unstored: &'a (dyn Fn() -> Yours + Sync),
}

impl Program {
    /// To be called when the process starts: later the file may have been replaced.
    pub(super) fn of_this_process() -> anyhow::Result<Self> {
        let mut arguments = env::args_os();
        let called = arguments.next().unwrap_or_default();
        let running = env::current_exe().context("cannot tell which program this is")?;
        let path =
            called_as(Path::new(&called)).filter(|path| is_same_file(path, &running)).unwrap_or(running);
        Ok(Self { path, arguments: arguments.collect() })
    }
}

/// The path that the caller meant by this word.
fn called_as(word: &Path) -> Option<PathBuf> {
    if word.components().count() > 1 || word.is_absolute() {
        return std::path::absolute(word).ok();
    }
    let directories = env::var_os("PATH")?;
    let candidates = env::split_paths(&directories).map(|directory| directory.join(word));
    candidates.filter_map(|path| std::path::absolute(path).ok()).find(|path| path.is_file())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some() && identity(one) == identity(other)
}

/// Starts a successor and hands everything over to it. Returns its process id.
///
/// # Errors
/// When it does not come to serve: then it has ended, and this process does all its duties as before.
pub(super) async fn hand_over(estate: Estate<'_>, signals: &mut Signals) -> anyhow::Result<u32> {
    if std::process::id() == 1 {
        bail!(
            "a container ends with its process 1, and would take the new process with it; \
             start a new container instead"
        );
    }
    let mut successor = Successor::start(&estate)?;
    info!(pid = successor.id, program = %estate.program.path.display(), "a new process takes over");
    let mut paused = Vec::new();
    let handed_over = async {
        successor.greet(&estate)?;
        successor.hear_ready().await?;
        // Whoever asks the admin listener for a change waits from here on, for this process or for the next.
        let mut owner = within(PAUSED_WITHIN, "changes that are under way did not end", async {
            Ok(estate.succession.change().await)
        })
        .await?;
        for duty in estate.duties {
            let reason = format!("{} could not be paused in time", duty.name());
            paused.push(within(PAUSED_WITHIN, &reason, duty.pause()).await?);
        }
        let serving = successor.take((estate.unstored)()).await?;
        successor.serves = true;
        owner.passes_to(serving.admin);
        for duty in paused.drain(..) {
            duty.release();
        }
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = handed_over => outcome,
        () = signals.asked_to_end() => Err(anyhow!("a signal to end came first")),
    };
    match outcome {
        Ok(()) => Ok(successor.id),
        Err(reason) => {
            let reason = successor.end(reason).await;
            // Only now, when nobody else can write any more.
            resume(paused).await;
            Err(reason)
        }
    }
}

async fn resume(paused: Vec<Box<dyn Paused>>) {
    for duty in paused.into_iter().rev() {
        if let Err(error) = duty.resume().await {
            error!("what was paused for the upgrade cannot go on: {error:#}");
        }
    }
}

/// The new process, until it serves. Dropped before that, it ends.
struct Successor {
    id: u32,
    process: Child,
    stream: BufReader<tokio::net::UnixStream>,
    serves: bool,
}

impl Drop for Successor {
    fn drop(&mut self) {
        // Whoever waits for nobody any more, because the disk has failed meanwhile, leaves no process behind either.
        if !self.serves
            && let Err(error) = self.process.start_kill()
            && self.process.id().is_some()
        {
            error!(%error, pid = self.id, "the new process cannot be ended");
        }
    }
}

impl Successor {
    fn start(estate: &Estate<'_>) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let Program { path, arguments } = estate.program;
        let process = Command::new(path)
            .args(arguments)
            .env(takeover::VARIABLE, std::process::id().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .kill_on_drop(false)
            .spawn()
            .with_context(|| format!("cannot start {}", path.display()))?;
        let id = process.id().context("the new process ended at once")?;
        ours.set_nonblocking(true)?;
        let stream = BufReader::new(tokio::net::UnixStream::from_std(ours)?);
        Ok(Self { id, process, stream, serves: false })
    }

    fn greet(&self, estate: &Estate<'_>) -> anyhow::Result<()> {
        let hello = Hello { sockets: estate.sockets.roles() };
        let mut descriptors = estate.sockets.files().to_vec();
        descriptors.push(estate.data_dir.lock().as_fd());
        Ok(talk::send_hello(self.stream.get_ref().as_fd(), hello, &descriptors)?)
    }

    async fn hear_ready(&mut self) -> anyhow::Result<()> {
        match within(READY_WITHIN, "the new process did not become ready in time", self.hear()).await? {
            Message::Ready => Ok(()),
            Message::Failed(reason) => Err(anyhow!(reason)),
            Message::Hello(_) | Message::Yours(_) | Message::Serving(_) => {
                bail!("the new process is out of turn")
            }
        }
    }

    async fn take(&mut self, yours: Yours) -> anyhow::Result<Serving> {
        let line = Message::Yours(yours).to_line()?;
        let taking = async {
            self.stream.get_mut().write_all(&line).await?;
            self.hear().await
        };
        match within(SERVING_WITHIN, "the new process did not take over in time", taking).await? {
            Message::Serving(serving) => Ok(serving),
            Message::Failed(reason) => Err(anyhow!(reason)),
            Message::Hello(_) | Message::Yours(_) | Message::Ready => bail!("the new process is out of turn"),
        }
    }

    async fn hear(&mut self) -> anyhow::Result<Message> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).await? == 0 {
            bail!("the new process ended before it served");
        }
        Ok(Message::from_line(&line)?)
    }

    /// Ends it for good, and adds to the reason how it ended if it did so by itself.
    async fn end(mut self, reason: anyhow::Error) -> anyhow::Error {
        // One that has said why is about to end by itself.
        let ended = tokio::time::timeout(Duration::from_millis(200), self.process.wait()).await;
        if let Ok(Ok(status)) = ended {
            return reason.context(format!("the new process ended ({status})"));
        }
        if let Err(error) = self.process.kill().await {
            error!(%error, pid = self.id, "the new process cannot be ended");
        }
        reason
    }
}

async fn within<T>(
    limit: Duration,
    otherwise: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| anyhow!("{otherwise}"))?
}
