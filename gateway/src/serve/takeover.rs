//! SIGUSR2, seen from the gateway that comes.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::getppid;
use rustix::stdio::dup2_stdin;

use super::sockets::Sockets;
use super::talk::{self, Message, Serving, SocketRole, Yours};
use crate::config::Config;
use crate::data_dir::DataDir;

/// Holds the process id of the gateway before, whose socket is then the standard input.
pub(super) const VARIABLE: &str = "GEARWAY_PREDECESSOR";

/// Longer than the other side waits for anything.
const PATIENCE: Duration = Duration::from_secs(120);

/// The gateway that this process is to take over from.
#[derive(Debug)]
pub(super) struct Predecessor {
    stream: BufReader<UnixStream>,
    roles: Vec<SocketRole>,
    sockets: Vec<OwnedFd>,
    lock: Option<OwnedFd>,
}

impl Predecessor {
    /// The one that started this process, if one did.
    ///
    /// # Errors
    /// When it is gone, or does not greet.
    pub(super) fn of_this_process() -> anyhow::Result<Option<Self>> {
        let Some(pid) = env::var(VARIABLE).ok().filter(|pid| !pid.is_empty()) else { return Ok(None) };
        let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string());
        if parent.as_ref() != Some(&pid) {
            bail!(
                "{VARIABLE} is set, but the gateway that set it is gone; unset it to start a gateway by itself"
            );
        }
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        // What this process starts, or reads, is none of the predecessor's business.
        dup2_stdin(File::open("/dev/null")?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (hello, mut files) =
            talk::receive_hello(&stream).context("the gateway before does not hand over")?;
        let lock = files.pop();
        Ok(Some(Self { stream: BufReader::new(stream), roles: hello.sockets, sockets: files, lock }))
    }

    /// # Errors
    /// When the configuration names another `data_dir`, or addresses that cannot be had.
    pub(super) fn inherit(&mut self, config: &Config) -> anyhow::Result<(DataDir, Sockets)> {
        let lock = self.lock.take().context("the gateway before did not hand its data_dir over")?;
        let data_dir = DataDir::inherit(&config.data_dir, lock)?;
        let sockets = Sockets::inherit(&self.roles, std::mem::take(&mut self.sockets), config)?;
        Ok((data_dir, sockets))
    }

    /// Says that this process could serve, and waits until everything is its own.
    pub(super) fn wait_for_estate(&mut self) -> anyhow::Result<Yours> {
        self.say(&Message::Ready)?;
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).context("the gateway before says nothing")?;
        if line.is_empty() {
            bail!("the gateway before stays; this one ends");
        }
        match Message::from_line(&line)? {
            Message::Yours(yours) => Ok(yours),
            Message::Hello(_) | Message::Ready | Message::Failed(_) | Message::Serving(_) => {
                bail!("the gateway before is out of turn")
            }
        }
    }

    /// Whether the other side still hears it makes no difference.
    pub(super) fn serves(mut self, admin: SocketAddr) {
        self.say(&Message::Serving(Serving { admin })).ok();
    }

    pub(super) fn fails(mut self, reason: &anyhow::Error) {
        self.say(&Message::Failed(format!("{reason:#}"))).ok();
    }

    fn say(&mut self, message: &Message) -> io::Result<()> {
        self.stream.get_mut().write_all(&message.to_line()?)
    }
}
