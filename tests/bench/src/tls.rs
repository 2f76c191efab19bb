//! The same over TLS, with HTTP/1.1 and with HTTP/2: h2load drives, since it speaks both.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::install;
use crate::measure::BUSY;
use crate::placement::Placement;
use crate::procfs;
use crate::proxy::{Kind, Worker};
use crate::report::{REFERENCE, median};
use crate::tokens::{self, CLIENT_KEY};

/// A certificate for the loopback, and its key.
#[derive(Debug)]
pub(crate) struct Certificate {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    folder: TempDir,
}

impl Certificate {
    pub(crate) fn make() -> anyhow::Result<Self> {
        install::OPENSSL.version()?;
        let folder = tempfile::tempdir()?;
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        command.args(["-days", "2", "-subj", "/CN=localhost", "-addext"]);
        command.arg("subjectAltName=DNS:localhost,IP:127.0.0.1").arg("-keyout").arg(&key);
        let output = command.arg("-out").arg(&certificate).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("openssl made no certificate: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { certificate, key, folder })
    }

    /// Both in one file, as HAProxy wants them.
    pub(crate) fn together(&self) -> anyhow::Result<PathBuf> {
        let file = self.folder.path().join("both.pem");
        std::fs::write(&file, [std::fs::read(&self.certificate)?, std::fs::read(&self.key)?].concat())?;
        Ok(file)
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct TlsTurn {
    pub(crate) requests_per_second: f64,
    /// With the handshakes of the turn's connections.
    pub(crate) cpu_us: f64,
}

/// By protocol and proxy, a turn a round. A proxy that does not speak the protocol is left out.
pub(crate) type Tls = BTreeMap<String, BTreeMap<String, Vec<TlsTurn>>>;

const PROTOCOLS: [(&str, &str, usize); 2] =
    [("HTTP/1.1 over TLS", "http/1.1", BUSY), ("HTTP/2 over TLS", "h2", BUSY / 8)];

/// GET, in turns.
pub(crate) fn run(
    kinds: &[Kind],
    rounds: usize,
    turn: Duration,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Tls> {
    install::H2LOAD.version()?;
    let certificate = Certificate::make()?;
    let placement = Placement::begin()?;
    let worker = Worker::start(1)?;
    let mut all = Tls::new();
    for (title, alpn, connections) in PROTOCOLS {
        let mut proxies = Vec::new();
        for kind in kinds {
            let proxy = kind.start_with_tls(1, &worker, Some(&certificate))?;
            if let Some(placement) = &placement {
                placement.move_proxy(&proxy.pids)?;
            }
            proxies.push((kind.name.as_str(), proxy));
        }
        let figures = all.entry(title.to_owned()).or_default();
        for round in 1..=rounds {
            for (name, proxy) in &proxies {
                tell(&format!("{title}, round {round} of {rounds}: {name}"));
                let before = procfs::cpu(&proxy.pids)?;
                let answered = h2load(proxy.address, alpn, connections, turn)
                    .with_context(|| format!("{name}, {title}"))?;
                let used = procfs::cpu(&proxy.pids)?.saturating_sub(before);
                if let Some((requests, took)) = answered {
                    figures.entry((*name).to_owned()).or_default().push(TlsTurn {
                        requests_per_second: requests as f64 / took.as_secs_f64(),
                        cpu_us: used.as_secs_f64() * 1e6 / requests as f64,
                    });
                }
            }
        }
    }
    Ok(all)
}

/// How many requests were answered with success, if the proxy speaks the protocol: 64 at a time, over so many connections.
fn h2load(
    to: std::net::SocketAddr,
    alpn: &str,
    connections: usize,
    turn: Duration,
) -> anyhow::Result<Option<(u64, Duration)>> {
    let mut command = Command::new("h2load");
    command.arg(format!("--npn-list={alpn}")).arg("--duration").arg(turn.as_secs().max(1).to_string());
    command.arg("--clients").arg(connections.to_string());
    command.arg("--max-concurrent-streams").arg((BUSY / connections).to_string());
    command.arg("--header").arg(format!("x-skygear-api-key: {CLIENT_KEY}"));
    command.arg("--header").arg(format!("authorization: Bearer {}", tokens::access_token(0)?));
    let start = Instant::now();
    let output = command.arg(format!("https://{to}/echo")).stdin(Stdio::null()).output()?;
    let took = start.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains(&format!("Application protocol: {alpn}")) {
        return Ok(None);
    }
    let codes = text.lines().find_map(|line| line.strip_prefix("status codes: ")).unwrap_or_default();
    let succeeded = codes.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    match succeeded {
        Some(succeeded) if succeeded > 0 && codes.contains(" 0 4xx, 0 5xx") => Ok(Some((succeeded, took))),
        _ => bail!("h2load: {text}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

pub(crate) fn table(figures: &Tls) -> String {
    let mut text = String::from("\n| GET over TLS, 1 thread | requests/s | CPU, µs |\n|---|---|---|\n");
    for (title, proxies) in figures {
        let figure =
            |name: &str, of: fn(&TlsTurn) -> f64| median(proxies.get(name)?.iter().map(of).collect());
        for name in proxies.keys() {
            let cell = |of: fn(&TlsTurn) -> f64| {
                let value = figure(name, of).unwrap_or_default();
                match figure(REFERENCE, of) {
                    Some(reference) if name != REFERENCE => format!("{value:.0} ({:.2})", value / reference),
                    _ => format!("{value:.0}"),
                }
            };
            let (rate, cpu) = (cell(|turn| turn.requests_per_second), cell(|turn| turn.cpu_us));
            text += &format!("| {title}, {name} | {rate} | {cpu} |\n");
        }
    }
    text
}
