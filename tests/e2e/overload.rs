//! More than the gateway or a worker takes: what can be done is done, and the rest is told so at once.

use std::time::{Duration, Instant};

use gearway_tests::server::{Answer, Gate};
use gearway_tests::{Connection, Gateway, Registration, Request, ScriptedWorker, wait};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::expect::{not_run, serving};

/// How long the worker takes for a call, and a refused client before it comes again.
const CALL: Duration = Duration::from_millis(40);
const CAPACITY: usize = 4;

/// What became of calls.
#[derive(Debug, Default)]
struct Called {
    took: Duration,
    refused: usize,
    /// How often a connection ended with its call.
    closed: usize,
}

/// Clients that call until so many calls were answered; those that are refused come again, on the same connection if they can.
async fn call_until(gateway: &Gateway, clients: usize, answered: usize, request: &Request) -> Called {
    let done = watch::Sender::new(0_usize);
    let started = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let mut connection = gateway.connect().await;
        let (done, request, address) = (done.clone(), request.clone(), gateway.public_address());
        running.spawn(async move {
            let (mut refused, mut closed) = (0, 0);
            while *done.borrow() < answered {
                let response = connection.request(&request).await.expect("an answer");
                if connection.is_closing() {
                    closed += 1;
                    connection = Connection::open(address).await;
                }
                if response.status == 200 {
                    done.send_modify(|done| *done += 1);
                } else {
                    not_run(&response);
                    refused += 1;
                    tokio::time::sleep(CALL).await;
                }
            }
            (refused, closed)
        });
    }
    let mut called = Called::default();
    while let Some(client) = running.join_next().await {
        let (refused, closed) = client.expect("no client panics");
        called.refused += refused;
        called.closed += closed;
    }
    Called { took: started.elapsed(), ..called }
}

fn takes_its_time(worker: &ScriptedWorker) {
    worker.script(|_| {
        let gate = Gate::default();
        let opens = gate.clone();
        tokio::spawn(async move {
            tokio::time::sleep(CALL).await;
            opens.open();
        });
        Answer::text("done").after(&gate)
    });
}

