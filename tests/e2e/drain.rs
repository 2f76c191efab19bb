//! A gateway that ends cuts no answer, and waits for nobody who does not come.

use gearway_tests::process::Signal;
use gearway_tests::server::{Answer, Gate};
use gearway_tests::{Connection, Request};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::expect::serving;

/// Closing a connection that its client uses would lose the request that is on its way: each gets an answer that says
/// `Connection: close` first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_in_use_end_with_an_answer() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let answered = watch::Sender::new(0_usize);
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        let mut connection = gateway.connect().await;
        let answered = answered.clone();
        clients.spawn(async move {
            while !connection.is_closing() {
                let response = connection.request(&Request::post("/foo", "x")).await.expect("an answer");
                drop(response.expect_status(200));
                answered.send_modify(|answered| *answered += 1);
            }
            assert_eq!(connection.read_to_end().await, b"");
        });
    }
    answered.subscribe().wait_for(|answered| *answered > 200).await.expect("the test holds the sender");
    gateway.process().signal(Signal::TERM);
    while let Some(client) = clients.join_next().await {
        client.expect("no client loses a request");
    }
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
}

/// An idle connection is not closed at once, for its client may just be sending; nor is it waited for until the end of
/// `drain_timeout`.
#[tokio::test]
async fn an_idle_connection_has_a_moment_to_send() {
    let (gateway, worker) = serving("[public]\ndrain_timeout = \"24h\"", &["foo", "slow"]).await;
    let gate = Gate::default();
    let held = gate.clone();
    worker.script(move |call| match call.envelope["name"].as_str() {
        Some("slow") => Answer::text("slow").after(&held),
        _ => Answer::text("quick"),
    });
    let mut waking = gateway.connect().await;
    let mut silent = gateway.connect().await;
    for connection in [&mut waking, &mut silent] {
        drop(connection.request(&Request::get("/foo")).await.expect("an answer").expect_status(200));
        assert!(!connection.is_closing());
    }
    let address = gateway.public_address();
    let running = tokio::spawn(async move {
        let mut connection = Connection::open(address).await;
        let response = connection.request(&Request::get("/slow")).await.expect("an answer");
        (response.expect_status(200), connection.is_closing())
    });
    worker.call(2).await;
    gateway.process().signal(Signal::TERM);
    gateway.wait_for_log("the drain begins", |line| line.contains("draining")).await;
    drop(waking.request(&Request::get("/foo")).await.expect("an answer").expect_status(200));
    assert!(waking.is_closing());
    assert_eq!(silent.read_to_end().await, b"");
    assert!(gateway.process().is_running(), "it waits for what runs");
    gate.open();
    let (response, closes) = running.await.expect("no panic");
    assert_eq!(response.text(), "slow");
    assert!(closes);
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
}
