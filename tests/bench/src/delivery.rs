//! What accepting durable webhooks costs, beside a bare loop that commits rows of the same size to SQLite on the same disk.

mod acceptor;

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use self::acceptor::Acceptor;
use crate::call;
use crate::load::{Expected, Load, Outcome, Request};
use crate::measure::{self, BUSY, request_to};
use crate::procfs;
use crate::proxy::{Gateway, Worker};
use crate::report::median;

/// Of a webhook's body; the row of the bare loop has its head's bytes besides.
const BODY: usize = 1024;
/// Counters of what is sent to a worker that is there.
const ACCEPTED: &str = "gearway_deliveries_accepted_total{http_route=\"/hook\"}";
const DELIVERED: &str = "gearway_delivery_attempts_total{outcome=\"delivered\"}";
const LONGEST_DELIVERY: Duration = Duration::from_secs(60);
/// How many turns a gateway with a backlog and one without it take, at least.
const PAIRS: usize = 3;
const MIB: f64 = 1024.0 * 1024.0;

/// Deliveries at so many connections.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) connections: usize,
    /// Whether a worker takes the deliveries meanwhile, which costs writes of its own; otherwise they wait.
    pub(crate) delivered: bool,
    /// For each round.
    pub(crate) acknowledged_per_second: Vec<f64>,
    pub(crate) bare_per_second: Vec<f64>,
    pub(crate) p99_ms: Vec<f64>,
    /// Of the bare loop's commits, each of which holds a row for every connection.
    #[serde(default)]
    pub(crate) bare_p99_ms: Vec<f64>,
    /// Of the bare loop behind the smallest HTTP. Older runs have none.
    #[serde(default)]
    pub(crate) acceptor_per_second: Vec<f64>,
    /// How many the worker took meanwhile. Older runs did not count them.
    #[serde(default)]
    pub(crate) delivered_per_second: Vec<f64>,
    #[serde(default)]
    pub(crate) acceptor_p99_ms: Vec<f64>,
}

/// What the bare loop did.
struct Filled {
    rows_per_second: f64,
    /// Of a commit.
    median_ms: f64,
    p99_ms: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) accepted: Vec<Accepted>,
    /// The median of a commit of one row.
    pub(crate) sync_ms: f64,
    pub(crate) backlog: Backlog,
}

/// What deliveries that cannot go out do to those that come in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Backlog {
    pub(crate) pending: u64,
    /// Of the gateway that has them, before and after they were sent.
    pub(crate) before_per_second: f64,
    pub(crate) after_per_second: f64,
    /// Of the gateway that has them and of another one that has none, in turn. Older runs have none of these.
    #[serde(default)]
    pub(crate) with_per_second: Vec<f64>,
    #[serde(default)]
    pub(crate) without_per_second: Vec<f64>,
    pub(crate) resident_mib: f64,
    pub(crate) disk_mib: f64,
    /// CPU µs of a `sync` route, before there was any delivery and beside the backlog.
    pub(crate) sync_route_us: (f64, f64),
}

impl Delivery {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is of no such run", file.display()))
    }

    pub(crate) fn table(&self) -> String {
        let middle = |values: &[f64]| median(values.to_vec()).unwrap_or_default();
        let mut text = String::from(
            "\n| connections | deliveries | acknowledged/s | delivered/s | bare SQLite rows/s | ratio | the same behind HTTP/s | ratio | p99 ms \
             | bare commits' p99 ms | behind HTTP p99 ms |\n",
        );
        text += "|---|---|---|---|---|---|---|---|---|---|---|\n";
        let ratio = |ours: &[f64], theirs: &[f64]| {
            median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect())
        };
        let shown = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        for at in &self.accepted {
            let ours = &at.acknowledged_per_second;
            text += &format!(
                "| {} | {} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {} | {:.2} | {:.2} | {:.2} |\n",
                at.connections,
                if at.delivered { "go out meanwhile" } else { "wait" },
                middle(ours),
                middle(&at.delivered_per_second),
                middle(&at.bare_per_second),
                shown(ratio(ours, &at.bare_per_second)),
                middle(&at.acceptor_per_second),
                shown(ratio(ours, &at.acceptor_per_second)),
                middle(&at.p99_ms),
                middle(&at.bare_p99_ms),
                middle(&at.acceptor_p99_ms)
            );
        }
        let Backlog {
            pending,
            before_per_second,
            after_per_second,
            with_per_second,
            without_per_second,
            resident_mib,
            disk_mib,
            sync_route_us,
        } = &self.backlog;
        let beside = ratio(with_per_second, without_per_second).map_or_else(String::new, |ratio| {
            let (with, without) = (middle(with_per_second), middle(without_per_second));
            format!(
                " Beside a gateway that has none, in turns: {without:.0} and {with:.0}/s, the median of the ratios {ratio:.2}."
            )
        });
        text + &format!(
            "\nA sync takes {:.2} ms. With {pending} deliveries pending: {before_per_second:.0} → {after_per_second:.0} \
             acknowledged/s ({:+.0}%), {resident_mib:.0} MiB in memory, {disk_mib:.0} MiB on disk; a sync route {:.1} → \
             {:.1} µs CPU.{beside}\n",
            self.sync_ms,
            (after_per_second / before_per_second - 1.0) * 100.0,
            sync_route_us.0,
            sync_route_us.1
        )
    }
}

