//! Contract section 10, from "Delivery modes" on: what is acknowledged is delivered.

mod disk;
mod operators;
mod restarts;
mod routes;

use gearway_tests::server::{Answer, Gate};
use gearway_tests::{Gateway, Registration, Request, Response, ScriptedWorker, gateway, process, wait};
use serde_json::{Value, json};

use crate::expect;

const PATH: &str = "/pay/stripe";

/// A gateway, and a worker whose one handler asks for this delivery.
async fn delivering(config: &str, delivery: &Value) -> (Gateway, ScriptedWorker) {
    let gateway = Gateway::start(config).await;
    let worker = ScriptedWorker::start("worker");
    worker.register(&gateway, &registration(delivery)).await;
    (gateway, worker)
}

fn registration(delivery: &Value) -> Registration {
    Registration::new("worker").handler_with(json!({"name": PATH, "delivery": delivery}))
}

#[track_caller]
fn delivery_id(response: &Response) -> String {
    response.header("x-gearway-delivery").unwrap_or_else(|| panic!("no X-Gearway-Delivery: {response:?}"))
}

#[tokio::test]
async fn durable_is_acknowledged_first_and_delivered_as_it_came() {
    let ack = json!({"status": 202, "body": {"kept": true}});
    let (gateway, worker) = delivering("", &json!({"mode": "durable", "ack": ack})).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let request =
        Request::post(&format!("{PATH}?a=1&b=%20"), [0, 1, 0xFF]).header("X-A", "1").header("X-A", "2");
    let response =
        gateway.send(request.header("Authorization", "Basic d2ViOmhvb2s=")).await.expect_status(202);
    assert_eq!(response.json(), json!({"kept": true}));
    assert_eq!(response.header("content-type").as_deref(), Some("application/json"));

    let call = worker.call(0).await;
    let param = &call.envelope["param"];
    assert_eq!((&param["method"], &param["path"]), (&json!("POST"), &json!(PATH)));
    assert_eq!((&param["query_string"], &param["body"]), (&json!("a=1&b=%20"), &json!("AAH/")));
    assert_eq!(param["header"]["X-A"], json!(["1", "2"]));
    assert_eq!(param["header"]["Content-Length"], json!(["3"]));
    assert_eq!(param["header"]["Host"], json!([gateway.public_address().to_string()]));
    assert_eq!(param["header"]["Authorization"], json!(["Basic d2ViOmhvb2s="]));
    assert_eq!(param["remote_addr"], "127.0.0.1");
    let context = &call.envelope["context"];
    assert_eq!(context["request_id"], json!(response.header("x-request-id")));
    let delivery = &context["delivery"];
    assert_eq!(delivery["id"], json!(delivery_id(&response)));
    assert_eq!((&delivery["attempt"], &delivery["replay_of"]), (&json!(1), &Value::Null));
    assert_eq!(delivery["verification"], Value::Null);
    let received_at = delivery["received_at"].as_str().unwrap_or_default();
    assert!(received_at.ends_with('Z') && received_at.starts_with("20"), "{delivery}");
    gate.open();
}

#[tokio::test]
async fn sync_keeps_nothing() {
    let (gateway, worker) = delivering("", &json!({"mode": "sync"})).await;
    let response = gateway.post(PATH, "x").await.expect_status(200);
    assert_eq!(response.header("x-gearway-delivery"), None);
    assert_eq!(worker.call(0).await.envelope["context"]["delivery"], Value::Null);
    worker.server().refuse().await;
    expect::not_run(&gateway.post(PATH, "x").await);
}

#[tokio::test]
async fn who_calls_is_known_to_the_delivery_and_their_credentials_are_not() {
    let gateway =
        Gateway::start("[auth]\nclient_keys = [\"canary-key\"]\nmaster_keys = [\"canary-master\"]").await;
    let worker = ScriptedWorker::start("worker");
    let handler =
        json!({"name": PATH, "key_required": true, "user_required": true, "delivery": {"mode": "durable"}});
    worker.register(&gateway, &Registration::new("worker").handler_with(handler)).await;
    expect::error(&gateway.post(PATH, "x").await, 401, 101, "NotAuthenticated");
    let request = Request::post(PATH, "x").api_key("canary-master").header("X-Gearway-User-Id", "alice");
    drop(gateway.send(request).await.expect_status(200));
    let call = worker.call(0).await;
    let context = &call.envelope["context"];
    assert_eq!((&context["user_id"], &context["access_key_type"]), (&json!("alice"), &json!("master")));
    assert!(!call.envelope.to_string().contains("canary"), "{}", call.envelope);
    assert!(gateway.sigterm().await.success());
    for file in ["deliveries.db", "deliveries.db-wal"] {
        let bytes = std::fs::read(gateway.data_dir().join(file)).unwrap_or_default();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{file}");
    }
}

