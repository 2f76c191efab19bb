//! What waits, for a disk or for a worker, and who must not notice.

use std::process::Command;
use std::time::{Duration, Instant};

use gearway_tests::process::Process;
use gearway_tests::{Gateway, Load, Registration, Request, ScriptedWorker, Worker, wait};
use serde_json::json;

use crate::expect::{envelope, serving};

/// Keeps the gateway's store from writing until it is dropped.
async fn lock_store(gateway: &Gateway) -> Process {
    const SCRIPT: &str = r#"
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("LOCKED", flush=True)
time.sleep(600)
"#;
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT]).arg(gateway.data_dir().join("gearway.db"));
    let process = Process::spawn("sqlite", command);
    process.wait_for_line("the lock", |line| (line == "LOCKED").then_some(())).await;
    process
}

/// Renewals do not wait for the disk, also not behind a registration that does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_disk_lapses_nobody() {
    const LEASE: Duration = Duration::from_secs(1);
    let gateway = Gateway::start("[workers]\nlease = \"1s\"\npark = \"50ms\"").await;
    let _worker = Worker::start_routed(&gateway, "seed-page", "/abc/def").await;
    let before = gateway.admin().workers().await;
    let load = Load::start(gateway.public_address(), 2, &Request::post("/abc/def", "body"));
    let lock = lock_store(&gateway).await;
    let late = ScriptedWorker::start("late");
    let registration = Registration::new("late").handler("late");
    let token = gateway.registration_token();
    let registering = late.try_register(&gateway, &registration, Some(&token));
    // The stall itself: several leases long.
    let stall = tokio::time::sleep(4 * LEASE);
    let (registered, ()) = tokio::join!(registering, async {
        stall.await;
        drop(lock);
    });
    assert!(matches!(registered.status, 201 | 503), "{registered:?}");
    load.wait_for_more(50).await;
    load.stop().await.assert_all_ok();
    let after = gateway.admin().workers().await;
    assert!(before.iter().all(|worker| after.contains(worker)), "{before:?} {after:?}");
    assert!(!gateway.log().iter().any(|line| line.contains("lease lapsed") && line.contains("seed-page")));
    late.register(&gateway, &registration).await;
    assert_eq!(gateway.get("/late").await.status, 200);
}

async fn parked(gateway: &Gateway, number: usize) {
    let what = format!("{number} requests wait for a worker");
    wait::until(&what, async || {
        let metrics = gateway.admin().get("/metrics").await.text();
        metrics.lines().any(|line| line == format!("gearway_parked_requests {number}")).then_some(())
    })
    .await;
}

/// A gateway that knows a route whose worker is away, and that worker.
async fn without_its_worker() -> (Gateway, ScriptedWorker, Registration) {
    let (gateway, worker) = serving("[workers]\npark = \"50s\"", &[]).await;
    let registration = Registration::new("worker").handler_with(json!({"name": "foo", "timeout_ms": 40_000}));
    let registered = worker.register(&gateway, &registration).await;
    drop(gateway.worker_side().deregister(&registered.worker_id).await.expect_status(204));
    (gateway, worker, registration)
}

/// Before a call was sent, its client's going away takes it back, and gives its place to others.
#[tokio::test]
async fn a_client_that_goes_away_before_dispatch_leaves_nothing_behind() {
    let (gateway, worker, registration) = without_its_worker().await;
    let mut connection = gateway.connect().await;
    let request = Request::post("/foo", "from nobody").to_bytes(gateway.public_address());
    connection.write(&request).await.expect("a connection");
    parked(&gateway, 1).await;
    drop(connection);
    parked(&gateway, 0).await;
    worker.register(&gateway, &registration).await;
    assert_eq!(gateway.post("/foo", "x").await.status, 200);
    assert_eq!(worker.calls().len(), 1);
}

/// There is one deadline, and what a request has waited for a worker counts.
#[tokio::test]
async fn the_worker_learns_what_is_left_of_the_time() {
    let (gateway, worker, registration) = without_its_worker().await;
    let address = gateway.public_address();
    let waiting = tokio::spawn(async move { Request::post("/foo", "x").send(address).await });
    parked(&gateway, 1).await;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waited = u64::try_from(since.elapsed().as_millis()).expect("not that long");
    worker.register(&gateway, &registration).await;
    let left = envelope(&waiting.await.expect("no panic"))["context"]["timeout_ms"].as_u64();
    assert!(left.is_some_and(|left| left <= 40_000 - waited), "{left:?} of 40000 after {waited}");
}
