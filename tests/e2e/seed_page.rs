//! The seed page, "Custom HTTP Endpoint", row by row: each of its sentences asked of the real sample worker.

use gearway_tests::{Gateway, Request, Response, Worker};
use serde_json::{Value, json};

use crate::expect::{self, redirect, unmatched};

const CONFIG: &str = "[auth]\nclient_keys = [\"your-api-key\"]\n";

async fn seed_page() -> (Gateway, Worker) {
    let gateway = Gateway::start(CONFIG).await;
    let worker = Worker::start_routed(&gateway, "seed-page", "/abc/def").await;
    (gateway, worker)
}

/// What is expected of one row.
enum Expected {
    Text(&'static str),
    Json(Value),
    /// Nobody's: `{"result":{"status":"OK"}}`.
    Unmatched,
    RedirectTo(&'static str),
}

#[tokio::test]
async fn names_take_the_paths_that_the_page_says() {
    let (gateway, _worker) = seed_page().await;
    for (path, expected) in [
        // foo: exactly this path.
        ("/foo", Expected::Text("exactly /foo")),
        ("/foo/", Expected::Unmatched),
        ("/foo/bar", Expected::Unmatched),
        // tree/: this path and all below.
        ("/tree/", Expected::Text("/tree/ is /tree/ or below")),
        ("/tree/a", Expected::Text("/tree/a is /tree/ or below")),
        ("/tree/a/", Expected::Text("/tree/a/ is /tree/ or below")),
        ("/tree/a/b", Expected::Text("/tree/a/b is /tree/ or below")),
        ("/tree", Expected::RedirectTo("/tree/")),
        ("/tree?x=1", Expected::RedirectTo("/tree/?x=1")),
        // abc/def overrides abc/.
        ("/abc/def", Expected::Text("exactly /abc/def")),
        ("/abc/", Expected::Text("/abc/ or below")),
        ("/abc/deg", Expected::Text("/abc/ or below")),
        ("/abc/def/", Expected::Text("/abc/ or below")),
        ("/abc", Expected::RedirectTo("/abc/")),
        // A route that is not recognized, and the endpoint itself.
        ("/nobody", Expected::Unmatched),
        ("/", Expected::Unmatched),
    ] {
        check(path, &gateway.get(path).await, expected);
    }
}

#[tokio::test]
async fn methods_are_allowed_as_the_page_says() {
    let (gateway, _worker) = seed_page().await;
    for method in ["GET", "POST", "PUT"] {
        let response = gateway.send(Request::new(method, "/foo")).await;
        check(method, &response, Expected::Text("exactly /foo"));
    }
    for method in ["DELETE", "PATCH", "OPTIONS"] {
        let response = gateway.send(Request::new(method, "/foo")).await;
        expect::error(&response, 404, 117, "UndefinedOperation");
    }
    check("GET", &gateway.get("/my_endpoint").await, Expected::Text("got"));
    check("POST", &gateway.post("/my_endpoint", "this").await, Expected::Text("posted this"));
    expect::error(&gateway.send(Request::new("PUT", "/my_endpoint")).await, 404, 117, "UndefinedOperation");
    let deleted = gateway.send(Request::new("DELETE", "/item")).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
}

#[tokio::test]
async fn only_authenticated_users_reach_what_requires_them() {
    let (gateway, _worker) = seed_page().await;
    let token = gateway.admin().create_token("alice", "1h").await.token;
    let get = || Request::get("/private");
    let both = gateway.send(get().api_key("your-api-key").access_token(&token)).await;
    check("key and token", &both, Expected::Json(json!("alice")));
    for request in [get(), get().api_key("your-api-key"), get().access_token(&token)] {
        expect::error(&gateway.send(request).await, 401, 101, "NotAuthenticated");
    }
    let bad_key = gateway.send(get().api_key("another-key").access_token(&token)).await;
    expect::error(&bad_key, 401, 103, "AccessKeyNotAccepted");
    let bad_token = gateway.send(get().api_key("your-api-key").access_token("another-token")).await;
    expect::error(&bad_token, 401, 104, "AccessTokenNotAccepted");
    check(
        "key",
        &gateway.send(Request::get("/keyed").api_key("your-api-key")).await,
        Expected::Text("a known API key"),
    );
    expect::error(&gateway.get("/keyed").await, 401, 101, "NotAuthenticated");
}

#[tokio::test]
async fn arguments_are_read_as_the_page_says() {
    let (gateway, _worker) = seed_page().await;
    let form =
        |body: &str| Request::post("/form", body).header("Content-Type", "application/x-www-form-urlencoded");
    let json_body = |body: &str| Request::post("/json", body).header("Content-Type", "application/json");
    for (request, expected) in [
        (Request::get("/get_query_string?key=month&value=10"), json!({"key": "month", "value": 10})),
        (Request::get("/get_query_string?key=a%20b%26c&value=-1"), json!({"key": "a b&c", "value": -1})),
        (form("a=3&b=at"), json!({"a": 3, "b": "at"})),
        (form("a=3&b=a+b%C3%A9"), json!({"a": 3, "b": "a bé"})),
        (json_body("{\"name\": \"John\"}"), json!({"name": "John"})),
        (json_body("{}"), json!({"name": null})),
        (Request::get("/url/more/levels?level=3"), json!({"path": "more/levels?level=3"})),
        (Request::get("/buy/hamlet/3"), json!(1)),
    ] {
        check(&format!("{request:?}"), &gateway.send(request).await, Expected::Json(expected));
    }
    expect::error(&gateway.get("/buy/hamlet/0").await, 400, 108, "InvalidArgument");
    let sold_out = expect::error(&gateway.get("/buy/hamlet/5").await, 500, 10_001, "SoldOut");
    assert_eq!(sold_out["info"], json!({"left": 4}));
    for bad in [Request::get("/get_query_string?key=month"), form("a=x&b=y"), json_body("{")] {
        let response = gateway.send(bad).await;
        assert_eq!(response.status, 400, "{response:?}");
    }
}

#[tokio::test]
async fn return_values_become_the_responses_that_the_page_says() {
    let (gateway, _worker) = seed_page().await;
    for (path, expected) in [
        ("/string", Expected::Text("a string")),
        ("/dict", Expected::Json(json!({"name": "John"}))),
        ("/list", Expected::Json(json!([1, 2, 3]))),
        ("/int", Expected::Json(json!(42))),
        ("/null", Expected::Json(Value::Null)),
    ] {
        check(path, &gateway.get(path).await, expected);
    }
    let response = gateway.get("/response").await.expect_status(201);
    assert_eq!(response.text(), "<h1>created</h1>");
    assert_eq!(response.header("content-type").as_deref(), Some("text/html; charset=utf-8"));
    let cookies =
        ["theme=dark; Path=/; HttpOnly", "language=de; Path=/"].map(|cookie| cookie.as_bytes().to_vec());
    assert_eq!(response.header_values("set-cookie"), cookies);
}

/// The page's second use: a payment service's webhook, signed over the raw body and sent more than once.
#[tokio::test]
async fn a_payment_service_calls_its_webhook() {
    const BODY: &str = "{\"id\": \"evt_1\", \"amount\": 1000}";
    // HMAC-SHA256 of the body with the key `demo-payment-secret`.
    const SIGNATURE: &str = "sha256=2085b08559e9f23205edadb28c11ecf6c65ea7a6c697e47992733e9d265b1f89";
    let gateway = Gateway::start("[workers]\npark = \"50s\"").await;
    let ledger = tempfile::tempdir().expect("a folder");
    let ledger = ledger.path().to_string_lossy().into_owned();
    let environment =
        [("PAYMENT_WEBHOOK_SECRET", "demo-payment-secret"), ("PAYMENT_LEDGER", ledger.as_str())];
    let worker = Worker::start(&gateway, "payment-webhook", &environment);
    gateway.admin().wait_for_route("/webhooks/payment").await;
    let signed = || Request::post("/webhooks/payment", BODY).header("X-Payment-Signature", SIGNATURE);
    for duplicate in [false, true, true] {
        let receipt = gateway.send(signed()).await;
        check("signed", &receipt, Expected::Json(json!({"id": "evt_1", "duplicate": duplicate})));
    }
    let forged = Request::post("/webhooks/payment", BODY.replace("1000", "1"))
        .header("X-Payment-Signature", SIGNATURE);
    expect::error(&gateway.send(forged).await, 401, 106, "InvalidSignature");
    expect::error(&gateway.post("/webhooks/payment", BODY).await, 401, 106, "InvalidSignature");
    expect::error(&gateway.get("/webhooks/payment").await, 404, 117, "UndefinedOperation");

    worker.kill9();
    let _restarted = Worker::start(&gateway, "payment-webhook", &environment);
    let receipt = gateway.send(signed()).await;
    check("after a crash", &receipt, Expected::Json(json!({"id": "evt_1", "duplicate": true})));
}

#[track_caller]
fn check(what: &str, response: &Response, expected: Expected) {
    match expected {
        Expected::Text(text) => {
            assert_eq!((response.status, response.text().as_str()), (200, text), "{what}: {response:?}");
            let content_type = response.header("content-type").unwrap_or_default();
            assert!(content_type.starts_with("text/plain"), "{what}: {response:?}");
        }
        Expected::Json(value) => {
            assert_eq!((response.status, response.json()), (200, value), "{what}: {response:?}");
            let content_type = response.header("content-type");
            assert_eq!(content_type.as_deref(), Some("application/json"), "{what}: {response:?}");
        }
        Expected::Unmatched => unmatched(response),
        Expected::RedirectTo(to) => redirect(response, 301, to),
    }
}