#[tokio::test]
async fn without_a_worker_it_waits_and_no_attempt_is_used_up() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable", "attempts": 1})).await;
    worker.server().refuse().await;
    let ids: Vec<_> = [gateway.post(PATH, "1").await, gateway.post(PATH, "2").await]
        .map(|response| delivery_id(&response.expect_status(200)))
        .into();
    worker.server().accept();
    for number in 0..2 {
        let delivery = worker.call(number).await.envelope["context"]["delivery"].clone();
        assert!(ids.contains(&delivery["id"].as_str().unwrap_or_default().to_owned()), "{delivery}");
        assert_eq!(delivery["attempt"], 1, "{delivery}");
    }
}

#[tokio::test]
async fn what_is_acknowledged_outlives_the_gateway() {
    let (mut gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    worker.server().refuse().await;
    let body = "x".repeat(100_000);
    let id = delivery_id(&gateway.post(PATH, body.clone()).await.expect_status(200));
    gateway.kill9();
    worker.echo_bodies();
    worker.server().accept();
    gateway.start_again().await;
    let call = worker.call(0).await;
    assert_eq!(call.envelope["context"]["delivery"]["id"], json!(id));
    assert_eq!(call.envelope["param"]["body"].as_str().map(str::len), Some(body.len().div_ceil(3) * 4));
}

#[tokio::test]
async fn a_failure_is_tried_again_when_the_worker_says() {
    let (gateway, worker) = delivering("", &json!({"mode": "durable"})).await;
    let refusal =
        json!({"result": {"type": "response", "status": 503, "header": {"Retry-After": ["1"]}, "body": ""}});
    worker.script(move |call| match call.envelope["context"]["delivery"]["attempt"].as_u64() {
        Some(1) => Answer::reply(&refusal),
        _ => Answer::text("done"),
    });
    let id = delivery_id(&gateway.post(PATH, "x").await.expect_status(200));
    for (number, attempt) in [(0, 1), (1, 2)] {
        let call = worker.call(number).await;
        let delivery = &call.envelope["context"]["delivery"];
        assert_eq!((&delivery["id"], &delivery["attempt"]), (&json!(id), &json!(attempt)));
    }
}

#[tokio::test]
async fn deadline_relays_what_comes_in_time_whatever_its_status() {
    let (gateway, worker) = delivering("", &json!({"mode": "deadline", "ack_after_ms": 30_000})).await;
    let teapot =
        json!({"result": {"type": "response", "status": 418, "header": {"X-A": ["1"]}, "body": "dGVh"}});
    worker.always(Answer::reply(&teapot));
    let response = gateway.post(PATH, "x").await.expect_status(418);
    assert_eq!((response.text().as_str(), response.header("x-a").as_deref()), ("tea", Some("1")));
    let id = delivery_id(&response);
    assert_eq!(worker.call(0).await.envelope["context"]["delivery"]["id"], json!(id));

    worker.always(Answer::reply(&json!({"error": {"code": 110, "message": "no such order"}})));
    let response = gateway.post(PATH, "x").await;
    expect::error(&response, 404, 110, "ResourceNotFound");
    delivery_id(&response);
}

#[tokio::test]
async fn deadline_acknowledges_what_does_not_and_the_delivery_goes_on() {
    let delivery = json!({"mode": "deadline", "ack_after_ms": 100, "ack": {"body": "later"}});
    let (gateway, worker) = delivering("", &delivery).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let response = gateway.post(PATH, "slow").await.expect_status(200);
    assert_eq!(response.text(), "later");
    let id = delivery_id(&response);
    let call = worker.call(0).await;
    assert_eq!(call.envelope["context"]["delivery"]["id"], json!(id));
    gate.open();

    // A worker that cannot be reached has not answered.
    worker.server().refuse().await;
    let response = gateway.post(PATH, "away").await.expect_status(200);
    assert_eq!(response.text(), "later");
    let id = delivery_id(&response);
    worker.always(Answer::text("done"));
    worker.server().accept();
    assert_eq!(worker.call(1).await.envelope["context"]["delivery"]["id"], json!(id));
}

#[tokio::test]
async fn copies_run_once_and_get_the_first_ones_answer() {
    let delivery = json!({"mode": "deadline", "ack_after_ms": 30_000, "dedup": "X-Event"});
    let (mut gateway, worker) = delivering("", &delivery).await;
    let gate = Gate::default();
    worker.always(Answer::text("first").after(&gate));
    let event = |id: &str| Request::post(PATH, "x").header("X-Event", id);
    let (first, copy, ()) = tokio::join!(gateway.send(event("1")), gateway.send(event("1")), async {
        worker.call(0).await;
        gate.open();
    });
    let later = gateway.send(event("1")).await;
    gateway.kill9();
    gateway.start_again().await;
    let after_restart = gateway.send(event("1")).await;
    let id = delivery_id(&first);
    for response in [first, copy, later, after_restart] {
        assert_eq!((response.status, response.text().as_str()), (200, "first"), "{response:?}");
        assert_eq!(delivery_id(&response), id);
    }
    worker.always(Answer::text("second"));
    assert_eq!(gateway.send(event("2")).await.text(), "second");
    assert_eq!(gateway.post(PATH, "no event").await.text(), "second");
    assert_eq!(gateway.post(PATH, "no event").await.text(), "second");
    assert_eq!(worker.calls().len(), 4);
}

#[tokio::test]
async fn a_refusal_that_reached_the_caller_is_not_remembered() {
    let delivery = json!({"mode": "deadline", "ack_after_ms": 30_000, "dedup": "X-Event"});
    let (gateway, worker) = delivering("", &delivery).await;
    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 500, "body": ""}})));
    let event = Request::post(PATH, "x").header("X-Event", "1");
    drop(gateway.send(event.clone()).await.expect_status(500));
    worker.always(Answer::text("well"));
    assert_eq!(gateway.send(event.clone()).await.expect_status(200).text(), "well");
    assert_eq!(gateway.send(event).await.expect_status(200).text(), "well");
    assert_eq!(worker.calls().len(), 2);
}

