//! An admin listener that answers what the test says, and a caller that posts envelopes.

use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use gearway_worker::Settings;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub(crate) const TOKEN: &str = "registration-token";
/// Only ends a test that has gone wrong.
const HANG: Duration = Duration::from_secs(20);

pub(crate) struct FakeGateway {
    pub(crate) port: u16,
    calls: mpsc::Receiver<AdminCall>,
    /// Everything of the gateway dies with its runtime, its open connections too.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
pub(crate) struct AdminCall {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authorization: String,
    pub(crate) body: Value,
    answer: oneshot::Sender<(u16, Value)>,
}

impl FakeGateway {
    pub(crate) async fn start() -> Self {
        Self::start_on(0).await
    }

    pub(crate) async fn start_on(port: u16) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (sender, calls) = mpsc::channel(16);
        let bound = runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let app = Router::new().fallback(take).with_state(sender);
            tokio::spawn(async move { axum::serve(listener, app).await });
            port
        });
        Self { port: bound.await.unwrap(), calls, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = Settings::new("test");
        settings.gateway = self.url().parse().unwrap();
        settings.token = Some(TOKEN.to_owned());
        settings
    }

    /// The next call, whatever it is.
    pub(crate) async fn next(&mut self) -> AdminCall {
        timeout(HANG, self.calls.recv()).await.expect("the worker calls").expect("the gateway lives")
    }

    /// The next call but for renewals, which are granted with `lease`.
    pub(crate) async fn next_but_renewals(&mut self, lease: Value) -> AdminCall {
        loop {
            let call = self.next().await;
            if call.method != "PUT" {
                return call;
            }
            call.answer(200, lease.clone());
        }
    }

    /// Grants the registration that comes next, and gives the URL of the worker.
    pub(crate) async fn register(&mut self, id: &str, secret: &str, lease_ms: u64) -> String {
        let call = self.next().await;
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/v1/workers"));
        let url = call.body["url"].as_str().unwrap().to_owned();
        call.answer(201, granted(id, secret, lease_ms));
        url
    }

    /// The port is free, and every connection is closed.
    pub(crate) async fn go_away(mut self) {
        let runtime = self.runtime.take().expect("it goes away once");
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(HANG)).await.unwrap();
    }

    pub(crate) fn nothing_more(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

impl Drop for FakeGateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl AdminCall {
    pub(crate) fn answer(self, status: u16, body: Value) {
        // A worker that has gone meanwhile does not hear it.
        self.answer.send((status, body)).ok();
    }
}

pub(crate) fn granted(id: &str, secret: &str, lease_ms: u64) -> Value {
    json!({"worker_id": id, "secret": secret, "lease_ms": lease_ms, "features": [], "unknown": {}})
}

async fn take(State(calls): State<mpsc::Sender<AdminCall>>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let authorization = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let (sender, answer) = oneshot::channel();
    let call = AdminCall {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        authorization: authorization.unwrap_or_default(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        answer: sender,
    };
    calls.send(call).await.unwrap();
    let (status, body) = answer.await.unwrap();
    let status = StatusCode::from_u16(status).unwrap();
    if body.is_null() { status.into_response() } else { (status, axum::Json(body)).into_response() }
}

/// Calls a worker as its gateway does.
pub(crate) struct Caller {
    client: reqwest::Client,
    url: String,
    secret: String,
}

impl Caller {
    pub(crate) fn new(url: &str, secret: &str) -> Self {
        let client = client();
        Self { client, url: url.to_owned(), secret: secret.to_owned() }
    }

    pub(crate) async fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::Response {
        self.client.post(&self.url).bearer_auth(&self.secret).body(body).send().await.unwrap()
    }

    pub(crate) async fn call(&self, handler: &str) -> (u16, Value) {
        let response = self.post(envelope(handler)).await;
        let status = response.status().as_u16();
        (status, response.json().await.unwrap())
    }
}

pub(crate) fn envelope(handler: &str) -> String {
    let path = format!("/{handler}");
    json!({
        "kind": "handler", "name": handler, "context": {"request_id": "r1", "timeout_ms": 1000, "new": 1},
        "param": {"method": "GET", "path": path, "raw_path": path, "query_string": "", "params": {},
                  "header": {"Host": ["localhost"]}, "body": "", "remote_addr": "127.0.0.1"}
    })
    .to_string()
}

/// It gives up on a call that only a bug can make that long.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(HANG).build().unwrap()
}
