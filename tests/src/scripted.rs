//! A worker inside the test: it registers over the wire, keeps the envelopes it got, and answers by a script.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin;
use crate::server::{Answer, Incoming, Server};
use crate::wire::{Request, Response};
use crate::{Gateway, wait};

/// A call that the worker got.
#[derive(Debug)]
pub struct Call {
    pub http: Incoming,
    /// The request's body; null when it is no JSON.
    pub envelope: Value,
}

/// The body of `POST /v1/workers`, without the URL, which the worker knows.
#[derive(Debug, Clone)]
pub struct Registration(Value);

impl Registration {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(json!({"name": name, "protocol": "gearway-v1", "handlers": []}))
    }

    /// Adds a handler that needs nothing but its name.
    #[must_use]
    pub fn handler(self, name: &str) -> Self {
        self.handler_with(json!({"name": name}))
    }

    /// Adds a handler.
    ///
    /// # Panics
    /// When [`set`](Self::set) made `handlers` something else than a list.
    #[must_use]
    pub fn handler_with(mut self, handler: Value) -> Self {
        self.0["handlers"].as_array_mut().expect("handlers is a list").push(handler);
        self
    }

    /// Sets any field of the registration.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.0[field] = value;
        self
    }

    /// The body, as far as it is known.
    #[must_use]
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// Takes a field out of the registration.
    ///
    /// # Panics
    /// Never: a registration is an object.
    #[must_use]
    pub fn without(mut self, field: &str) -> Self {
        self.0.as_object_mut().expect("an object").remove(field);
        self
    }
}

/// What an accepted registration answered.
#[derive(Debug, Clone)]
pub struct Registered {
    pub worker_id: String,
    pub secret: String,
    pub lease_ms: u64,
}

/// The worker. By default it answers 200 with the envelope that it got and its label, as
/// `{"worker": label, "envelope": …}`.
#[derive(Debug)]
pub struct ScriptedWorker {
    server: Server,
    url_path: String,
    calls: Arc<watch::Sender<Vec<Arc<Call>>>>,
}

/// How a [`ScriptedWorker`] starts.
#[derive(Debug, Clone)]
pub struct ScriptedWorkerOptions {
    /// Shown in default answers.
    pub label: String,
    /// The path of the worker's URL.
    pub url_path: String,
}

impl ScriptedWorker {
    #[must_use]
    pub fn start(label: &str) -> Self {
        Self::start_with(ScriptedWorkerOptions { label: label.into(), url_path: "/".into() })
    }

    #[must_use]
    pub fn start_with(options: ScriptedWorkerOptions) -> Self {
        let calls = Arc::new(watch::Sender::new(Vec::new()));
        let server = Server::start(|_| Answer::close());
        let worker = Self { server, url_path: options.url_path, calls };
        let label = options.label;
        worker.script(move |call| Answer::json(&json!({"worker": label, "envelope": call.envelope})));
        worker
    }

    /// Answers from now on by another script.
    pub fn script(&self, script: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        let calls = Arc::clone(&self.calls);
        self.server.script(move |incoming| {
            let envelope = serde_json::from_slice(&incoming.body).unwrap_or_default();
            let call = Arc::new(Call { http: incoming.clone(), envelope });
            let answer = script(&call);
            calls.send_modify(|calls| calls.push(call));
            answer
        });
    }

    /// Answers always the same.
    pub fn always(&self, answer: Answer) {
        self.script(move |_| answer.clone());
    }

    /// Answers with the request's own body, as a `response` of `application/octet-stream`.
    pub fn echo_bodies(&self) {
        self.script(|call| {
            let header = json!({"Content-Type": ["application/octet-stream"]});
            let body = &call.envelope["param"]["body"];
            Answer::reply(
                &json!({"result": {"type": "response", "status": 200, "header": header, "body": body}}),
            )
        });
    }

    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where the gateway is to call.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address(), self.url_path)
    }

    /// Every call so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Arc<Call>> {
        self.calls.borrow().clone()
    }

    /// The call of this number, counted from 0, as soon as it has come.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn call(&self, number: usize) -> Arc<Call> {
        let mut calls = self.calls.subscribe();
        let arrived = calls.wait_for(|calls| calls.len() > number);
        let calls = wait::within(&format!("call {number} reaches the worker"), arrived).await;
        Arc::clone(&calls.expect("the worker holds the sender")[number])
    }

    /// The last call so far.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last_call(&self) -> Arc<Call> {
        Arc::clone(self.calls.borrow().last().expect("the worker was called"))
    }

    /// Registers with the gateway's registration token.
    ///
    /// # Panics
    /// When the gateway refuses.
    pub async fn register(&self, gateway: &Gateway, registration: &Registration) -> Registered {
        let token = gateway.registration_token();
        let answer = self.try_register(gateway, registration, Some(&token)).await.expect_status(201).json();
        admin::read_registered(&answer)
    }

    /// Asks for registration with any token or none.
    pub async fn try_register(
        &self,
        gateway: &Gateway,
        registration: &Registration,
        token: Option<&str>,
    ) -> Response {
        let mut body = registration.clone();
        if body.0["url"].is_null() {
            body.0["url"] = self.url().into();
        }
        let request = Request::new("POST", "/v1/workers").json(&body.0);
        let request = match token {
            Some(token) => request.bearer(token),
            None => request,
        };
        request.send(gateway.admin_address()).await
    }
}
