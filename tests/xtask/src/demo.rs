//! A gateway and two sample workers to play with, until Ctrl-C.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::binaries;

const KEY: &str = "demo-client-key";
const WORKERS: [&str; 2] = ["seed-page", "payment-webhook"];
const PAYMENT_SECRET: &str = "demo-payment-secret";
const PAYMENT: &str = "{\"id\": \"evt_1\", \"amount\": 1000}";
/// HMAC-SHA256 of [`PAYMENT`] with [`PAYMENT_SECRET`].
const PAYMENT_SIGNATURE: &str = "2085b08559e9f23205edadb28c11ecf6c65ea7a6c697e47992733e9d265b1f89";
/// How long anything may take to start.
const START: Duration = Duration::from_secs(60);
/// How long a process may take to end after it was asked to.
const END: Duration = Duration::from_secs(40);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where clients connect; another port is taken when this one is.
    #[arg(long, default_value = "127.0.0.1:3000")]
    public: SocketAddr,
    /// Where workers and operators connect.
    #[arg(long, default_value = "127.0.0.1:3001")]
    admin: SocketAddr,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let binaries = binaries::build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let stopped = async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let mut demo =
            Demo { binaries, folder: folder.path().to_owned(), workers: Vec::new(), gateway: None };
        let outcome = tokio::select! {
            outcome = demo.play(options) => outcome,
            () = stopped => Ok(()),
        };
        println!("Stopping");
        demo.stop().await;
        folder.close().context("cannot remove the temporary folder")?;
        outcome
    })
}

struct Demo {
    binaries: PathBuf,
    folder: PathBuf,
    workers: Vec<Child>,
    gateway: Option<Child>,
}

#[derive(Clone, Copy)]
struct Addresses {
    public: SocketAddr,
    admin: SocketAddr,
}

impl Demo {
    /// Starts everything, shows it, and returns only when something ended by itself.
    async fn play(&mut self, options: &Options) -> anyhow::Result<()> {
        let addresses = self.start_gateway(options).await?;
        let token_file = self.folder.join("data/registration-token");
        let token = std::fs::read_to_string(&token_file).with_context(|| token_file.display().to_string())?;
        for name in WORKERS {
            let mut command = Command::new(self.binaries.join(name));
            command.env("GEARWAY_GATEWAY", format!("http://{}", addresses.admin));
            command.env("GEARWAY_TOKEN", token.trim());
            command.env("PAYMENT_WEBHOOK_SECRET", PAYMENT_SECRET).current_dir(&self.folder);
            self.workers.push(start(name, command, None)?);
        }
        tokio::time::timeout(START, self.wait_for_workers(addresses))
            .await
            .with_context(|| format!("the workers were not registered within {START:?}"))??;
        self.show(addresses).await?;
        self.watch().await
    }

    async fn start_gateway(&mut self, options: &Options) -> anyhow::Result<Addresses> {
        let config = self.folder.join("gearway.toml");
        let text = format!(
            "data_dir = {:?}\n[public]\nlisten = \"{}\"\n[admin]\nlisten = \"{}\"\n[auth]\nclient_keys = [\"{KEY}\"]\n",
            self.folder.join("data"),
            free(options.public)?,
            free(options.admin)?,
        );
        std::fs::write(&config, text).context("cannot write the configuration")?;
        let mut command = Command::new(self.binaries.join("gearway"));
        command.args(["serve", "--config"]).arg(&config).current_dir(&self.folder);
        let (found, mut listening) = watch::channel(None);
        let gateway = self.gateway.insert(start("gateway", command, Some(found))?);
        let listens =
            async { listening.wait_for(Option::is_some).await.ok().and_then(|addresses| *addresses) };
        let addresses = tokio::select! {
            addresses = tokio::time::timeout(START, listens) => addresses.ok().flatten(),
            _ = gateway.wait() => None,
        };
        addresses.context("the gateway did not start; its log is above")
    }

