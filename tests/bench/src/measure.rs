//! The rounds: every proxy in turn, again and again, under the same load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::call;
use crate::load::{Expected, Load, Outcome, Request};
use crate::placement::Placement;
use crate::procfs;
use crate::proxy::{Kind, Proxy, Worker};
use crate::tokens::{self, CLIENT_KEY};
use crate::worker::SMALL;

/// Connections at saturation.
pub(crate) const BUSY: usize = 64;
/// Connections that stay open and idle for the row [`Row::Idle`].
const IDLE: usize = 5_000;

/// What the table has a row of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// GET, answered with 198 bytes.
    Get,
    /// POST of 1 KiB, echoed.
    #[value(name = "1k")]
    #[serde(rename = "1k")]
    Post1KiB,
    /// POST of 64 KiB, echoed.
    #[value(name = "64k")]
    #[serde(rename = "64k")]
    Post64KiB,
    /// POST of 1 MiB, echoed.
    #[value(name = "1m")]
    #[serde(rename = "1m")]
    Post1MiB,
    /// What an idle keep-alive connection costs in memory.
    Idle,
}

impl Row {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Get => "GET, 198 B",
            Self::Post1KiB => "POST, 1 KiB",
            Self::Post64KiB => "POST, 64 KiB",
            Self::Post1MiB => "POST, 1 MiB",
            Self::Idle => "idle connections",
        }
    }

    fn body(self) -> usize {
        match self {
            Self::Get | Self::Idle => 0,
            Self::Post1KiB => 1024,
            Self::Post64KiB => 64 * 1024,
            Self::Post1MiB => 1024 * 1024,
        }
    }
}

/// How long, and how often.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Of a proxy's turn at saturation; its turn with one connection takes half of it.
    pub(crate) turn: Duration,
    pub(crate) idle_connections: usize,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { rounds: 7, turn: Duration::from_millis(800), idle_connections: IDLE };
    pub(crate) const QUICK: Self =
        Self { rounds: 3, turn: Duration::from_millis(600), idle_connections: IDLE };
}

/// One row with so many threads in each proxy: for each proxy, in the order of the rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    pub(crate) threads: usize,
    pub(crate) proxies: BTreeMap<String, Vec<Turn>>,
}

/// One proxy's turn in one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Turn {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) peak_mib: f64,
    /// With one connection.
    pub(crate) alone_p50_us: f64,
    pub(crate) alone_cpu_us: f64,
}

/// What an idle connection took of each proxy's memory, in KiB.
pub(crate) type Idle = BTreeMap<String, f64>;

