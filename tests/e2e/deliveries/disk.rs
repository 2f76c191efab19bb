//! Disks that fail or are full: no false acknowledgement, and a way back.

use std::collections::BTreeMap;

use gearway_tests::disk::{FailingDisk, SmallDisk, skipped, strace_is_there};
use gearway_tests::server::Answer;
use gearway_tests::webhooks::{DeliveryWorkers, Senders, doubled, lost, wait_until_delivered};
use gearway_tests::{Gateway, Registration, Request, ScriptedWorker, gateway::Builder, wait};
use serde_json::json;

use super::{PATH, delivering, delivery_id, listed, registration, wait_for_state};
use crate::expect;

const SENDERS: usize = 8;

/// Under load the disk begins to fail: the gateway ends by itself, and once it runs again everything that it acknowledged before,
/// or meanwhile, reaches a worker.
async fn fails_under_load(file: &str, call: &str, provoke: impl AsyncFn(&Gateway)) {
    if !strace_is_there() {
        return;
    }
    let mut gateway = Gateway::start("").await;
    let workers = DeliveryWorkers::default();
    let _running = workers.start_routed(&gateway, 1).await;
    let senders = Senders::start(gateway.public_address(), SENDERS);
    senders.wait_for_more(50).await;
    let disk = FailingDisk::attach(gateway.process().id(), &gateway.data_dir().join(file), call).await;
    provoke(&gateway).await;
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(1));
    let lines = gateway.process().all_lines().await;
    let named = file.trim_end_matches("-wal");
    assert!(
        lines.iter().any(|line| line.contains("takes nothing more") && line.contains(named)),
        "{lines:#?}"
    );
    drop(disk);
    gateway.start_again().await;
    senders.wait_for_more(50).await;
    let acknowledged = senders.stop().await;
    wait_until_delivered(&gateway.data_dir()).await;
    let runs = workers.runs();
    assert_eq!((lost(&acknowledged, &runs), doubled(&runs)), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_sync_of_the_log_fails() {
    fails_under_load("deliveries.db-wal", "fsync,fdatasync", async |_| {}).await;
}

#[tokio::test]
async fn a_write_to_the_log_fails() {
    fails_under_load("deliveries.db-wal", "pwrite64", async |_| {}).await;
}

/// What is moved from the write-ahead log into the file was acknowledged long ago, and is not given up for it.
#[tokio::test]
async fn the_log_cannot_be_merged_into_its_file() {
    let grow = async |gateway: &Gateway| {
        // Until it is merged; nobody answers once the gateway goes.
        let large = Request::post("/hook", "x".repeat(8 << 20));
        while large.try_send(gateway.public_address()).await.is_ok_and(|response| response.status == 200) {}
    };
    fails_under_load("deliveries.db", "fsync,fdatasync", grow).await;
    fails_under_load("deliveries.db", "pwrite64", grow).await;
}

/// A registration that was answered with 201 is there after the next start; one whose sync failed was not answered so, and the gateway
/// ends.
#[tokio::test]
async fn the_store_fails() {
    if !strace_is_there() {
        return;
    }
    for call in ["fsync,fdatasync", "pwrite64"] {
        let mut gateway = Gateway::start("").await;
        let worker = ScriptedWorker::start("worker");
        worker.register(&gateway, &Registration::new("before").handler("before")).await;
        let file = gateway.data_dir().join("gearway.db-wal");
        let disk = FailingDisk::attach(gateway.process().id(), &file, call).await;
        let token = gateway.registration_token();
        let after = Registration::new("after").handler("after");
        let refused = worker.try_register(&gateway, &after, Some(&token)).await;
        assert!(refused.status >= 500, "{refused:?}");
        assert_eq!(gateway.process().wait_for_exit().await.code(), Some(1));
        drop(disk);
        gateway.start_again().await;
        let names: Vec<_> = gateway.admin().workers().await.into_iter().map(|worker| worker.name).collect();
        assert!(names.contains(&"before".to_owned()), "{names:?}");
        worker.register(&gateway, &after).await;
        drop(gateway.post("/after", "x").await.expect_status(200));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_recovers() {
    let config = "[admin]\ntokens = [\"admin\"]\nregistration_tokens = [\"register\"]";
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("small");
    let disk = match SmallDisk::mount(&data, "6m") {
        Ok(disk) => disk,
        Err(reason) => {
            skipped(&format!("no file system can be mounted: {reason}"));
            return;
        }
    };
    let config = format!("data_dir = {:?}\n{config}", data.display().to_string());
    let gateway = Builder::default().config(&config).start().await;
    let worker = ScriptedWorker::start("worker");
    let durable = registration(&json!({"mode": "durable"}));
    drop(worker.try_register(&gateway, &durable, Some("register")).await.expect_status(201));
    worker.server().refuse().await;
    let body = "x".repeat(100_000);
    let mut acknowledged = Vec::new();
    let refused = loop {
        let response = gateway.post(PATH, body.clone()).await;
        match response.status {
            200 => acknowledged.push(delivery_id(&response)),
            _ => break response,
        }
    };
    let error = expect::not_run(&refused);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("full")), "{error}");
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    expect::not_run(&gateway.post(PATH, body.clone()).await);
    disk.resize("64m");
    acknowledged.push(delivery_id(&gateway.post(PATH, body).await.expect_status(200)));
    worker.server().accept();
    wait::until("everything is delivered", async || {
        let mut runs: BTreeMap<String, usize> = BTreeMap::new();
        for call in worker.calls() {
            let id = call.envelope["context"]["delivery"]["id"].as_str().unwrap_or_default().to_owned();
            *runs.entry(id).or_default() += 1;
        }
        assert!(runs.values().all(|times| *times == 1), "{runs:?}");
        acknowledged.iter().all(|id| runs.contains_key(id)).then_some(())
    })
    .await;
    assert!(gateway.sigterm().await.success());
}

/// At `webhooks.max_stored` nothing is promised any more; what was delivered makes room for what comes.
#[tokio::test]
async fn a_full_log_refuses_and_recovers() {
    let (gateway, worker) =
        delivering("[webhooks]\nmax_stored = \"1MiB\"", &json!({"mode": "durable"})).await;
    worker.server().refuse().await;
    let body = "x".repeat(100_000);
    let mut kept = 0;
    let refused = loop {
        let response = gateway.post(PATH, body.clone()).await;
        match response.status {
            200 => kept += 1,
            _ => break response,
        }
    };
    let error = expect::not_run(&refused);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("max_stored")), "{error}");
    assert!((5..=11).contains(&kept), "{kept}");
    worker.server().accept();
    worker.call(kept - 1).await;
    wait::until("there is room again", async || {
        (gateway.post(PATH, body.clone()).await.status == 200).then_some(())
    })
    .await;
    wait_for_state(&gateway, "pending", 0).await;
}

