//! The gateway beside two parsers that others rely on: what either of h11 and llhttp refuses, or the two read
//! differently, reaches no worker, and nothing that follows it does. Contract section 7.

mod generate;
mod parsers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;
use gearway_tests::{Answer, Gateway, Registration, ScriptedWorker, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use self::generate::Case;
use self::parsers::{Parsers, Read, Readings, hex};

/// Connections in a run; `GEARWAY_TESTS_CASES` asks for another number.
const CASES: usize = 4000;
/// The run's seed; `GEARWAY_TESTS_SEED` asks for another, or for a `random` one.
const SEED: u64 = 20_150_401;
const AT_ONCE: usize = 64;
/// How many attempts go into making a reproduction shorter.
const SHRINKING: usize = 400;

#[tokio::test]
async fn nothing_is_served_that_h11_and_llhttp_do_not_read_alike() {
    let seed = match std::env::var("GEARWAY_TESTS_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| fastrand::u64(..)),
        Err(_) => SEED,
    };
    let number = std::env::var("GEARWAY_TESTS_CASES").map_or(CASES, |text| text.parse().expect("a number"));
    println!("GEARWAY_TESTS_SEED={seed} GEARWAY_TESTS_CASES={number}");
    let mut rng = Rng::with_seed(seed);
    let mut bench = Bench::start().await;
    let (mut served, mut refused) = (0, 0);
    for _ in 0..number.div_ceil(AT_ONCE) {
        let cases: Vec<Case> = (0..AT_ONCE).map(|_| generate::case(&mut rng)).collect();
        let outcomes = bench.run(&cases, wait::DEADLINE).await;
        for (case, (readings, observed)) in cases.iter().zip(outcomes) {
            if let Err(verdict) = judge(case, &readings, &observed) {
                let case = bench.shrink(case.clone()).await;
                let (readings, observed) =
                    bench.run(std::slice::from_ref(&case), wait::DEADLINE).await.remove(0);
                panic!(
                    "seed {seed}: {verdict}\nshortest: {}\n\"{}\"\nh11: {}, llhttp: {}\n{readings:#?}\n{observed:#?}",
                    judge(&case, &readings, &observed).err().unwrap_or_default(),
                    case.bytes.escape_ascii(),
                    readings.h11.reason,
                    readings.llhttp.reason,
                );
            }
            served += observed.at_worker.len();
            refused += usize::from(observed.statuses.last().is_some_and(|status| *status == 400));
        }
    }
    // A gateway that refused everything, or nothing, would show nothing.
    assert!(served > number / 2 && refused > number / 4, "{served} served, {refused} refused");
}

/// What became of one connection.
#[derive(Debug)]
struct Observed {
    /// Responses in order, interim ones left out. [`None`] where the bytes are no response.
    statuses: Vec<u16>,
    nonsense: Option<String>,
    /// The gateway ended the connection.
    closed: bool,
    at_worker: Vec<Value>,
}

/// A gateway whose worker takes everything.
struct Bench {
    gateway: Gateway,
    worker: ScriptedWorker,
    parsers: Parsers,
    next: u32,
}

impl Bench {
    async fn start() -> Self {
        // The gateway must not need its timers to get rid of a client.
        let config = "[limits]\nheader_timeout = \"10m\"\nbody_timeout = \"10m\"";
        let gateway = Gateway::start(config).await;
        let worker = ScriptedWorker::start("worker");
        let methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
        let registration = Registration::new("worker").handler_with(json!({"name": "/", "methods": methods}));
        worker.register(&gateway, &registration).await;
        worker.always(Answer::text("served"));
        Self { gateway, worker, parsers: Parsers::start().await, next: 0 }
    }

    /// Sends each case from an address of its own, by which the worker tells them apart whatever is in them.
    async fn run(&mut self, cases: &[Case], patience: Duration) -> Vec<(Readings, Observed)> {
        let bytes: Vec<&[u8]> = cases.iter().map(|case| case.bytes.as_slice()).collect();
        let readings = self.parsers.read(&bytes).await;
        let calls_before = self.worker.calls().len();
        let first = self.next;
        self.next += u32::try_from(cases.len()).expect("few cases");
        let mut clients = JoinSet::new();
        for (number, (case, readings)) in cases.iter().zip(&readings).enumerate() {
            let from = address(first + u32::try_from(number).expect("few cases"));
            let (case, half_close, to) = (case.clone(), readings.may_go_on(), self.gateway.public_address());
            clients.spawn(async move { (number, client(&case, half_close, from, to, patience).await) });
        }
        let mut answers = clients.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        let calls = self.worker.calls();
        let observed = answers.into_iter().map(|(number, (bytes, closed))| {
            let from = address(first + u32::try_from(number).expect("few cases")).to_string();
            let at_worker = calls[calls_before..]
                .iter()
                .map(|call| call.envelope["param"].clone())
                .filter(|param| param["remote_addr"] == from.as_str())
                .collect();
            let (statuses, nonsense) = statuses(&bytes);
            Observed { statuses, nonsense, closed, at_worker }
        });
        readings.into_iter().zip(observed).collect()
    }

    /// The shortest case that this finds that still goes wrong.
    async fn shrink(&mut self, mut case: Case) -> Case {
        const PATIENCE: Duration = Duration::from_secs(1);
        let mut attempts = 0;
        let mut piece = case.bytes.len() / 2;
        while piece > 0 && attempts < SHRINKING {
            let mut at = 0;
            while at < case.bytes.len() && attempts < SHRINKING {
                attempts += 1;
                let mut shorter = case.clone();
                shorter.bytes.drain(at..(at + piece).min(case.bytes.len()));
                shorter.cuts.clear();
                shorter.well_formed = false;
                let (readings, observed) = self.run(std::slice::from_ref(&shorter), PATIENCE).await.remove(0);
                match judge(&shorter, &readings, &observed) {
                    Err(_) => case = shorter,
                    Ok(()) => at += piece,
                }
            }
            piece /= 2;
        }
        case
    }
}

/// Another address of this machine for each number.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 0)) + number)
}