    async fn wait_for_workers(&mut self, addresses: Addresses) -> anyhow::Result<()> {
        loop {
            for worker in &mut self.workers {
                if let Some(status) = worker.try_wait()? {
                    bail!("a worker ended ({status}); its log is above");
                }
            }
            let table = self.ask(addresses, &["workers", "list", "--json"]).await?;
            let table = serde_json::from_str::<Value>(&table).context("the workers' table")?;
            if table["workers"].as_array().is_some_and(|workers| workers.len() == WORKERS.len()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn show(&self, addresses: Addresses) -> anyhow::Result<()> {
        let routes = self.ask(addresses, &["routes", "list"]).await?;
        let made =
            self.ask(addresses, &["tokens", "create", "--user", "alice", "--ttl", "1h", "--json"]).await?;
        let made = serde_json::from_str::<Value>(&made).context("the access token")?;
        let token = made["token"].as_str().context("the access token")?;
        println!("\nGateway on http://{}, admin listener on http://{}", addresses.public, addresses.admin);
        println!("Data in {}", self.folder.display());
        println!("API key {KEY}\nAccess token of alice {token}\n\n{}\n\nTry:", routes.trim_end());
        for line in curl_lines(addresses.public, token) {
            println!("  {line}");
        }
        println!("\nPress Ctrl-C to stop. The log follows.");
        Ok(())
    }

    /// Waits for the end of any process: none of them should.
    async fn watch(&mut self) -> anyhow::Result<()> {
        loop {
            for child in self.workers.iter_mut().chain(&mut self.gateway) {
                if let Some(status) = child.try_wait()? {
                    bail!("a process ended by itself ({status}); its log is above");
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Workers first, so that they can still deregister.
    async fn stop(&mut self) {
        for child in self.workers.iter_mut().chain(&mut self.gateway) {
            let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let Some(pid) = pid else { continue };
            let asked = kill_process(pid, Signal::INT).is_ok();
            let ended = tokio::time::timeout(END, child.wait()).await.is_ok();
            if !(asked && ended) && child.kill().await.is_err() {
                eprintln!("process {} is left behind", pid.as_raw_nonzero());
            }
        }
    }

    /// Runs `gearway` against the demo's gateway and returns what it printed.
    async fn ask(&self, addresses: Addresses, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(self.binaries.join("gearway"));
        command.args(arguments).kill_on_drop(true);
        command.env("GEARWAY_ADMIN", format!("http://{}", addresses.admin));
        let token =
            std::fs::read_to_string(self.folder.join("data/admin-token")).context("the admin token")?;
        command.env("GEARWAY_ADMIN_TOKEN", token.trim());
        let output = command.output().await.context("cannot run gearway")?;
        if !output.status.success() {
            bail!("gearway {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn curl_lines(public: SocketAddr, token: &str) -> Vec<String> {
    let at = format!("http://{public}");
    vec![
        format!("curl -fsS {at}/foo"),
        format!("curl -fsS {at}/tree/a/b"),
        format!("curl -fsSL {at}/tree"),
        format!("curl -fsS {at}/abc/def"),
        format!("curl -fsS -d 'some text' {at}/my_endpoint"),
        format!("curl -fsS '{at}/get_query_string?key=month&value=10'"),
        format!("curl -fsS -d 'a=3&b=at' {at}/form"),
        format!("curl -fsS -H 'Content-Type: application/json' -d '{{\"name\": \"John\"}}' {at}/json"),
        format!("curl -fsS '{at}/url/more/levels?level=3'"),
        format!("curl -fsS {at}/buy/hamlet/3"),
        format!("curl -fsSi {at}/response"),
        format!("curl -fsS -H 'X-Skygear-API-Key: {KEY}' -H 'X-Skygear-Access-Token: {token}' {at}/private"),
        format!(
            "curl -fsS -H 'X-Payment-Signature: sha256={PAYMENT_SIGNATURE}' -d '{PAYMENT}' {at}/webhooks/payment"
        ),
    ]
}

/// The address, or one with a free port when somebody has it.
fn free(wanted: SocketAddr) -> anyhow::Result<SocketAddr> {
    match TcpListener::bind(wanted) {
        Ok(_) => Ok(wanted),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            println!("{wanted} is taken; the demo uses another port");
            Ok(SocketAddr::new(wanted.ip(), 0))
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {wanted}")),
    }
}

/// Starts a process whose lines are shown under its name. It is in a process group of its own, so that Ctrl-C
/// reaches it only through [`Demo::stop`].
fn start(
    name: &'static str,
    mut command: Command,
    listening: Option<watch::Sender<Option<Addresses>>>,
) -> anyhow::Result<Child> {
    command.process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    tokio::spawn(show_lines(name, child.stdout.take().context("stdout is piped")?, None));
    tokio::spawn(show_lines(name, child.stderr.take().context("stderr is piped")?, listening));
    Ok(child)
}

async fn show_lines(
    name: &'static str,
    from: impl AsyncRead + Unpin,
    listening: Option<watch::Sender<Option<Addresses>>>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let event = serde_json::from_str::<Value>(&line).ok();
        if let (Some(listening), Some(addresses)) = (&listening, event.as_ref().and_then(listens_on)) {
            listening.send_replace(Some(addresses));
        }
        println!("[{name}] {}", event.as_ref().and_then(for_people).unwrap_or(line));
    }
}

fn listens_on(event: &Value) -> Option<Addresses> {
    let address = |name: &str| event[name].as_str()?.parse().ok();
    (event["message"] == "listening")
        .then(|| Some(Addresses { public: address("public")?, admin: address("admin")? }))?
}

/// A line of a JSON log, as it would be on a terminal.
fn for_people(event: &Value) -> Option<String> {
    let fields = event.as_object()?;
    let mut line = format!("{:>5} {}", event["level"].as_str()?, event["message"].as_str()?);
    for (name, value) in fields {
        if !matches!(name.as_str(), "timestamp" | "level" | "message" | "target") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            line.push_str(&format!(" {name}={value}"));
        }
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_are_read_and_shown() {
        let line = r#"{"timestamp":"t","level":"INFO","message":"listening","public":"127.0.0.1:3000","admin":"127.0.0.1:3001","n":1,"target":"gearway::serve"}"#;
        let event = serde_json::from_str(line).unwrap();
        let addresses = listens_on(&event).unwrap();
        assert_eq!((addresses.public.port(), addresses.admin.port()), (3000, 3001));
        let shown = for_people(&event).unwrap();
        assert_eq!(shown, " INFO listening admin=127.0.0.1:3001 n=1 public=127.0.0.1:3000");
        assert!(for_people(&Value::from("text")).is_none());
        assert!(listens_on(&serde_json::json!({"message": "other"})).is_none());
    }

    #[test]
    fn a_taken_port_is_left_to_its_owner() {
        let owner = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = owner.local_addr().unwrap();
        assert_eq!(free(taken).unwrap().port(), 0);
        drop(owner);
        assert_eq!(free(taken).unwrap(), taken);
    }
}
