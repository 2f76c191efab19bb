//! A gateway process with a configuration, a data_dir and ports of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use toml::{Table, Value as Toml};

use crate::admin::{Admin, WorkerSide};
use crate::port::ReservedPort;
use crate::process::{Finished, Process, Signal, run};
use crate::wire::{Connection, Request, Response};
use crate::{binaries, wait};

/// A gateway before it was started.
#[derive(Debug, Default)]
pub struct Builder {
    config: String,
    environment: Vec<(String, String)>,
    program: Option<PathBuf>,
}

impl Builder {
    /// TOML that goes over the harness's own: a data_dir and two ports of the gateway's own, and a lease that
    /// outlasts a slow machine.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        toml.clone_into(&mut self.config);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs this file instead of the binary that was built.
    #[must_use]
    pub fn program(mut self, path: &Path) -> Self {
        self.program = Some(path.to_owned());
        self
    }

    /// Starts the gateway and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(self) -> Gateway {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let config_path = dir.path().join("gearway.toml");
        let public = ReservedPort::take();
        let admin = ReservedPort::take();
        let setting =
            Setting { dir, config_path, public, admin, environment: self.environment, program: self.program };
        setting.write_config(&self.config);
        let process = setting.spawn();
        let addresses = wait_until_listening(&process).await;
        Gateway { process, successors: Mutex::default(), addresses, setting }
    }
}

/// A running gateway; it dies with this value.
#[derive(Debug)]
pub struct Gateway {
    // Declared first, so that the process ends before its folder goes away.
    process: Process,
    /// Who took over from it, and from each other.
    successors: Mutex<Vec<u32>>,
    addresses: Addresses,
    setting: Setting,
}

#[derive(Debug)]
struct Setting {
    dir: TempDir,
    config_path: PathBuf,
    public: ReservedPort,
    admin: ReservedPort,
    environment: Vec<(String, String)>,
    program: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
}

impl Gateway {
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts a gateway; see [`Builder::config`].
    pub async fn start(config: &str) -> Self {
        Self::builder().config(config).start().await
    }

    #[must_use]
    pub fn public_address(&self) -> SocketAddr {
        self.addresses.public
    }

    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.addresses.admin
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.setting.data_dir()
    }

    #[must_use]
    pub fn config_path(&self) -> &Path {
        &self.setting.config_path
    }

    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends a request to the public listener, on a connection of its own.
    pub async fn send(&self, request: Request) -> Response {
        request.send(self.addresses.public).await
    }

    pub async fn get(&self, target: &str) -> Response {
        self.send(Request::get(target)).await
    }

    pub async fn post(&self, target: &str, body: impl Into<Vec<u8>>) -> Response {
        self.send(Request::post(target, body)).await
    }

    /// A connection to the public listener.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.addresses.public).await
    }

    /// The admin listener, with the token that the gateway made for itself.
    ///
    /// # Panics
    /// When it made none, because tokens are configured.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { address: self.addresses.admin, token: self.made_token("admin-token") }
    }

    /// The registration token that the gateway made for itself.
    ///
    /// # Panics
    /// When it made none, because tokens are configured.
    #[must_use]
    pub fn registration_token(&self) -> String {
        self.made_token("registration-token")
    }

    /// The calls of workers, with [`registration_token`](Self::registration_token).
    #[must_use]
    pub fn worker_side(&self) -> WorkerSide {
        WorkerSide { address: self.addresses.admin, token: self.registration_token() }
    }

    /// Runs `gearway` with these arguments, with this gateway as the one to ask.
    pub async fn cli(&self, arguments: &[&str]) -> Finished {
        let admin = self.admin();
        let mut command = gearway(arguments);
        command.env("GEARWAY_ADMIN", format!("http://{}", admin.address));
        command.env("GEARWAY_ADMIN_TOKEN", admin.token);
        run(command).await
    }

    /// Replaces the configuration file; see [`Builder::config`]. The running gateway does not know yet.
    pub fn write_config(&self, toml: &str) {
        self.setting.write_config(toml);
    }

    /// Replaces the configuration file with this very text.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn write_config_as_it_is(&self, text: &str) {
        std::fs::write(&self.setting.config_path, text).expect("a writable file");
    }

    /// SIGTERM, to its end.
    pub async fn sigterm(&self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait_for_exit().await
    }

    pub fn sighup(&self) {
        self.process.signal(Signal::HUP);
    }

    /// SIGUSR2, until a new process has taken over. Returns its id. Its log goes on where that of the one before ends.
    ///
    /// # Panics
    /// When nobody takes over.
    pub async fn upgrade(&self) -> u32 {
        let before = self.current_pid();
        let done = self.log().iter().filter(|line| line.contains("\"handed over\"")).count();
        signal_pid(before, Signal::USR2);
        let mut seen = 0;
        let successor = self
            .process
            .wait_for_line("a new process takes over", |line| {
                let line = serde_json::from_str::<Value>(line).ok()?;
                let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
                if fields["message"] != "handed over" {
                    return None;
                }
                seen += 1;
                (seen > done).then(|| u32::try_from(fields["pid"].as_u64()?).ok())?
            })
            .await;
        self.successors.lock().expect("no test panics while it holds this").push(successor);
        successor
    }

    /// The process that serves now.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn current_pid(&self) -> u32 {
        let successors = self.successors.lock().expect("no test panics while it holds this");
        successors.last().copied().unwrap_or_else(|| self.process.id())
    }

    /// Sends a signal to the process that serves now.
    pub fn signal(&self, signal: Signal) {
        signal_pid(self.current_pid(), signal);
    }

    /// SIGKILL, and then nobody listens.
    pub fn kill9(&self) {
        self.process.kill();
    }

    /// Starts the gateway again, on the same data_dir, ports and configuration file.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start_again(&mut self) {
        self.process.kill();
        self.process = self.setting.spawn();
        self.addresses = wait_until_listening(&self.process).await;
    }

    /// What the gateway has logged since it was last started.
    #[must_use]
    pub fn log(&self) -> Arc<Vec<String>> {
        self.process.lines()
    }

    /// Waits for a log line.
    pub async fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.process.wait_for_line(what, |line| wanted(line).then(|| line.to_owned())).await
    }

    fn made_token(&self, file: &str) -> String {
        let path = self.data_dir().join(file);
        let text = std::fs::read_to_string(&path);
        text.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }
}

