//! Ten times what the gateway takes on at once: what is done, what is refused and how soon, and what it costs in memory.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use gearway_tests::faulty::{Fault, FaultyWorker, Ledger, REQUEST_HEADER};
use gearway_tests::vitals::Vitals;
use gearway_tests::{Connection, Gateway, Registration, Request, binaries};
use tokio::task::JoinSet;

const CLIENTS: usize = 400;
/// What is offered, in tenths of the capacity.
const OFFERED: [usize; 6] = [5, 10, 20, 50, 100, 10];

const LOADS: [Load; 3] = [
    Load { limit: "max_in_flight", at_once: 40, call: Duration::from_millis(40), body: 1 },
    Load { limit: "max_bytes_in_flight", at_once: 40, call: Duration::from_millis(40), body: 32 << 10 },
    Load { limit: "max_bytes_in_flight", at_once: 8, call: Duration::from_millis(160), body: 1 << 20 },
];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long for each step.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// How the gateway is built.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Requests, and what the gateway has too little of for them.
#[derive(Debug, Clone, Copy)]
struct Load {
    limit: &'static str,
    /// So many of them reach the limit.
    at_once: usize,
    /// How long the worker takes for a call.
    call: Duration,
    body: usize,
}

impl Load {
    /// Requests a second.
    fn capacity(self) -> usize {
        (self.at_once as f64 / self.call.as_secs_f64()).round() as usize
    }

    fn config(self) -> String {
        let each = if self.limit == "max_in_flight" { 1 } else { self.body };
        format!("[limits]\n{} = {}\n", self.limit, self.at_once * each)
    }
}

/// What became of the requests of one step.
#[derive(Debug, Default)]
struct Answers {
    /// How long each took, in microseconds.
    done: Vec<u64>,
    refused: Vec<u64>,
    /// What nobody should get.
    other: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    binaries::use_profile(&options.profile);
    if options.profile != "dev" && cfg!(debug_assertions) {
        // Clients that were slower than the gateway would measure themselves.
        let mut same = Command::new(binaries::path("xtask"));
        same.args(std::env::args_os().skip(1));
        let status = same.status().with_context(|| format!("cannot run {same:?}"))?;
        ensure!(status.success(), "{same:?} ended with {status}");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let length = Duration::from_secs(options.seconds);
    let mut broken = Vec::new();
    for load in LOADS {
        broken.extend(runtime.block_on(measure(load, length))?);
    }
    if !broken.is_empty() {
        bail!("answers that nobody should get: {broken:#?}");
    }
    Ok(())
}

async fn measure(load: Load, length: Duration) -> anyhow::Result<Vec<String>> {
    let gateway = Gateway::start(&load.config()).await;
    let ledger = Ledger::default();
    let worker = FaultyWorker::start(&ledger);
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    worker.fail(move || Fault::Late(load.call));
    println!(
        "\n{} requests/s by {} (at most {} of {:?}), with bodies of {} bytes",
        load.capacity(),
        load.limit,
        load.at_once,
        load.call,
        load.body
    );
    println!(
        "| offered/s | 200/s | 503/s | 200: p50, p99 ms | 503: p50, p99, p99.9 ms | CPU | RSS, peak MiB |\n|---|---|---|---|---|---|---|"
    );
    let mut broken = Vec::new();
    for tenths in OFFERED {
        let offered = load.capacity() * tenths / 10;
        let before = Vitals::of(gateway.process().id()).context("the gateway has ended")?.cpu;
        let started = Instant::now();
        let mut answers = offer(gateway.public_address(), offered, load.body, length).await;
        let took = started.elapsed().as_secs_f64();
        let vitals = Vitals::of(gateway.process().id()).context("the gateway has ended")?;
        let per_second = |count: usize| count as f64 / took;
        answers.done.sort_unstable();
        answers.refused.sort_unstable();
        let total = answers.done.len() + answers.refused.len() + answers.other.len();
        println!(
            "| {:.0} | {:.0} | {:.0} | {}, {} | {}, {}, {} | {:.2} | {:.1}, {:.1} |",
            per_second(total),
            per_second(answers.done.len()),
            per_second(answers.refused.len()),
            quantile(&answers.done, 0.5),
            quantile(&answers.done, 0.99),
            quantile(&answers.refused, 0.5),
            quantile(&answers.refused, 0.99),
            quantile(&answers.refused, 0.999),
            (vitals.cpu - before).as_secs_f64() / took,
            vitals.rss_kib as f64 / 1024.0,
            vitals.peak_rss_kib as f64 / 1024.0,
        );
        broken.extend(answers.other.into_iter().take(3));
        ledger.clear();
    }
    Ok(broken)
}

/// In milliseconds; a dash for none.
fn quantile(sorted: &[u64], quantile: f64) -> String {
    let place = (sorted.len() as f64 * quantile) as usize;
    match sorted.get(place.min(sorted.len().saturating_sub(1))) {
        Some(micros) => format!("{:.1}", *micros as f64 / 1000.0),
        None => "–".into(),
    }
}

/// Clients that begin a request whenever it is time for one, and not when they have the answer to the last: the load does not give way.
async fn offer(to: SocketAddr, per_second: usize, body: usize, length: Duration) -> Answers {
    let every = Duration::from_secs_f64(CLIENTS as f64 / per_second as f64);
    let request = Arc::new(Request::post("/foo", vec![b'x'; body]).header(REQUEST_HEADER, "load"));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let first = start + every.mul_f64(number as f64 / CLIENTS as f64);
        clients.spawn(client(to, Arc::clone(&request), first, every, start + length));
    }
    let mut all = Answers::default();
    for answers in clients.join_all().await {
        all.done.extend(answers.done);
        all.refused.extend(answers.refused);
        all.other.extend(answers.other);
    }
    all
}

async fn client(
    to: SocketAddr,
    request: Arc<Request>,
    first: Instant,
    every: Duration,
    until: Instant,
) -> Answers {
    let mut answers = Answers::default();
    let mut connection = None;
    let mut next = first;
    while next < until {
        tokio::time::sleep_until(next.into()).await;
        let begun = Instant::now();
        // Who could not keep up has lost its turns.
        next = (next + every).max(begun);
        let open = match connection.take() {
            Some(open) => Ok(open),
            None => Connection::connect(to).await,
        };
        let answered = match open {
            Ok(mut open) => open.request(&request).await.map(|response| (response, open)),
            Err(error) => Err(error),
        };
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        match answered {
            Ok((response, open)) => {
                match response.status {
                    200 => answers.done.push(micros),
                    503 if response.header("retry-after").is_some() => answers.refused.push(micros),
                    _ => answers.other.push(format!("{response:?}")),
                }
                if !open.is_closing() {
                    connection = Some(open);
                }
            }
            Err(error) => answers.other.push(error.to_string()),
        }
    }
    answers
}
