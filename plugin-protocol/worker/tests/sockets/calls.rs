//! The worker's HTTP server, over sockets.

use std::sync::Arc;

use crate::fake_gateway::{Caller, FakeGateway, client, envelope};
use gearway_worker::{Bytes, Json, Request, Worker};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

const SECRET: &str = "worker-secret";

async fn serve(worker: impl FnOnce(Worker) -> Worker) -> (FakeGateway, Caller, String) {
    let mut gateway = FakeGateway::start().await;
    let worker = worker(Worker::new(gateway.settings()));
    tokio::spawn(worker.run_until(std::future::pending()));
    let url = gateway.register("w1", SECRET, 60_000).await;
    (gateway, Caller::new(&url, SECRET), url)
}

#[tokio::test]
async fn a_call_without_the_secret_is_refused() {
    let (_gateway, _, url) = serve(|worker| worker.handler("echo", async || panic!("ran") as ())).await;
    let client = client();
    let large = "x".repeat(4 << 20);
    for authorization in
        [None, Some("Bearer wrong"), Some("Basic worker-secret"), Some("worker-secret"), Some("")]
    {
        for body in [envelope("echo"), large.clone()] {
            let mut request = client.post(&url).body(body);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 401, "{authorization:?}");
            assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], 101);
        }
    }
}

#[tokio::test]
async fn what_is_not_an_envelope_is_refused() {
    let (_gateway, caller, url) =
        serve(|worker| worker.handler("echo", async || "echo").max_envelope(1000)).await;
    let good: Value = serde_json::from_str(&envelope("echo")).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut envelope = good.clone();
        *envelope.pointer_mut(pointer).unwrap() = value;
        envelope.to_string()
    };
    for (body, reason) in [
        (String::new(), "EOF"),
        ("[]".to_owned(), "envelope"),
        (with("/kind", json!("event")), "event"),
        (with("/param/body", json!("%")), "base64"),
        (with("/param/method", json!("G T")), "117"),
        (with("/param/header", json!({"X Y": ["1"]})), "X Y"),
        (with("/param/header", json!({"X-A": ["\u{20ac}"]})), "X-A"),
        (with("/param/header", json!({"X-A": ["a\nb"]})), "X-A"),
        (with("/param/header", json!({"X-A": "1"})), "sequence"),
    ] {
        let response = caller.post(body).await;
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        if reason == "117" {
            assert_eq!((status.as_u16(), &answer["error"]["code"]), (200, &json!(117)));
            continue;
        }
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (400, &json!(107)), "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(reason), "{answer}");
    }
    assert_eq!(caller.post(vec![b' '; 1001]).await.status(), 413);
    let (status, answer) = caller.call("unknown").await;
    assert_eq!(
        (status, &answer["error"]["code"], &answer["error"]["name"]),
        (200, &json!(117), &json!("UndefinedOperation"))
    );
    let get = client().get(&url);
    assert_eq!(get.bearer_auth(SECRET).send().await.unwrap().status(), 405);
    assert_eq!(caller.call("echo").await.0, 200);
}

#[tokio::test]
async fn the_largest_body_of_a_gateway_goes_in_and_out() {
    let (_gateway, caller, _) = serve(|worker| worker.handler("echo", async |body: Bytes| body)).await;
    let body: Vec<u8> = (0..10 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let text = gearway_protocol::Base64Body::encode(&body);
    let envelope = envelope("echo").replace(r#""body":"""#, &format!(r#""body":"{text}""#));
    let reply = caller.post(envelope).await.text().await.unwrap();
    assert_eq!(
        reply,
        format!(
            r#"{{"result":{{"type":"response","status":200,"header":{{"Content-Type":["application/octet-stream"]}},"body":"{text}"}}}}"#
        )
    );
}

#[tokio::test]
async fn the_trace_context_reaches_the_handler() {
    let (_gateway, _, url) = serve(|worker| {
        worker.handler("trace", async |request: Request| Json(request.traceparent().map(str::to_owned)))
    })
    .await;
    let client = client();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = client.post(&url).bearer_auth(SECRET).header("traceparent", trace).body(envelope("trace"));
    let reply: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(reply["result"]["value"], trace);
}

#[tokio::test]
async fn a_handler_passes_its_trace_on() {
    let (_gateway, _, url) = serve(|worker| {
        worker.handler("trace", async |request: Request| {
            let headers = request.trace_headers();
            let value =
                |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            Json(json!([request.tracestate(), value("traceparent"), value("tracestate")]))
        })
    })
    .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let (client_span, call_span) = ("00f067aa0ba902b7", "b7ad6b7169203331");
    let sent = json!({"Tracestate": ["a=1", "b=2"], "Traceparent": [format!("00-{trace}-{client_span}-01")]});
    let ask = async |header: &Value, traceparent: Option<&str>| {
        let mut envelope: Value = serde_json::from_str(&envelope("trace")).unwrap();
        envelope["param"]["header"] = header.clone();
        let mut request = client().post(&url).bearer_auth(SECRET).body(envelope.to_string());
        if let Some(traceparent) = traceparent {
            request = request.header("traceparent", traceparent);
        }
        request.send().await.unwrap().json::<Value>().await.unwrap()["result"]["value"].clone()
    };
    let same = format!("00-{trace}-{call_span}-01");
    assert_eq!(ask(&sent, Some(&same)).await, json!(["a=1,b=2", same, "a=1,b=2"]));
    // Another trace than the client's: what the client says of its own does not belong to it.
    let other = format!("00-{}-{call_span}-01", "1".repeat(32));
    assert_eq!(ask(&sent, Some(&other)).await, json!([null, other, null]));
    assert_eq!(ask(&json!({"Tracestate": ["a=1"]}), Some(&same)).await, json!([null, same, null]));
    assert_eq!(ask(&sent, None).await, json!([null, null, null]));
}

/// A handler that tells when it begins, and ends when it is let go.
fn held() -> (mpsc::Receiver<()>, Arc<Notify>, impl FnOnce(Worker) -> Worker) {
    let (began, beginnings) = mpsc::channel(4);
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let add = |worker: Worker| {
        worker.max_concurrency(1).handler("held", move || async move {
            began.send(()).await.unwrap();
            released.notified().await;
            began.send(()).await.unwrap();
            "done"
        })
    };
    (beginnings, release, add)
}

#[tokio::test]
async fn one_call_too_many_is_turned_away_unrun() {
    let (mut beginnings, release, add) = held();
    let (_gateway, caller, url) = serve(add).await;
    let first = tokio::spawn(async move { caller.call("held").await });
    beginnings.recv().await.unwrap();
    let second = Caller::new(&url, SECRET).post(envelope("held")).await;
    assert_eq!(
        (second.status().as_u16(), &second.headers()["gearway-not-run"]),
        (503, &"1".parse().unwrap())
    );
    release.notify_one();
    assert_eq!(first.await.unwrap().1["result"]["value"], "done");
    release.notify_one();
    assert_eq!(Caller::new(&url, SECRET).call("held").await.0, 200);
}

#[tokio::test]
async fn a_call_runs_to_its_end_when_its_connection_does_not() {
    let (mut beginnings, release, add) = held();
    let (_gateway, caller, url) = serve(add).await;
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = TcpStream::connect(address).await.unwrap();
    let body = envelope("held");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    beginnings.recv().await.unwrap();
    drop(connection);
    // While these are turned away the worker sees the end of the connection, and still the only slot is taken.
    for _ in 0..20 {
        assert_eq!(caller.post(envelope("held")).await.status(), 503);
    }
    release.notify_one();
    beginnings.recv().await.unwrap();
}
