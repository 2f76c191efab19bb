//! The gateway, with an API key and an access token wanted for every request.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{MAX_CONNECTIONS, Worker};
use crate::call;
use crate::child::Running;
use crate::tokens::{CLIENT_KEY, JWT_SECRET};
use crate::worker::ENVELOPE_PATH;

const ADMIN_TOKEN: &str = "bench-admin-token-0123456789abcdef";
pub(crate) const REGISTRATION_TOKEN: &str = "bench-registration-token-0123456789";

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    // Before its folder, so that it ends first.
    pub(crate) running: Running,
    pub(crate) folder: TempDir,
}

pub(super) fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Gateway {
    /// Starts one on the defaults but for limits that the load would meet, and `more` configuration.
    pub(crate) fn start(program: &Path, threads: usize, more: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = format!(
            r#"
data_dir = {data_dir:?}
[public]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
tokens = ["{ADMIN_TOKEN}"]
registration_tokens = ["{REGISTRATION_TOKEN}"]
[auth]
client_keys = ["{CLIENT_KEY}"]
[auth.jwt]
secret = "{JWT_SECRET}"
[runtime]
threads = {threads}
[limits]
max_body = "64MiB"
max_connections = {MAX_CONNECTIONS}
max_in_flight = {MAX_CONNECTIONS}
[workers]
lease = "1h"
{more}
"#,
            data_dir = folder.path().join("data"),
        );
        let file = folder.path().join("gearway.toml");
        std::fs::write(&file, config)?;
        // It is started in another folder.
        let mut command = Command::new(std::path::absolute(program)?);
        command.env_clear().args(["serve", "--config"]).arg(&file).current_dir(folder.path());
        let (mut running, log) = Running::start_logging("gearway", command)?;
        let (public, admin) = running
            .wait_for("listening", || log.try_iter().find_map(|line| listening(&line)))
            .context("the gateway does not start")?;
        Ok(Self { public, admin, running, folder })
    }

    /// Registers the worker's echo at `/echo`, for GET and POST, with both credentials wanted.
    pub(crate) fn register_echo(&self, worker: &Worker) -> anyhow::Result<()> {
        let port = *worker.ports.first().context("a worker listens")?;
        let echo = json!({
            "name": "echo",
            "methods": ["GET", "POST"],
            "key_required": true,
            "user_required": true,
        });
        self.register("echo", port, &[echo]).map(drop)
    }

    /// Registers a worker on this port with these handlers; its id.
    pub(crate) fn register(&self, name: &str, port: u16, handlers: &[Value]) -> anyhow::Result<String> {
        let body = json!({
            "name": name,
            "url": format!("http://127.0.0.1:{port}{ENVELOPE_PATH}"),
            "protocol": "gearway-v1",
            "version": "bench",
            "max_concurrency": 10_000,
            "features": [],
            "handlers": handlers,
        });
        let answer = call::admin(self.admin, REGISTRATION_TOKEN, "POST /v1/workers", &body)?;
        answer["worker_id"].as_str().map(str::to_owned).context("a registered worker has an id")
    }

    /// What this counter shows, as it is written with its labels.
    pub(crate) fn counter(&self, name: &str) -> anyhow::Result<u64> {
        let head = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        let (status, text) = call::exchange(self.admin, head.as_bytes(), b"")?;
        ensure!(status == 200, "/metrics: {status}");
        let text = String::from_utf8(text)?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.with_context(|| format!("no {name} is counted"))
    }

    /// Takes a worker out; its routes stay known.
    pub(crate) fn deregister(&self, id: &str) -> anyhow::Result<()> {
        let line = format!("DELETE /v1/workers/{id}");
        call::admin(self.admin, REGISTRATION_TOKEN, &line, &Value::Null).map(drop)
    }
}

fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let line = serde_json::from_str::<Value>(line).ok()?;
    let address = |name: &str| line[name].as_str()?.parse().ok();
    (line["message"] == "listening").then(|| Some((address("public")?, address("admin")?)))?
}
