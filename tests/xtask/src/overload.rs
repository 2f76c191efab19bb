//! Ten times what the gateway takes on at once: what is done, what is refused and how soon, and what it costs in memory.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use gearway_tests::faulty::{Fault, FaultyWorker, Ledger, REQUEST_HEADER};
use gearway_tests::vitals::Vitals;
use gearway_tests::{Connection, Gateway, Registration, Request, binaries};
use tokio::task::JoinSet;

/// How long the worker takes for a call.
const CALL: Duration = Duration::from_millis(40);
/// So many at once are a thousand a second.
const AT_ONCE: usize = 40;
const CAPACITY: usize = 1000;
const CLIENTS: usize = 400;
/// What is offered, in tenths of the capacity.
const OFFERED: [usize; 6] = [5, 10, 20, 50, 100, 10];
const BODY: usize = 32 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long for each step.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// How the gateway is built.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// What the gateway has too little of.
#[derive(Debug, Clone, Copy)]
enum Scarce {
    Requests,
    Bytes,
}

impl fmt::Display for Scarce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "max_in_flight",
            Self::Bytes => "max_bytes_in_flight",
        })
    }
}

impl Scarce {
    fn config(self) -> String {
        match self {
            Self::Requests => format!("[limits]\nmax_in_flight = {AT_ONCE}\n"),
            Self::Bytes => format!("[limits]\nmax_bytes_in_flight = {}\n", AT_ONCE * BODY),
        }
    }

    fn body(self) -> usize {
        match self {
            Self::Requests => 1,
            Self::Bytes => BODY,
        }
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
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let length = Duration::from_secs(options.seconds);
    let mut broken = Vec::new();
    for scarce in [Scarce::Requests, Scarce::Bytes] {
        broken.extend(runtime.block_on(measure(scarce, length))?);
    }
    if !broken.is_empty() {
        bail!("answers that nobody should get: {broken:#?}");
    }
    Ok(())
}

async fn measure(scarce: Scarce, length: Duration) -> anyhow::Result<Vec<String>> {
    let gateway = Gateway::start(&scarce.config()).await;
    let ledger = Ledger::default();
    let worker = FaultyWorker::start(&ledger);
    worker.register(&gateway, &Registration::new("worker").handler("foo")).await;
    worker.fail(|| Fault::Late(CALL));
    println!("\n{CAPACITY} requests/s by {scarce}, with bodies of {} bytes", scarce.body());
    println!(
        "| offered/s | 200/s | 503/s | 200: p50, p99 ms | 503: p50, p99, p99.9 ms | RSS, peak MiB |\n|---|---|---|---|---|---|"
    );
    let mut broken = Vec::new();
    for tenths in OFFERED {
        let offered = CAPACITY * tenths / 10;
        let started = Instant::now();
        let mut answers = offer(gateway.public_address(), offered, scarce.body(), length).await;
        let took = started.elapsed().as_secs_f64();
        let vitals = Vitals::of(gateway.process().id()).context("the gateway has ended")?;
        let per_second = |count: usize| count as f64 / took;
        answers.done.sort_unstable();
        answers.refused.sort_unstable();
        let total = answers.done.len() + answers.refused.len() + answers.other.len();
        println!(
            "| {:.0} | {:.0} | {:.0} | {}, {} | {}, {}, {} | {:.1}, {:.1} |",
            per_second(total),
            per_second(answers.done.len()),
            per_second(answers.refused.len()),
            quantile(&answers.done, 0.5),
            quantile(&answers.done, 0.99),
            quantile(&answers.refused, 0.5),
            quantile(&answers.refused, 0.99),
            quantile(&answers.refused, 0.999),
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