pub(crate) fn run(
    program: &Path,
    rounds: usize,
    turn: Duration,
    backlog: u64,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<(Vec<Accepted>, f64, Backlog)> {
    let worker = Worker::start(1)?;
    let gateway = Gateway::start(program, 1, "")?;
    let port = *worker.ports.first().context("a worker listens")?;
    gateway.register_echo(&worker)?;
    let pids = gateway.running.family();
    let sync_route = request_to(std::iter::once("/echo".to_owned()), 0)?;
    let sync_cost = || {
        let (outcome, cpu) = measure::load(gateway.public, &pids, &sync_route, BUSY, turn)?;
        anyhow::Ok(measure::per_request(cpu, &outcome))
    };
    let sync_before = sync_cost()?;
    let hook = json!({"name": "hook", "methods": ["POST"], "delivery": {"mode": "durable"}});
    gateway.register("hook", port, &[hook])?;
    let requests = [(true, webhook(&gateway, "/hook")?), (false, waiting(&gateway, port)?)];
    let mut bare = Bare::open(gateway.folder.path(), requests[0].1.heads[0].len() + BODY)?;
    // Until its log has been written over once, every sync makes the file grow as well.
    bare.fill(BUSY, turn)?;
    let acceptor = Acceptor::start(gateway.folder.path())?;
    let asked = Request { expected: acceptor::EXPECTED, ..requests[0].1.clone() };
    load(acceptor.address, &asked, BUSY, turn)?;
    let mut accepted = Vec::new();
    for connections in [1, BUSY] {
        for (delivered, request) in &requests {
            let mut at = Accepted {
                connections,
                delivered: *delivered,
                acknowledged_per_second: Vec::new(),
                bare_per_second: Vec::new(),
                p99_ms: Vec::new(),
                bare_p99_ms: Vec::new(),
                acceptor_per_second: Vec::new(),
                delivered_per_second: Vec::new(),
                acceptor_p99_ms: Vec::new(),
            };
            for round in 1..=rounds {
                tell(&format!("webhooks on {connections} connections, round {round} of {rounds}"));
                let (start, before) = (Instant::now(), gateway.counter(DELIVERED)?);
                let outcome = load(gateway.public, request, connections, turn)?;
                let taken = gateway.counter(DELIVERED)? - before;
                at.delivered_per_second.push(taken as f64 / start.elapsed().as_secs_f64());
                at.acknowledged_per_second.push(per_second(&outcome));
                wait_until_delivered(&gateway)?;
                at.p99_ms.push(measure::microseconds(&outcome, 0.99) / 1e3);
                let filled = bare.fill(connections, turn)?;
                at.bare_per_second.push(filled.rows_per_second);
                at.bare_p99_ms.push(filled.p99_ms);
                let outcome = load(acceptor.address, &asked, connections, turn)?;
                at.acceptor_per_second.push(per_second(&outcome));
                at.acceptor_p99_ms.push(measure::microseconds(&outcome, 0.99) / 1e3);
            }
            accepted.push(at);
        }
    }
    let sync_ms = bare.fill(1, turn)?.median_ms;

    let [_, (_, request)] = requests;
    let before = load(gateway.public, &request, BUSY, turn)?;
    let mut pending = before.requests;
    while pending < backlog {
        tell(&format!("{pending} deliveries of {backlog} wait"));
        pending += load(gateway.public, &request, BUSY, turn.max(Duration::from_secs(1)))?.requests;
    }
    let (mut with, mut without) = (Vec::new(), Vec::new());
    let mut after = 0.0;
    for round in 1..=rounds.max(PAIRS) {
        tell(&format!("with a backlog and without, turn {round}"));
        let outcome = load(gateway.public, &request, BUSY, turn)?;
        pending += outcome.requests;
        after = per_second(&outcome);
        with.push(after);
        // Another one each time: what the last one was sent waits there.
        let empty = Gateway::start(program, 1, "")?;
        without.push(per_second(&load(empty.public, &waiting(&empty, port)?, BUSY, turn)?));
    }
    let backlog = Backlog {
        pending,
        before_per_second: per_second(&before),
        after_per_second: after,
        with_per_second: with,
        without_per_second: without,
        resident_mib: procfs::resident(&pids) as f64 / 1024.0,
        disk_mib: size_of(&gateway.folder.path().join("data"))? as f64 / MIB,
        sync_route_us: (sync_before, sync_cost()?),
    };
    Ok((accepted, sync_ms, backlog))
}

/// What is still to go out would take part in the next turn.
fn wait_until_delivered(gateway: &Gateway) -> anyhow::Result<()> {
    let start = Instant::now();
    while gateway.counter(DELIVERED)? < gateway.counter(ACCEPTED)? {
        ensure!(start.elapsed() < LONGEST_DELIVERY, "deliveries do not go out");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn per_second(outcome: &Outcome) -> f64 {
    outcome.requests as f64 / outcome.took.as_secs_f64()
}

/// A webhook to a known route whose worker has gone: deliveries wait, and use up no attempts.
fn waiting(gateway: &Gateway, port: u16) -> anyhow::Result<Request> {
    let later = json!({"name": "later", "methods": ["POST"], "delivery": {"mode": "durable"}});
    let id = gateway.register("later", port, &[later])?;
    gateway.deregister(&id)?;
    webhook(gateway, "/later")
}

/// A webhook to this path; what its acknowledgement looks like is seen from the first.
fn webhook(gateway: &Gateway, path: &str) -> anyhow::Result<Request> {
    let mut request = request_to(std::iter::once(path.to_owned()), BODY)?;
    let (status, body) = call::exchange(gateway.public, &request.heads[0], &request.body)?;
    ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
    request.expected = Expected { status, length: body.len() };
    Ok(request)
}

fn load(to: SocketAddr, request: &Request, connections: usize, turn: Duration) -> anyhow::Result<Outcome> {
    Load::open(to, connections, request)?.run(request.expected, turn / 5, turn, || Ok(()))
}

fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        size += entry?.metadata()?.len();
    }
    Ok(size)
}

/// A table of rows and nothing else.
fn open(file: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection
        .execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, request BLOB NOT NULL) STRICT", [])?;
    Ok(connection)
}

