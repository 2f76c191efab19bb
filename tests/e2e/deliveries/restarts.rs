//! What is pending outlives the process, however it ends.

use gearway_tests::gateway::is_running;
use gearway_tests::kills::Kills;
use gearway_tests::process::Signal;
use gearway_tests::server::{Answer, Gate};
use gearway_tests::webhooks::{DeliveryWorkers, Known, Senders, doubled, lost, wait_until_delivered};
use gearway_tests::{Gateway, wait};
use serde_json::json;

use super::{PATH, delivering, delivery_id};

/// SIGKILL at random instants under load, with workers that are killed too: whatever was acknowledged reaches a worker, what was
/// recorded as delivered never comes again, and what comes again was under way at a kill and carries the same id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_kill_loses_what_was_acknowledged() {
    const KILLS: usize = 50;
    let mut kills = Kills::start(7).await;
    for _ in 0..KILLS {
        kills.kill().await;
    }
    let outcome = kills.finish().await;
    println!("{outcome:#?}");
    assert!(outcome.broken_promises.is_empty(), "{outcome:#?}");
    assert!(outcome.repeated <= outcome.in_flight, "{outcome:#?}");
    // A run that no kill has hurt would show nothing.
    assert!(
        outcome.acknowledged > KILLS && outcome.in_flight > 0 && outcome.workers_killed > 0,
        "{outcome:#?}"
    );
}

/// SIGTERM lets what is under way finish, keeps what is not for the next start, and exits 0.
#[tokio::test]
async fn a_drain_finishes_what_runs_and_keeps_the_rest() {
    let (mut gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    // A worker gets 32 at a time, and one route half of them.
    const AT_ONCE: usize = 16;
    const MORE_THAN_AT_ONCE: usize = 50;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut ids = Vec::new();
    for number in 0..MORE_THAN_AT_ONCE {
        ids.push(delivery_id(&gateway.post(PATH, number.to_string()).await.expect_status(200)));
    }
    wait::until("the worker has all that it gets", async || (worker.calls().len() == AT_ONCE).then_some(()))
        .await;
    gateway.process().signal(Signal::TERM);
    gateway.wait_for_log("it drains", |line| line.contains("draining")).await;
    gate.open();
    assert!(gateway.process().wait_for_exit().await.success());
    assert_eq!(worker.calls().len(), AT_ONCE, "nothing more begins");
    assert_eq!(Known::read(&gateway.data_dir(), 0).pending.len(), MORE_THAN_AT_ONCE - AT_ONCE);
    gateway.start_again().await;
    wait_until_delivered(&gateway.data_dir()).await;
    let mut ran: Vec<_> = worker
        .calls()
        .iter()
        .map(|call| call.envelope["context"]["delivery"]["id"].as_str().unwrap_or_default().to_owned())
        .collect();
    ran.sort();
    ids.sort();
    assert_eq!(ran, ids, "each ran once");
}

/// SIGUSR2 under load, with calls under way and others waiting: nothing is lost, and nothing that ended runs again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_loses_nothing_and_repeats_nothing() {
    let gateway = Gateway::start("").await;
    let workers = DeliveryWorkers::default();
    let _running = workers.start_routed(&gateway, 2).await;
    let senders = Senders::start(gateway.public_address(), 16);
    for _ in 0..3 {
        senders.wait_for_more(200).await;
        let before = gateway.current_pid();
        gateway.upgrade().await;
        senders.wait_for_more(200).await;
        wait::until("the process before ends", async || (!is_running(before)).then_some(())).await;
    }
    let acknowledged = senders.stop().await;
    wait_until_delivered(&gateway.data_dir()).await;
    let runs = workers.runs();
    assert_eq!((lost(&acknowledged, &runs), doubled(&runs)), (Vec::new(), Vec::new()));
    assert!(runs.iter().all(|run| run.attempt == 1), "{runs:#?}");
    assert_eq!(runs.len(), acknowledged.len(), "each ran once");
}

/// What the old process has under way is not taken up by the new one, however long it takes.
#[tokio::test]
async fn what_runs_during_an_upgrade_runs_once() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let slow = delivery_id(&gateway.post(PATH, "slow").await.expect_status(200));
    worker.call(0).await;
    gateway.upgrade().await;
    worker.always(Answer::text("done"));
    let quick = delivery_id(&gateway.post(PATH, "quick").await.expect_status(200));
    assert_eq!(worker.call(1).await.envelope["context"]["delivery"]["id"], json!(quick));
    gate.open();
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
    wait_until_delivered(&gateway.data_dir()).await;
    assert!(Known::read(&gateway.data_dir(), 0).delivered.contains(&slow));
    assert_eq!(worker.calls().len(), 2);
}