/// Everything that came back, and whether the connection ended.
async fn client(
    case: &Case,
    half_close: bool,
    from: Ipv4Addr,
    to: SocketAddr,
    patience: Duration,
) -> (Vec<u8>, bool) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).expect("an address of this machine");
    let mut stream = socket.connect(to).await.expect("the gateway listens");
    stream.set_nodelay(true).expect("an open socket");
    let (mut reader, mut writer) = stream.split();
    let write = async {
        let mut written = 0;
        for cut in case.cuts.iter().copied().chain([case.bytes.len()]) {
            // The gateway may have closed before it had everything.
            if writer.write_all(&case.bytes[written..cut.max(written)]).await.is_err() {
                return;
            }
            written = cut.max(written);
            tokio::task::yield_now().await;
        }
        if half_close {
            writer.shutdown().await.ok();
        }
    };
    let mut answer = Vec::new();
    let read = async { drop(reader.read_to_end(&mut answer).await) };
    let closed = tokio::time::timeout(patience, async { tokio::join!(write, read) }).await.is_ok();
    (answer, closed)
}

/// The statuses of the responses in `bytes`, and what is wrong with the rest if anything is.
fn statuses(mut bytes: &[u8]) -> (Vec<u16>, Option<String>) {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else {
            return (found, Some(bytes.escape_ascii().to_string()));
        };
        let status = response.code.unwrap_or_default();
        let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length =
            length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok()).unwrap_or(0);
        if !(100..200).contains(&status) {
            found.push(status);
        }
        let Some(rest) = bytes.get(head + length..) else {
            return (found, Some(format!("{} bytes of a body are missing", head + length - bytes.len())));
        };
        bytes = rest;
    }
    (found, None)
}

fn judge(case: &Case, readings: &Readings, observed: &Observed) -> Result<(), String> {
    if !observed.closed {
        return Err("the connection was not closed".into());
    }
    if let Some(nonsense) = &observed.nonsense {
        return Err(format!("the client got what is no response: {nonsense}"));
    }
    let agreed = readings.agreed();
    // What the gateway refuses for reasons of its own may be missing, but nothing may come that is not there.
    let mut left = agreed.iter();
    for param in &observed.at_worker {
        if !left.any(|read| is_same(read, param)) {
            return Err(format!("the worker got what the parsers did not read alike: {param}"));
        }
    }
    let beyond = observed.statuses.get(agreed.len()..).unwrap_or_default();
    if beyond.len() > 1 || beyond.iter().any(|status| *status < 300) {
        return Err(format!("answered {beyond:?} where the parsers see no further request"));
    }
    if case.well_formed && (observed.at_worker.len() != agreed.len() || agreed.is_empty()) {
        return Err(format!("{} well-formed requests, {} served", agreed.len(), observed.at_worker.len()));
    }
    Ok(())
}

/// Whether an envelope carries the request that the parsers read.
fn is_same(read: &Read, param: &Value) -> bool {
    let target = origin_form(&read.target);
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let body = decode_base64(param["body"].as_str().unwrap_or_default());
    let own_headers = |(name, _): &(&String, &Value)| name.to_ascii_lowercase().starts_with("x-");
    let headers =
        param["header"].as_object().into_iter().flatten().filter(own_headers).all(|(name, values)| {
            let read = read.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
            Value::from_iter(read.map(|(_, value)| value.as_str())) == *values
        });
    headers
        && param["method"] == read.method.as_str()
        && param["raw_path"] == path
        && param["query_string"] == query
        && hex(&body) == read.body
}

/// A target in absolute form without its authority.
fn origin_form(target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('?') => format!("/{}", &rest[at..]),
        Some(at) => rest[at..].to_owned(),
        None => "/".to_owned(),
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    gearway_protocol::Base64Body::decode(text).expect("valid base64")
}