impl Setting {
    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write_config(&self, over: &str) {
        let mut table = Table::new();
        table.insert("data_dir".into(), self.data_dir().to_string_lossy().into_owned().into());
        for (name, port) in [("public", &self.public), ("admin", &self.admin)] {
            let listen = port.address().to_string().into();
            table.insert(name.into(), Toml::Table(Table::from_iter([("listen".to_owned(), listen)])));
        }
        table.insert("workers".into(), Toml::Table(Table::from_iter([("lease".to_owned(), "10m".into())])));
        lay_over(&mut table, over.parse().unwrap_or_else(|error| panic!("{error}: {over}")));
        std::fs::write(&self.config_path, table.to_string()).expect("a writable file");
    }

    fn spawn(&self) -> Process {
        let mut command = Command::new(self.program.as_deref().unwrap_or(binaries::path("gearway")));
        command.env_clear().env("RUST_BACKTRACE", "1").args(["serve", "--config"]);
        command.arg(&self.config_path).current_dir(self.dir.path());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::spawn("gearway", command)
    }
}

/// The `gearway` binary in a clean environment.
#[must_use]
pub fn gearway(arguments: &[&str]) -> Command {
    let mut command = Command::new(binaries::path("gearway"));
    command.env_clear().env("RUST_BACKTRACE", "1").args(arguments);
    command
}

impl Drop for Gateway {
    fn drop(&mut self) {
        for successor in self.successors.get_mut().map(std::mem::take).unwrap_or_default() {
            if is_running(successor) {
                signal_pid(successor, Signal::KILL);
            }
        }
    }
}

/// Whether a process lives that is no child of this one.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    // The state follows the name, which may hold anything, in parentheses.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// # Panics
/// When there is no such process.
pub fn signal_pid(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process takes signals");
}

fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Toml::Table(under)), Toml::Table(over)) => lay_over(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

async fn wait_until_listening(process: &Process) -> Addresses {
    let addresses = process
        .wait_for_line("the log line \"listening\"", |line| {
            let line = serde_json::from_str::<Value>(line).ok()?;
            let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
            let address = |name: &str| fields[name].as_str()?.parse().ok();
            (fields["message"] == "listening")
                .then(|| Some(Addresses { public: address("public")?, admin: address("admin")? }))?
        })
        .await;
    let connects = async || Connection::connect(addresses.admin).await.ok();
    drop(wait::until("the admin listener takes connections", connects).await);
    addresses
}
