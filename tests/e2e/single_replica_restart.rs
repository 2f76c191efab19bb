//! One worker, restarted under load: nobody notices.

use gearway_tests::port::ReservedPort;
use gearway_tests::{Gateway, Load, Request, Worker};

const PATH: &str = "/abc/def";

/// The new process listens somewhere else than the old one, as it does by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_is_restarted_and_no_request_fails() {
    restart_under_load(None).await;
}

/// The new process listens where the old one did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_replica_is_restarted_on_its_port_and_no_request_fails() {
    let port = ReservedPort::take();
    restart_under_load(Some(&port)).await;
}

async fn restart_under_load(port: Option<&ReservedPort>) {
    // Longer than a process takes to start on a busy machine; how long it took is not the point.
    let gateway = Gateway::start("[workers]\npark = \"50s\"").await;
    let listen = port.map(|port| port.address().to_string());
    let environment = listen.as_deref().map(|listen| ("GEARWAY_LISTEN", listen));
    let start = || Worker::start(&gateway, "seed-page", environment.as_slice());
    let mut worker = start();
    gateway.admin().wait_for_route(PATH).await;
    let load = Load::start(gateway.public_address(), 4, &Request::post(PATH, "body"));
    load.wait_for_more(50).await;
    for _ in 0..5 {
        let ended = worker.sigterm().await;
        assert_eq!(ended.code(), Some(0), "the worker ends cleanly");
        worker = start();
        load.wait_for_more(50).await;
    }
    load.stop().await.assert_all_ok();
    assert_eq!(gateway.admin().workers().await.len(), 1);
}

/// The old replica stays until the new one serves, as in a rolling upgrade.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_upgrade_fails_no_request() {
    let gateway = Gateway::start("").await;
    let mut old = Worker::start_routed(&gateway, "seed-page", PATH).await;
    let load = Load::start(gateway.public_address(), 4, &Request::post(PATH, "body"));
    for _ in 0..3 {
        let new = Worker::start(&gateway, "seed-page", &[]);
        gateway.admin().wait_for_workers(2).await;
        assert_eq!(old.sigterm().await.code(), Some(0));
        gateway.admin().wait_for_workers(1).await;
        load.wait_for_more(50).await;
        old = new;
    }
    load.stop().await.assert_all_ok();
}

/// The gateway comes back without its memory; its worker finds it again.
#[tokio::test]
async fn a_worker_finds_a_gateway_that_forgot_it() {
    let config = "[admin]\nregistration_tokens = [\"a-registration-token\"]\n[workers]\nlease = \"3s\"";
    let mut gateway = Gateway::start(config).await;
    let token = [("GEARWAY_TOKEN", "a-registration-token")];
    let worker = Worker::start(&gateway, "seed-page", &token);
    gateway.admin().wait_for_route(PATH).await;
    gateway.kill9();
    std::fs::remove_dir_all(gateway.data_dir()).expect("a data_dir");
    gateway.start_again().await;
    gateway.admin().wait_for_route(PATH).await;
    assert_eq!(gateway.post(PATH, "body").await.status, 200);
    assert!(worker.process().is_running());
}
