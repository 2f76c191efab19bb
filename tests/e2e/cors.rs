//! Contract section 2, `cors.origins`: pages of other origins in a browser.

use gearway_tests::{Answer, Gateway, Registration, Request, Response, ScriptedWorker};
use serde_json::{Value, json};

use crate::expect::{error, serving};

const ORIGIN: &str = "https://app.example.com";

fn preflight(path: &str, origin: &str, method: &str) -> Request {
    Request::new("OPTIONS", path).header("Origin", origin).header("Access-Control-Request-Method", method)
}

fn allowed(response: &Response) -> Option<String> {
    response.header("access-control-allow-origin")
}

#[tokio::test]
async fn listed_origins_may_call_and_read_even_errors() {
    let (gateway, worker) = serving(&format!("[public.cors]\norigins = [\"{ORIGIN}\"]\n"), &[]).await;
    let registration = Registration::new("worker")
        .handler_with(json!({"name": "foo/", "methods": ["GET", "PUT"]}))
        .handler_with(json!({"name": "locked", "key_required": true}));
    worker.register(&gateway, &registration).await;

    let asked =
        preflight("/foo/a", ORIGIN, "PUT").header("Access-Control-Request-Headers", "x-skygear-api-key,x-a");
    let answer = gateway.send(asked).await.expect_status(204);
    assert_eq!(allowed(&answer).as_deref(), Some(ORIGIN));
    assert_eq!(answer.header("access-control-allow-credentials").as_deref(), Some("true"));
    assert_eq!(answer.header("access-control-allow-methods").as_deref(), Some("GET, PUT"));
    assert_eq!(answer.header("access-control-allow-headers").as_deref(), Some("x-skygear-api-key,x-a"));
    assert!(answer.header("access-control-max-age").is_some() && answer.header("x-request-id").is_some());
    // A preflight carries no credentials, and needs none.
    assert_eq!(gateway.send(preflight("/locked", ORIGIN, "POST")).await.status, 204);
    assert!(worker.calls().is_empty());

    for (path, status) in
        [("/foo/a", 200), ("/locked", 401), ("/foo", 301), ("/foo/%2f", 400), ("/none", 200)]
    {
        let response = gateway.send(Request::get(path).header("Origin", ORIGIN)).await.expect_status(status);
        assert_eq!(allowed(&response).as_deref(), Some(ORIGIN), "{path}");
        assert!(response.header_values("vary").iter().any(|value| value == b"origin"), "{path}");
        let response = gateway.send(Request::get(path).header("Origin", "https://evil.example")).await;
        assert_eq!((response.status, allowed(&response)), (status, None), "{path}");
        assert!(response.header_values("vary").iter().any(|value| value == b"origin"), "{path}");
    }
    let refused = gateway.send(preflight("/foo/a", "https://evil.example", "PUT")).await;
    error(&refused, 404, 117, "UndefinedOperation");
    assert_eq!(allowed(&refused), None);
}

#[tokio::test]
async fn a_star_allows_everybody_without_credentials() {
    let (gateway, worker) = serving("[public.cors]\norigins = [\"*\"]\n", &["foo"]).await;
    worker.always(Answer::reply(&json!({"result": {"type": "response", "status": 200, "body": "", "header": {
        "Access-Control-Allow-Origin": ["https://worker.example"], "Access-Control-Allow-Credentials": ["true"]}}})));
    let response = gateway.send(Request::get("/foo").header("Origin", "https://any.example")).await;
    assert_eq!(allowed(&response).as_deref(), Some("*"));
    assert_eq!(response.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn a_handler_that_takes_options_gets_them() {
    let (gateway, worker) = serving(&format!("[public.cors]\norigins = [\"{ORIGIN}\"]\n"), &[]).await;
    let registration =
        Registration::new("worker").handler_with(json!({"name": "foo", "methods": ["OPTIONS"]}));
    worker.register(&gateway, &registration).await;
    let response = gateway.send(preflight("/foo", ORIGIN, "PUT")).await.expect_status(200);
    assert_eq!(allowed(&response).as_deref(), Some(ORIGIN));
    assert_eq!(worker.calls().len(), 1);
}

#[tokio::test]
async fn without_the_key_nothing_changes() {
    let gateway = Gateway::start("").await;
    let worker = ScriptedWorker::start("w");
    worker.register(&gateway, &Registration::new("w").handler("foo")).await;
    let refused = gateway.send(preflight("/foo", ORIGIN, "PUT")).await;
    let shown: Value = error(&refused, 404, 117, "UndefinedOperation");
    assert!(shown["message"].is_string());
    let response = gateway.send(Request::get("/foo").header("Origin", ORIGIN)).await.expect_status(200);
    assert_eq!(allowed(&response), None);
    assert!(response.header_values("vary").is_empty());
}
