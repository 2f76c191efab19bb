//! What accepting durable webhooks costs, beside a bare loop that commits rows of the same size to SQLite on the same disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call;
use crate::load::{Expected, Load, Outcome, Request};
use crate::measure::{self, BUSY, request_to};
use crate::procfs;
use crate::proxy::{Gateway, Worker};
use crate::report::median;

/// Of a webhook's body; the row of the bare loop has its head's bytes besides.
const BODY: usize = 1024;
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
    pub(crate) before_per_second: f64,
    pub(crate) after_per_second: f64,
    pub(crate) resident_mib: f64,
    pub(crate) disk_mib: f64,
    /// CPU µs of a `sync` route, before there was any delivery and beside the backlog.
    pub(crate) sync_route_us: (f64, f64),
}

impl Delivery {
    pub(crate) fn table(&self) -> String {
        let middle = |values: &[f64]| median(values.to_vec()).unwrap_or_default();
        let mut text = String::from(
            "\n| connections | deliveries | acknowledged/s | bare SQLite rows/s | ratio | p99 ms | bare commits' p99 ms |\n",
        );
        text += "|---|---|---|---|---|---|---|\n";
        for at in &self.accepted {
            let pairs = at.acknowledged_per_second.iter().zip(&at.bare_per_second);
            let ratio = median(pairs.map(|(ours, bare)| ours / bare).collect()).unwrap_or_default();
            let p99 = middle(&at.p99_ms);
            text += &format!(
                "| {} | {} | {:.0} | {:.0} | {ratio:.2} | {p99:.2} | {:.2} |\n",
                at.connections,
                if at.delivered { "go out meanwhile" } else { "wait" },
                middle(&at.acknowledged_per_second),
                middle(&at.bare_per_second),
                middle(&at.bare_p99_ms)
            );
        }
        let Backlog { pending, before_per_second, after_per_second, resident_mib, disk_mib, sync_route_us } =
            &self.backlog;
        text + &format!(
            "\nA sync takes {:.2} ms. With {pending} deliveries pending: {before_per_second:.0} → {after_per_second:.0} \
             acknowledged/s ({:+.0}%), {resident_mib:.0} MiB in memory, {disk_mib:.0} MiB on disk; a sync route {:.1} → \
             {:.1} µs CPU.\n",
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
    // A known route whose worker has gone: deliveries wait, and use up no attempts.
    let later = json!({"name": "later", "methods": ["POST"], "delivery": {"mode": "durable"}});
    let id = gateway.register("later", port, &[later])?;
    gateway.deregister(&id)?;
    let requests = [(true, webhook(&gateway, "/hook")?), (false, webhook(&gateway, "/later")?)];
    let mut bare = Bare::open(gateway.folder.path(), requests[0].1.heads[0].len() + BODY)?;
    // Until its log has been written over once, every sync makes the file grow as well.
    bare.fill(BUSY, turn)?;
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
            };
            for round in 1..=rounds {
                tell(&format!("webhooks on {connections} connections, round {round} of {rounds}"));
                let outcome = load(&gateway, request, connections, turn)?;
                at.acknowledged_per_second.push(outcome.requests as f64 / outcome.took.as_secs_f64());
                at.p99_ms.push(measure::microseconds(&outcome, 0.99) / 1e3);
                let filled = bare.fill(connections, turn)?;
                at.bare_per_second.push(filled.rows_per_second);
                at.bare_p99_ms.push(filled.p99_ms);
            }
            accepted.push(at);
        }
    }
    let sync_ms = bare.fill(1, turn)?.median_ms;

    let [_, (_, request)] = requests;
    let before = load(&gateway, &request, BUSY, turn)?;
    let mut pending = before.requests;
    while pending < backlog {
        tell(&format!("{pending} deliveries of {backlog} wait"));
        pending += load(&gateway, &request, BUSY, turn.max(Duration::from_secs(1)))?.requests;
    }
    let after = load(&gateway, &request, BUSY, turn)?;
    let per_second = |outcome: &Outcome| outcome.requests as f64 / outcome.took.as_secs_f64();
    let backlog = Backlog {
        pending: pending + after.requests,
        before_per_second: per_second(&before),
        after_per_second: per_second(&after),
        resident_mib: procfs::resident(&pids) as f64 / 1024.0,
        disk_mib: size_of(&gateway.folder.path().join("data"))? as f64 / MIB,
        sync_route_us: (sync_before, sync_cost()?),
    };
    Ok((accepted, sync_ms, backlog))
}

/// A webhook to this path; what its acknowledgement looks like is seen from the first.
fn webhook(gateway: &Gateway, path: &str) -> anyhow::Result<Request> {
    let mut request = request_to(std::iter::once(path.to_owned()), BODY)?;
    let (status, body) = call::exchange(gateway.public, &request.heads[0], &request.body)?;
    ensure!(status == 200, "{path}: {status} {}", String::from_utf8_lossy(&body));
    request.expected = Expected { status, length: body.len() };
    Ok(request)
}

fn load(gateway: &Gateway, request: &Request, connections: usize, turn: Duration) -> anyhow::Result<Outcome> {
    Load::open(gateway.public, connections, request)?.run(request.expected, turn / 5, turn, || Ok(()))
}

fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        size += entry?.metadata()?.len();
    }
    Ok(size)
}

/// SQLite alone, set as the gateway's store is.
struct Bare {
    connection: Connection,
    row: Vec<u8>,
    next: i64,
}

impl Bare {
    fn open(folder: &Path, row: usize) -> anyhow::Result<Self> {
        let connection = Connection::open(folder.join("bare.sqlite"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection
            .execute("CREATE TABLE deliveries (id INTEGER PRIMARY KEY, request BLOB NOT NULL) STRICT", [])?;
        Ok(Self { connection, row: vec![7; row], next: 0 })
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