/// Every row but [`Row::Idle`], for proxies that have so many threads; `tell` hears of every turn.
pub(crate) fn rows(
    kinds: &[Kind],
    rows: &[Row],
    threads: usize,
    effort: Effort,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Measured>> {
    let placement = if threads == 1 { Placement::begin()? } else { None };
    let worker = Worker::start(1)?;
    let mut proxies = Vec::new();
    for kind in kinds {
        let proxy = kind.start(threads, &worker)?;
        if let Some(placement) = &placement {
            placement.move_proxy(&proxy.pids)?;
        }
        proxies.push((kind.name.as_str(), proxy));
    }
    let mut all = Vec::new();
    for &row in rows.iter().filter(|row| **row != Row::Idle) {
        let request = request(row, BUSY)?;
        for (name, proxy) in &proxies {
            check(proxy.address, &request).with_context(|| format!("{name}, {}", row.title()))?;
        }
        let mut measured = Measured { row, threads, proxies: BTreeMap::new() };
        for round in 1..=effort.rounds {
            for (name, proxy) in &mut proxies {
                let turn = turn(proxy, &request, effort.turn);
                let turn = turn.with_context(|| format!("{name}, {}", row.title()))?;
                tell(&format!(
                    "{} with {threads} threads, round {round} of {}: {name} {:.1} µs",
                    row.title(),
                    effort.rounds,
                    turn.cpu_us
                ));
                measured.proxies.entry((*name).to_owned()).or_default().push(turn);
                proxy.check()?;
            }
        }
        all.push(measured);
    }
    Ok(all)
}

/// Opens so many connections to each proxy, asks once on every one, and looks what it keeps for them.
pub(crate) fn idle(kinds: &[Kind], connections: usize) -> anyhow::Result<Idle> {
    let worker = Worker::start(1)?;
    let request = request(Row::Idle, BUSY)?;
    let mut all = Idle::new();
    for kind in kinds {
        let proxy = kind.start(1, &worker)?;
        // What the first requests make it allocate once is not the connections'.
        Load::open(proxy.address, BUSY, &request)?.once(request.expected)?;
        let before = procfs::resident(&proxy.pids);
        let mut load = Load::open(proxy.address, connections, &request)?;
        load.once(request.expected).with_context(|| format!("{} with idle connections", kind.name))?;
        let after = procfs::resident(&proxy.pids);
        all.insert(kind.name.clone(), after.saturating_sub(before) as f64 / connections as f64);
    }
    Ok(all)
}

fn turn(proxy: &Proxy, request: &Request, length: Duration) -> anyhow::Result<Turn> {
    procfs::forget_peak(&proxy.pids)?;
    let (busy, busy_cpu) = load(proxy.address, &proxy.pids, request, BUSY, length)?;
    let peak = procfs::peak_resident(&proxy.pids);
    let (alone, alone_cpu) = load(proxy.address, &proxy.pids, request, 1, length / 2)?;
    Ok(Turn {
        requests: busy.requests,
        requests_per_second: busy.requests as f64 / busy.took.as_secs_f64(),
        p50_us: microseconds(&busy, 0.5),
        p99_us: microseconds(&busy, 0.99),
        cpu_us: per_request(busy_cpu, &busy),
        peak_mib: peak as f64 / 1024.0,
        alone_p50_us: microseconds(&alone, 0.5),
        alone_cpu_us: per_request(alone_cpu, &alone),
    })
}

/// What came of the load, and these processes' time for it.
pub(crate) fn load(
    to: SocketAddr,
    pids: &[u32],
    request: &Request,
    connections: usize,
    length: Duration,
) -> anyhow::Result<(Outcome, Duration)> {
    measured(Load::open(to, connections, request)?, pids, request, length)
}

/// What comes of this load, and these processes' time for it.
pub(crate) fn measured(
    mut load: Load,
    pids: &[u32],
    request: &Request,
    length: Duration,
) -> anyhow::Result<(Outcome, Duration)> {
    let mut clocks = Vec::with_capacity(2);
    let outcome = load.run(request.expected, length / 5, length, || {
        clocks.push(procfs::cpu(pids)?);
        Ok(())
    })?;
    let [before, after] = clocks[..] else { anyhow::bail!("the load did not begin and end") };
    Ok((outcome, after.saturating_sub(before)))
}

/// In microseconds.
pub(crate) fn per_request(cpu: Duration, outcome: &Outcome) -> f64 {
    cpu.as_secs_f64() * 1e6 / outcome.requests as f64
}

pub(crate) fn microseconds(outcome: &Outcome, quantile: f64) -> f64 {
    outcome.latency.value_at_quantile(quantile) as f64 / 1e3
}

/// Whether the proxy brings back what the worker said, byte for byte.
pub(crate) fn check(to: SocketAddr, request: &Request) -> anyhow::Result<()> {
    let head = request.heads.first().context("a request has a head")?;
    let (status, answer) = call::exchange(to, head, &request.body)?;
    let wanted = if request.body.is_empty() { &SMALL[..] } else { &request.body[..] };
    ensure!(
        status == request.expected.status && answer == wanted,
        "answered {status} and {} bytes that are not what was wanted",
        answer.len()
    );
    Ok(())
}

/// The row's request, with the credentials of `users` users. Every proxy gets it, whether it looks at them or not.
fn request(row: Row, users: usize) -> anyhow::Result<Request> {
    request_to((0..users).map(|_| "/echo".to_owned()), row.body())
}

/// A POST of so many bytes to each path, by as many users; for none, a GET.
pub(crate) fn request_to(paths: impl Iterator<Item = String>, length: usize) -> anyhow::Result<Request> {
    let body: Arc<[u8]> = (0..length).map(|place| (place * 31 % 251) as u8).collect();
    let heads = paths.enumerate().map(|(user, path)| {
        let token = tokens::access_token(user % BUSY)?;
        let (method, framing) = match length {
            0 => ("GET", String::new()),
            _ => ("POST", format!("Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n")),
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: gearway-bench\r\nAccept: */*\r\n\
             X-Skygear-API-Key: {CLIENT_KEY}\r\nAuthorization: Bearer {token}\r\n{framing}\r\n"
        );
        Ok(head.into_bytes().into_boxed_slice())
    });
    let heads = heads.collect::<anyhow::Result<_>>()?;
    let length = if length == 0 { SMALL.len() } else { length };
    Ok(Request { heads, body, expected: Expected { status: 200, length } })
}
