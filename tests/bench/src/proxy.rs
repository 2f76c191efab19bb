//! The proxies before the tiny worker, each as cheap as its configuration makes it.

pub(crate) mod gearway;
mod haproxy;
mod nginx;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use tempfile::TempDir;

use crate::child::Running;
use crate::install;
use crate::tls::Certificate;

pub(crate) use gearway::Gateway;
pub(crate) use nginx::Buffers;

/// Every proxy may have so many clients, and as many connections behind it.
const MAX_CONNECTIONS: usize = 16_000;

/// What stands between the load and the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) program: Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx(Buffers),
    Haproxy,
    Gearway(PathBuf),
}

impl Kind {
    /// Installs it if that is wanting; what it says about its version.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        match &self.program {
            Program::Nginx(_) => install::NGINX.version(),
            Program::Haproxy => install::HAPROXY.version(),
            Program::Gearway(path) => gearway::version(path),
        }
    }

    pub(crate) fn start(&self, threads: usize, worker: &Worker) -> anyhow::Result<Proxy> {
        self.start_with_tls(threads, worker, None)
    }

    pub(crate) fn start_with_tls(
        &self,
        threads: usize,
        worker: &Worker,
        tls: Option<&Certificate>,
    ) -> anyhow::Result<Proxy> {
        let (running, address, folder) = match &self.program {
            Program::Nginx(buffers) => nginx::start(threads, worker, *buffers, tls)?,
            Program::Haproxy => haproxy::start(threads, worker, tls)?,
            Program::Gearway(path) => {
                let files = tls.map(|Certificate { certificate, key, .. }| {
                    format!("[public.tls]\ncert_file = {certificate:?}\nkey_file = {key:?}\n")
                });
                let gateway = Gateway::start(path, threads, &files.unwrap_or_default())?;
                gateway.register_echo(worker)?;
                (gateway.running, gateway.public, gateway.folder)
            }
        };
        Ok(Proxy { pids: running.family(), running, address, _folder: folder })
    }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// All its processes.
    pub(crate) pids: Vec<u32>,
    // Before its folder, so that it ends first.
    running: Running,
    _folder: TempDir,
}

impl Proxy {
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.running.check()
    }
}

/// The tiny worker, in a process of its own.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) ports: Vec<u16>,
    _running: Running,
}

impl Worker {
    pub(crate) fn start(ports: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this executable")?);
        command.arg("worker").arg("--ports").arg(ports.to_string());
        let (running, lines) = Running::start_talking("the tiny worker", command)?;
        let listening = lines.iter().take_while(|line| line != "ready").map(|line| line.parse());
        let listening = listening.collect::<Result<Vec<u16>, _>>().context("a worker's port")?;
        anyhow::ensure!(listening.len() == ports, "the tiny worker did not start");
        Ok(Self { ports: listening, _running: running })
    }
}

/// Waits until somebody listens.
fn wait_until_listening(running: &mut Running, address: SocketAddr) -> anyhow::Result<()> {
    running.wait_for("listening", || std::net::TcpStream::connect(address).ok().map(drop))
}