/// In KiB.
fn resident(gateway: &Gateway) -> usize {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// The bounds are wide because other tests share the machine; what they exclude is a collapse.
async fn hold_at_ten_times(limit: &str, request: &Request) -> Called {
    let (gateway, worker) = serving(&format!("[limits]\n{limit}"), &["foo"]).await;
    takes_its_time(&worker);
    let peak = call_until(&gateway, CAPACITY, 100, request).await;
    assert_eq!(peak.refused, 0);
    let memory = resident(&gateway);
    let overloaded = call_until(&gateway, 10 * CAPACITY, 100, request).await;
    assert!(overloaded.refused > 0);
    assert!(
        overloaded.took < 2 * peak.took,
        "{overloaded:?} instead of {peak:?} for the same number of calls"
    );
    let grown = resident(&gateway).saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    overloaded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodput_and_memory_hold_at_ten_times_the_capacity() {
    let limit = format!("max_in_flight = {CAPACITY}");
    let overloaded = hold_at_ten_times(&limit, &Request::post("/foo", "x")).await;
    assert_eq!(overloaded.closed, 0, "the connections stay usable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodput_and_memory_hold_at_ten_times_the_bytes() {
    let limit = format!("max_bytes_in_flight = \"{CAPACITY}MiB\"");
    let overloaded = hold_at_ten_times(&limit, &Request::post("/foo", vec![b'x'; 1 << 20])).await;
    assert!(overloaded.closed <= overloaded.refused, "{overloaded:?}");
}

/// The busy worker lives by its replies, and one that nobody calls by what it asks itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_lapses_nobody() {
    const LEASES: usize = 4;
    let config = format!("[limits]\nmax_in_flight = {CAPACITY}\n[workers]\nlease = \"1s\"");
    let (gateway, worker) = serving(&config, &["foo"]).await;
    takes_its_time(&worker);
    let idle = ScriptedWorker::start("idle");
    let id = idle.register(&gateway, &Registration::new("idle").handler("idle")).await.worker_id;
    let renews = async {
        loop {
            assert_eq!(gateway.worker_side().renew(&id).await.status, 200);
            tokio::time::sleep(Duration::from_secs(1) / 3).await;
        }
    };
    let answered = LEASES * CAPACITY * 1000 / usize::try_from(CALL.as_millis()).expect("a few");
    let request = Request::post("/foo", "x");
    let called = tokio::select! {
        called = call_until(&gateway, 10 * CAPACITY, answered, &request) => called,
        () = renews => unreachable!("it does so for ever"),
    };
    assert!(called.refused > 0, "{called:?}");
    assert!(!gateway.log().iter().any(|line| line.contains("lease lapsed")));
    assert_eq!(gateway.admin().workers().await.len(), 2);
}

/// A worker that takes four calls and four hundred clients: a bounded number waits, the rest is refused while they do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_worker_has_a_bounded_queue() {
    let gateway = Gateway::start("[limits]\nmax_in_flight = 1000\n[workers]\npark = \"10m\"").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("worker").handler("foo").set("max_concurrency", json!(4));
    worker.register(&gateway, &registration).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let refused = watch::Sender::new(0_usize);
    let mut clients = JoinSet::new();
    for _ in 0..400 {
        let mut connection = gateway.connect().await;
        let (refused, gate) = (refused.clone(), gate.clone());
        clients.spawn(async move {
            let first = connection.request(&Request::post("/foo", "x")).await.expect("an answer");
            if first.status == 200 {
                return 1;
            }
            not_run(&first);
            refused.send_modify(|refused| *refused += 1);
            gate.opened().await;
            // The queue may still be full; the connection is what matters.
            let again = connection.request(&Request::post("/foo", "x")).await.expect("an answer");
            assert!(matches!(again.status, 200 | 503), "{again:?}");
            0
        });
    }
    let enough = async { refused.subscribe().wait_for(|refused| *refused == 296).await.map(|_| ()) };
    wait::within("all but those who run and wait are refused", enough).await.expect("the test holds it");
    assert_eq!(worker.calls().len(), 4);
    gate.open();
    let mut answered = 0;
    while let Some(client) = clients.join_next().await {
        answered += client.expect("no client panics");
    }
    assert_eq!(answered, 104, "whoever waited is served");
}

/// What is refused is refused by its head: nobody has to send a body in vain.
#[tokio::test]
async fn a_full_gateway_reads_no_body() {
    let (gateway, worker) = serving("[limits]\nmax_in_flight = 1", &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let address = gateway.public_address();
    let running = tokio::spawn(async move { Request::post("/foo", "x").send(address).await });
    worker.call(0).await;
    let mut connection = gateway.connect().await;
    let head = format!("POST /foo HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000000\r\n\r\n");
    connection.write(head.as_bytes()).await.expect("a connection");
    not_run(&connection.read_response().await.expect("an answer"));
    // Nor does anybody wait in vain for an answer to what follows.
    assert!(connection.is_closing());
    connection.read_to_end().await;
    gate.open();
    drop(running.await.expect("no panic").expect_status(200));
}

/// Responses that their clients do not take count, and keep new requests out until they are given up.
#[tokio::test]
async fn responses_that_nobody_takes_are_in_flight_and_given_up() {
    let (gateway, worker) =
        serving("[limits]\nmax_connections = 100\nmax_bytes_in_flight = \"8MiB\"", &["foo", "large"]).await;
    let large = "x".repeat(9 << 20);
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("large") => Answer::text(&large),
        _ => Answer::text("done"),
    });
    let to = gateway.public_address();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a smaller buffer");
    let mut holding = socket.connect(to).await.expect("a connection");
    holding.write_all(&Request::get("/large").to_bytes(to)).await.expect("a connection");
    wait::until("the response waits for its client", async || {
        let metrics = gateway.admin().get("/metrics").await.text();
        let bytes = metrics.lines().find_map(|line| line.strip_prefix("gearway_bytes_in_flight "));
        bytes.and_then(|bytes| bytes.parse().ok()).filter(|bytes: &u64| *bytes >= 9 << 20)
    })
    .await;
    not_run(&gateway.get("/foo").await);
    let served = wait::until("there is room again", async || {
        let response = gateway.get("/foo").await;
        if response.status == 200 {
            return Some(response);
        }
        not_run(&response);
        None
    })
    .await;
    assert_eq!(served.text(), "done");
    let metrics = gateway.admin().get("/metrics").await.text();
    assert!(metrics.contains("gearway_evictions_total{reason=\"slow_reader\"} 1"), "{metrics}");
    drop(holding);
}
