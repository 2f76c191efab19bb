//! A worker process and its signals: this file's program starts itself as the worker.

use std::process::Stdio;

use crate::fake_gateway::{Caller, FakeGateway, TOKEN, client};
use gearway_worker::Worker;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// Tells this program to be the worker, and where its handler is to report.
const REPORT: &str = "TEST_REPORT";

/// Not a test: the worker that the tests start.
#[tokio::test(flavor = "multi_thread")]
async fn worker_process() {
    let Ok(report) = std::env::var(REPORT) else { return };
    Worker::from_env()
        .unwrap()
        .handler("held", move || async move {
            let mut connection = TcpStream::connect(report).await.unwrap();
            // The test closes the connection when the handler may end.
            connection.read_to_end(&mut Vec::new()).await.unwrap();
            "done"
        })
        .run()
        .await
        .unwrap();
}

async fn spawn(gateway: &str) -> (Child, TcpListener) {
    let reports = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["signals::worker_process", "--exact", "--nocapture"])
        .env(REPORT, reports.local_addr().unwrap().to_string())
        .env("GEARWAY_GATEWAY", gateway)
        .env("GEARWAY_TOKEN", TOKEN)
        .env("GEARWAY_NAME", "signalled")
        .env("RUST_LOG", "info")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    (child, reports)
}

async fn signal(child: &Child, name: &str) {
    let id = child.id().expect("the worker lives").to_string();
    assert!(
        Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status().await.unwrap().success()
    );
}

async fn until_logged(child: &mut Child, text: &str) {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains(text) {
            return;
        }
    }
    panic!("the worker ended without {text:?} in its log");
}

async fn leaves_after_what_runs(name: &str) {
    let mut gateway = FakeGateway::start().await;
    let (mut child, reports) = spawn(&gateway.url()).await;
    let url = gateway.register("w1", "secret", 60_000).await;
    let call = tokio::spawn(async move { Caller::new(&url, "secret").call("held").await });
    let (connection, _) = reports.accept().await.unwrap();

    signal(&child, name).await;
    let left = gateway.next().await;
    assert_eq!((left.method.as_str(), left.path.as_str()), ("DELETE", "/v1/workers/w1"));
    left.answer(204, Value::Null);
    until_logged(&mut child, "deregistered").await;
    assert!(!call.is_finished() && child.try_wait().unwrap().is_none());

    drop(connection);
    let done = json!({"result": {"type": "text", "value": "done"}});
    assert_eq!(call.await.unwrap(), (200, done));
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn sigterm_leaves_after_what_runs() {
    leaves_after_what_runs("TERM").await;
}

#[tokio::test]
async fn sigint_leaves_after_what_runs() {
    leaves_after_what_runs("INT").await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut gateway = FakeGateway::start().await;
    let (mut child, reports) = spawn(&gateway.url()).await;
    let url = gateway.register("w1", "secret", 60_000).await;
    let call = tokio::spawn(async move {
        let client = client();
        client
            .post(url)
            .bearer_auth("secret")
            .body(crate::fake_gateway::envelope("held"))
            .send()
            .await
            .is_err()
    });
    let (_connection, _) = reports.accept().await.unwrap();
    signal(&child, "TERM").await;
    gateway.next().await.answer(204, Value::Null);
    signal(&child, "TERM").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(1));
    assert!(call.await.unwrap());
}

#[tokio::test]
async fn sigterm_without_a_gateway_ends_with_0() {
    let gateway = FakeGateway::start().await;
    let url = gateway.url();
    gateway.go_away().await;
    let (mut child, _reports) = spawn(&url).await;
    until_logged(&mut child, "cannot reach the gateway").await;
    signal(&child, "TERM").await;
    assert_eq!(child.wait().await.unwrap().code(), Some(0));
}
