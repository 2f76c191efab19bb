//! What a worker in Python or Node spends on a call, beside the same handler that is served directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::child::Running;
use crate::measure::{self, request_to};
use crate::port::ReservedPort;
use crate::proxy::Gateway;
use crate::proxy::gearway::REGISTRATION_TOKEN;
use crate::report::median;

const SIZES: [(&str, usize); 2] = [("1 KiB", 1024), ("64 KiB", 64 * 1024)];
/// Enough to keep one process busy.
const CONNECTIONS: usize = 8;

/// CPU per request of the worker's process in µs, by handler and size: a figure a round.
pub(crate) type Sdk = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SdkReport {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) cpu_us: Sdk,
}

impl SdkReport {
    pub(crate) fn table(&self) -> String {
        let mut text = String::from("\n| CPU µs a request, of the worker's process |");
        for (title, _) in SIZES {
            text += &format!(" {title} |");
        }
        text += "\n|---|---|---|";
        for (handler, sizes) in &self.cpu_us {
            text += &format!("\n| {handler} |");
            for (title, _) in SIZES {
                let figure = sizes.get(title).and_then(|rounds| median(rounds.clone()));
                text += &figure.map_or(" – |".to_owned(), |figure| format!(" {figure:.0} |"));
            }
        }
        text + "\n"
    }
}

/// A worker's process, and where its handler is to be asked.
struct Served {
    name: &'static str,
    worker: Running,
    address: SocketAddr,
    _gateway: Option<Gateway>,
}

/// Measures in turns. Environments of Python packages are made in `target`, or found there.
pub(crate) fn run(gearway: &Path, target: &Path, rounds: usize, turn: Duration) -> anyhow::Result<Sdk> {
    let (plain, fast) = (environment(target, "sdk", "")?, environment(target, "sdk-fast", "[fast]")?);
    let folder = tempfile::tempdir()?;
    let mut all = [
        through_gateway("python: gearway", gearway, python(&plain, folder.path()))?,
        through_gateway("python: gearway[fast]", gearway, python(&fast, folder.path()))?,
        directly("python: Flask on gunicorn", |port| flask(&plain, port))?,
        through_gateway("node: gearway", gearway, node())?,
        directly("node: http", plain_node)?,
    ];
    let mut figures = Sdk::new();
    for (title, length) in SIZES {
        let request = request_to((0..CONNECTIONS).map(|_| "/echo".to_owned()), length)?;
        for round in 0..=rounds {
            for served in &mut all {
                let pids = served.worker.family();
                let (outcome, cpu) = measure::load(served.address, &pids, &request, CONNECTIONS, turn)
                    .with_context(|| format!("{}, {title}", served.name))?;
                // The first round warms up what compiles itself.
                if round > 0 {
                    let sizes = figures.entry(served.name.to_owned()).or_default();
                    sizes.entry(title.to_owned()).or_default().push(measure::per_request(cpu, &outcome));
                }
            }
        }
    }
    Ok(figures)
}

fn through_gateway(name: &'static str, gearway: &Path, mut command: Command) -> anyhow::Result<Served> {
    let gateway = Gateway::start(gearway, 1, "")?;
    command.env("GEARWAY_GATEWAY", format!("http://{}", gateway.admin));
    command.env("GEARWAY_TOKEN", REGISTRATION_TOKEN);
    let mut worker = Running::start(name, command)?;
    let address = gateway.public;
    wait_until_answering(&mut worker, address)?;
    Ok(Served { name, worker, address, _gateway: Some(gateway) })
}

fn directly(name: &'static str, command: impl FnOnce(u16) -> Command) -> anyhow::Result<Served> {
    let address = ReservedPort::take()?.address;
    let mut worker = Running::start(name, command(address.port()))?;
    wait_until_answering(&mut worker, address)?;
    Ok(Served { name, worker, address, _gateway: None })
}

fn wait_until_answering(worker: &mut Running, address: SocketAddr) -> anyhow::Result<()> {
    let request = request_to(std::iter::once("/echo".to_owned()), 64)?;
    worker.wait_for("an answer of its handler", || measure::check(address, &request).ok())
}

fn apps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("apps")
}

fn sdks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugin-protocol")
}

fn python(environment: &Path, folder: &Path) -> Command {
    let mut command = Command::new(environment.join("bin/gearway"));
    command.arg("run").arg(apps().join("echo.py")).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn flask(environment: &Path, port: u16) -> Command {
    let mut command = Command::new(environment.join("bin/gunicorn"));
    command.args(["--workers", "1", "--threads", "8", "--keep-alive", "60", "--log-level", "error"]);
    command.arg("--bind").arg(format!("127.0.0.1:{port}")).arg("--chdir").arg(apps()).arg("flask_echo:app");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn node() -> Command {
    let mut command = Command::new("node");
    command.arg(sdks().join("node/bin/gearway.js")).arg("run").arg(apps().join("echo.mjs"));
    command
}

fn plain_node(port: u16) -> Command {
    let mut command = Command::new("node");
    command.arg(apps().join("plain_echo.mjs")).arg(port.to_string());
    command
}

/// An environment with the SDK as it is here, and Flask.
fn environment(target: &Path, name: &str, extra: &str) -> anyhow::Result<PathBuf> {
    let environment = target.join("bench").join(name);
    let python = environment.join("bin/python");
    if !python.exists() {
        quietly(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
    }
    ensure!(python.exists(), "{} was not made", python.display());
    let sdk = format!("{}{extra}", sdks().join("python").display());
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--editable"]);
    quietly(install.arg(sdk).args(["flask", "gunicorn"]))?;
    Ok(environment)
}

fn quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