/// The deliveries that the admin listener shows for a query.
async fn listed(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.admin().get(&format!("/v1/deliveries?{query}")).await.expect_status(200).json();
    answer["deliveries"].as_array().cloned().unwrap_or_default()
}

async fn wait_for_state(gateway: &Gateway, state: &str, number: usize) -> Vec<Value> {
    wait::until(&format!("{number} are {state}"), async || {
        let found = listed(gateway, &format!("state={state}&limit=1000")).await;
        (found.len() == number).then_some(found)
    })
    .await
}

/// Contract section 10 and the promise to those who upgrade: neither file is guessed at, overwritten or set aside.
#[tokio::test]
async fn a_database_that_cannot_be_used_is_refused_by_name() {
    let (gateway, _worker) = delivering("", &json!({"mode": "durable"})).await;
    drop(gateway.post(PATH, "x").await.expect_status(200));
    assert!(gateway.sigterm().await.success());
    for name in ["deliveries.db", "gearway.db"] {
        let file = gateway.data_dir().join(name);
        let good = std::fs::read(&file).expect("a database");
        let mut newer = good.clone();
        // The header's user version, as SQLite documents it.
        newer[60..64].copy_from_slice(&1000_u32.to_be_bytes());
        let mut damaged = good.clone();
        damaged[100..8192].fill(0xFF);
        let no_database = b"this is no database, and long enough to show it".repeat(100);
        let cases = [
            (newer, "was written by a newer gearway", "start that version, or restore a backup"),
            (damaged, "is damaged", "restore a backup, or move it away"),
            (no_database, "is damaged", "restore a backup, or move it away"),
        ];
        for (bytes, what, to_do) in cases {
            std::fs::write(&file, &bytes).expect("a writable file");
            let refused = process::run(serve(&gateway)).await;
            let output = refused.output();
            assert_eq!(refused.code(), 1, "{output}");
            for said in [file.to_str().expect("a path in UTF-8"), what, to_do] {
                assert!(output.contains(said), "{name}, {what}: {said:?} is missing in {output}");
            }
            assert_eq!(std::fs::read(&file).expect("a database"), bytes, "a refused file stays as it is");
        }
        std::fs::write(&file, &good).expect("a writable file");
    }
}

fn serve(gateway: &Gateway) -> std::process::Command {
    let mut command = gateway::gearway(&["serve", "--config"]);
    command.arg(gateway.config_path());
    command
}