/// SQLite alone, set as the gateway's store is.
struct Bare {
    connection: Connection,
    row: Vec<u8>,
    next: i64,
}

impl Bare {
    fn open(folder: &Path, row: usize) -> anyhow::Result<Self> {
        Ok(Self { connection: open(&folder.join("bare.sqlite"))?, row: vec![7; row], next: 0 })
    }

    /// Commits so many rows at a time for that long.
    fn fill(&mut self, together: usize, length: Duration) -> anyhow::Result<Filled> {
        let mut commits = Histogram::<u64>::new_with_bounds(1_000, 60_000_000_000, 3)?;
        let (start, first) = (Instant::now(), self.next);
        while start.elapsed() < length {
            let begun = Instant::now();
            let transaction = self.connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached("INSERT INTO deliveries VALUES (?1, ?2)")?;
                for _ in 0..together {
                    self.next += 1;
                    insert.execute(params![self.next, self.row])?;
                }
            }
            transaction.commit()?;
            commits.saturating_record(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        let rows = (self.next - first) as f64 / start.elapsed().as_secs_f64();
        let at = |quantile: f64| commits.value_at_quantile(quantile) as f64 / 1e6;
        Ok(Filled { rows_per_second: rows, median_ms: at(0.5), p99_ms: at(0.99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it was written before the peer behind HTTP and the turns beside a backlog.
    #[test]
    fn older_runs_can_be_read() {
        let run = json!({
            "date": "2026-11-28T12:00:00Z",
            "commit": "0123456789ab",
            "accepted": [{
                "connections": 64,
                "delivered": false,
                "acknowledged_per_second": [30000.0, 40000.0],
                "bare_per_second": [100_000.0, 100_000.0],
                "p99_ms": [6.0, 7.0],
            }],
            "sync_ms": 0.11,
            "backlog": {
                "pending": 1_000_000,
                "before_per_second": 20000.0,
                "after_per_second": 19000.0,
                "resident_mib": 25.0,
                "disk_mib": 2000.0,
                "sync_route_us": [24.0, 25.0],
            },
        });
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run.json");
        std::fs::write(&file, run.to_string()).unwrap();
        let table = Delivery::read(&file).unwrap().table();
        assert!(table.contains("| 64 | wait | 35000 | 0 | 100000 | 0.35 | 0 | - |"), "{table}");
        assert!(table.contains("(-5%)") && !table.contains("in turns"), "{table}");
        std::fs::write(&file, "{}").unwrap();
        assert!(Delivery::read(&file).is_err());
    }
}
