//! Attacks and loads by programs that others wrote for it: slowhttptest and h2load.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gearway_tests::process::{self, Process};
use gearway_tests::tls::Certificate;
use gearway_tests::{Answer, Gateway, Request, ScriptedWorker, installed};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::expect::serving;

/// What the gateway holds at most, and how many attack it.
const ROOM: usize = 48;
const ATTACKERS: usize = 150;
/// Beyond `max_connections`, those who are told that it is reached.
const RESERVE: usize = ROOM / 8;

/// Whoever is neither an attacker nor lucky: a client that asks, on a new connection each time, until it is told to stop.
struct Ordinary {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<usize>,
}

impl Ordinary {
    fn start(gateway: &Gateway) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let to = gateway.public_address();
        let asking = tokio::spawn(async move {
            let mut served = 0;
            while !stopped.load(Ordering::SeqCst) {
                // Where attackers come in faster than this client gets to write, its turn may end before it has asked.
                let Ok(response) = Request::post("/small", "x").try_send(to).await else { continue };
                assert_eq!(response.status, 200, "{response:?}");
                served += 1;
            }
            served
        });
        Self { stop, asking }
    }

    async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.await.expect("every answer is the worker's")
    }
}

async fn attacked() -> (Gateway, ScriptedWorker) {
    let config = format!(
        "[limits]\nmax_connections = {ROOM}\nmax_in_flight = {ROOM}\nheader_timeout = \"1s\"\nbody_timeout = \"1s\"\n"
    );
    let (gateway, worker) = serving(&config, &["small", "large"]).await;
    let large = "x".repeat(2 << 20);
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("large") => Answer::text(&large),
        _ => Answer::json(&json!("small")),
    });
    (gateway, worker)
}

/// The number that `/metrics` has for this name.
async fn reading(gateway: &Gateway, name: &str) -> usize {
    let metrics = gateway.admin().get("/metrics").await.text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// Attacks until every attacker's connection has been closed, or the time is up. Looks at the gateway's counts meanwhile.
async fn attack(gateway: &Gateway, slowhttptest: &Path, mode: &[&str], path: &str) -> String {
    let mut command = Command::new(slowhttptest);
    command.args(mode).args(["-c", &ATTACKERS.to_string(), "-r", "100", "-i", "1", "-x", "8", "-l", "4"]);
    command.args(["-p", "10", "-v", "1", "-u", &format!("http://{}{path}", gateway.public_address())]);
    let attack = Process::spawn("slowhttptest", command);
    let ordinary = Ordinary::start(gateway);
    while attack.is_running() {
        let connections = reading(gateway, "gearway_connections").await;
        assert!(connections <= ROOM + RESERVE, "{mode:?}: {connections} connections");
        let requests = reading(gateway, "gearway_in_flight_requests").await;
        assert!(requests <= ROOM, "{mode:?}: {requests} requests");
    }
    let served = ordinary.stop().await;
    let printed = attack.all_lines().await.join("\n");
    assert!(served > 20, "{mode:?}: {served} ordinary requests were served: {printed}");
    assert!(!printed.contains("Cannot"), "{printed}");
    printed
}

/// Heads, and bodies, that come byte by byte; and ranges, which mean nothing here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowhttptest_keeps_nobody_out_by_what_it_sends() {
    let Some(slowhttptest) = installed::debian("slowhttptest", "slowhttptest").await else { return };
    let (gateway, _worker) = attacked().await;
    for (mode, path) in [(&["-H"][..], "/small"), (&["-B", "-s", "8192"], "/small"), (&["-R"], "/large")] {
        let printed = attack(&gateway, &slowhttptest, mode, path).await;
        assert!(printed.contains("No open connections left"), "{mode:?}: {printed}");
    }
}

/// Responses that are read five bytes at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowhttptest_keeps_nobody_out_by_what_it_leaves_unread() {
    let Some(slowhttptest) = installed::debian("slowhttptest", "slowhttptest").await else { return };
    let (gateway, _worker) = attacked().await;
    let mode = ["-X", "-w", "10", "-y", "20", "-z", "5", "-n", "1"];
    let printed = attack(&gateway, &slowhttptest, &mode, "/large").await;
    // Where there is no room for more, those who hold some lose it at once, with what waits for them in the system's buffers.
    let evicted = reading(&gateway, "gearway_evictions_total{reason=\"connection\"}").await;
    assert!(evicted >= ATTACKERS - ROOM, "{evicted} connections made room: {printed}");
}

/// Two thousand streams at once, over TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_gets_an_answer_to_every_request() {
    const REQUESTS: usize = 6000;
    let Some(h2load) = installed::debian("h2load", "nghttp2-client").await else { return };
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::make().write(folder.path());
    let path = folder.path().display();
    let config = format!(
        "[public.tls]\ncert_file = \"{path}/cert.pem\"\nkey_file = \"{path}/key.pem\"\n[limits]\nmax_in_flight = 4000\n"
    );
    let (gateway, worker) = serving(&config, &["foo"]).await;
    worker.always(Answer::text("done"));
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 2000]).expect("a writable folder");
    let mut command = Command::new(h2load);
    command.args(["-n", &REQUESTS.to_string(), "-c", "20", "-m", "100", "-d"]).arg(&body);
    command.arg(format!("https://localhost:{}/foo", gateway.public_address().port()));
    let finished = process::run(command).await;
    assert_eq!(finished.code(), 0, "{finished:?}");
    let summary = format!(
        "requests: {REQUESTS} total, {REQUESTS} started, {REQUESTS} done, {REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert!(finished.stdout.contains(&summary), "{}", finished.stdout);
    assert!(finished.stdout.contains(&format!("status codes: {REQUESTS} 2xx")), "{}", finished.stdout);
    assert!(finished.stdout.contains("Application protocol: h2"), "{}", finished.stdout);
    assert_eq!(worker.calls().len(), REQUESTS);
}
