//! Workers that cannot register themselves, in Skygear's dialect: contract sections 2 and 5.

use gearway_tests::{Answer, Call, Gateway, ScriptedWorker, wait};
use serde_json::json;

use crate::expect::{self, not_run, unmatched};

fn plugin(worker: &ScriptedWorker) -> String {
    format!(
        "[workers]\npark = \"50ms\"\n[[plugin]]\nname = \"legacy\"\nurl = \"{}\"\nprotocol = \"skygear-v1\"\n",
        worker.url()
    )
}

/// What Skygear's Python package answers, with the handler's own envelope as its result.
fn legacy(call: &Call, handlers: &serde_json::Value) -> Answer {
    if call.envelope["kind"] == "event" {
        return Answer::reply(&json!({"result": {"handler": handlers, "op": [], "hook": [], "timer": [],
            "event": [{"name": "init"}], "provider": []}}));
    }
    let body = gearway_protocol::Base64Body::encode(call.envelope.to_string().as_bytes());
    Answer::reply(
        &json!({"result": {"status": 200, "header": {"Content-Type": ["application/json"]}, "body": body}}),
    )
}

#[tokio::test]
async fn routes_come_from_the_init_event_which_is_asked_until_it_answers() {
    let worker = ScriptedWorker::start("legacy");
    worker.always(Answer::status(500, "not yet"));
    let gateway = Gateway::start(&plugin(&worker)).await;
    let init = worker.call(1).await;
    assert_eq!(init.envelope["kind"], "event");
    assert_eq!(init.envelope["name"], "init");
    assert_eq!(init.envelope["param"], json!({"config": {}}));
    not_run(&gateway.post("/foo", "x").await);
    unmatched(&gateway.get("/foo").await);

    let handlers = json!([
        {"name": "foo", "methods": ["GET"], "key_required": false, "user_required": false},
        {"name": "foo", "methods": ["POST"], "key_required": false, "user_required": false},
        {"name": "chat:a/", "methods": ["GET"]},
        {"name": "lit/{id}", "methods": ["GET"]},
        {"name": "user", "methods": ["GET"], "user_required": true},
    ]);
    worker.script(move |call| legacy(call, &handlers));
    gateway.admin().wait_for_route("/foo").await;

    let envelope = gateway.post("/foo?x=1", "hello").await.expect_status(200).json();
    let param = &envelope["param"];
    assert_eq!((&envelope["kind"], &envelope["name"]), (&json!("handler"), &json!("foo")));
    assert_eq!((&param["method"], &param["path"]), (&json!("POST"), &json!("/foo")));
    assert_eq!((&param["query_string"], &param["body"]), (&json!("x=1"), &json!("aGVsbG8=")));
    assert_eq!(param["header"]["Content-Length"], json!(["5"]));
    assert!(envelope["context"]["request_id"].is_string());
    assert_eq!(gateway.get("/chat/a/b").await.expect_status(200).json()["name"], "chat:a/");
    // Skygear knew no parameters: braces are letters.
    assert_eq!(gateway.get("/lit/%7Bid%7D").await.expect_status(200).json()["name"], "lit/{id}");
    unmatched(&gateway.get("/lit/7").await);
    expect::error(&gateway.get("/user").await, 401, 101, "NotAuthenticated");
    assert_eq!(gateway.admin().workers().await[0].name, "legacy");
}

#[tokio::test]
async fn an_error_keeps_its_code_and_loses_its_traceback() {
    let worker = ScriptedWorker::start("legacy");
    let handlers = json!([{"name": "foo", "methods": ["GET"]}]);
    worker.script(move |call| match call.envelope["kind"].as_str() {
        Some("event") => legacy(call, &handlers),
        _ => Answer::reply(&json!({"error": {"code": 110, "message": "no such thing",
            "info": {"trace": "Traceback (most recent call last)", "id": 7}}})),
    });
    let gateway = Gateway::start(&plugin(&worker)).await;
    gateway.admin().wait_for_route("/foo").await;
    let response = gateway.get("/foo").await;
    let error = expect::error(&response, 404, 110, "ResourceNotFound");
    assert_eq!(error["message"], "no such thing");
    assert!(!response.text().contains("Traceback"), "{response:?}");
}

/// The dialect belongs to the worker, and is never guessed from a reply.
#[tokio::test]
async fn a_reply_in_the_other_dialect_is_nonsense() {
    let worker = ScriptedWorker::start("legacy");
    let handlers = json!([{"name": "foo", "methods": ["GET"]}]);
    worker.script(move |call| match call.envelope["kind"].as_str() {
        Some("event") => legacy(call, &handlers),
        _ => Answer::text("in the newer dialect"),
    });
    let gateway = Gateway::start(&plugin(&worker)).await;
    gateway.admin().wait_for_route("/foo").await;
    expect::error(&gateway.get("/foo").await, 502, 130, "UnexpectedError");
}

#[tokio::test]
async fn a_plugin_that_comes_back_is_asked_again() {
    let worker = ScriptedWorker::start("legacy");
    let serve = |name: &str| {
        let handlers = json!([{"name": name, "methods": ["GET"]}]);
        worker.script(move |call| legacy(call, &handlers));
    };
    serve("before");
    let gateway = Gateway::start(&plugin(&worker)).await;
    gateway.admin().wait_for_route("/before").await;
    worker.server().refuse().await;
    not_run(&gateway.get("/before").await);
    serve("after");
    worker.server().accept();
    wait::until("the new routes are known", async || {
        (gateway.get("/after").await.json()["name"] == "after").then_some(())
    })
    .await;
    unmatched(&gateway.get("/before").await);
}