/// A log that was full once gives up as much as makes room, and not everything that operators could still look at.
#[tokio::test]
async fn a_full_log_keeps_what_it_has_room_for() {
    const HALF: f64 = 4.0 * 1024.0 * 1024.0;
    let (gateway, worker) =
        delivering("[webhooks]\nmax_stored = \"8MiB\"", &json!({"mode": "durable"})).await;
    worker.always(Answer::text("done"));
    let body = "x".repeat(10_000);
    let mut kept = 0;
    while gateway.post(PATH, body.clone()).await.status == 200 {
        kept += 1;
    }
    assert!(kept > 400, "{kept}");
    // Counted again once room was made, and nobody has been refused since.
    wait::until("half of it is still there", async || {
        let metrics = gateway.admin().get("/metrics").await.text();
        let stored = metrics.lines().find_map(|line| line.strip_prefix("gearway_deliveries_stored_bytes "));
        let stored: f64 = stored.and_then(|stored| stored.trim().parse().ok()).unwrap_or(0.0);
        (stored > HALF).then_some(())
    })
    .await;
    assert!(listed(&gateway, "limit=1000").await.len() > kept / 2);
}

/// What was delivered goes once `webhooks.retention` is over; what was not stays, for a worker that may come.
#[tokio::test]
async fn what_was_delivered_goes_after_its_retention() {
    let (gateway, worker) = delivering("[webhooks]\nretention = \"0s\"", &json!({"mode": "durable"})).await;
    let away = ScriptedWorker::start("away");
    let handler = json!({"name": "away", "delivery": {"mode": "durable"}});
    away.register(&gateway, &Registration::new("away").handler_with(handler)).await;
    away.server().refuse().await;
    let waiting = delivery_id(&gateway.post("/away", "x").await.expect_status(200));
    for number in 0..5 {
        drop(gateway.post(PATH, number.to_string()).await.expect_status(200));
    }
    worker.call(4).await;
    wait_for_state(&gateway, "delivered", 0).await;
    let pending = wait_for_state(&gateway, "pending", 1).await;
    assert_eq!(pending[0]["id"], json!(waiting));
    away.server().accept();
    assert_eq!(away.call(0).await.envelope["context"]["delivery"]["id"], json!(waiting));
}
