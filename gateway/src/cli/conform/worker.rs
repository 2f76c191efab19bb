//! The worker under test, as the gateway calls it.

use std::sync::Arc;
use std::time::Duration;

use gearway_protocol::{Base64Body, HandlerResult, HandlerSpec, Registration, Reply};
use serde_json::{Value, json};
use url::Url;

use super::wire::{Answer, Connection, SharedNotes};

/// Where a worker is, its secret, and what it serves.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) url: Url,
    pub(super) secret: String,
    pub(super) registration: Arc<Registration>,
    notes: SharedNotes,
}

/// A request that a client might have made of a handler.
#[derive(Debug)]
pub(super) struct Call(Value);

impl Worker {
    pub(super) fn new(url: Url, secret: &str, registration: Registration, notes: SharedNotes) -> Self {
        Self { url, secret: secret.to_owned(), registration: Arc::new(registration), notes }
    }

    /// The handlers that it registered under that name.
    pub(super) fn handlers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HandlerSpec> + 'a {
        self.registration.handlers.iter().filter(move |handler| handler.name == name)
    }

    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.secret)
    }

    pub(super) async fn connect(&self) -> Result<Connection, String> {
        Connection::open(&self.url, Arc::clone(&self.notes)).await
    }

    /// Calls on a connection of its own.
    pub(super) async fn post(&self, authorization: Option<&str>, body: &[u8]) -> Result<Answer, String> {
        self.connect().await?.post(authorization, body).await
    }

    /// What the worker answers with its secret.
    pub(super) async fn answer(&self, call: &Call) -> Result<Answer, String> {
        self.post(Some(&self.bearer()), &call.bytes()).await
    }

    /// What the handler replies.
    pub(super) async fn reply(&self, call: &Call) -> Result<Reply, String> {
        reply(&self.answer(call).await?)
    }

    /// The value of a reply of type `json`.
    pub(super) async fn json(&self, call: &Call) -> Result<Value, String> {
        match self.reply(call).await? {
            Reply::Result(HandlerResult::Json { value }) => {
                serde_json::from_str(value.get()).map_err(|error| error.to_string())
            }
            other => Err(format!("not a reply of type json: {}", shown(&other))),
        }
    }

    /// The value of a reply of type `text`.
    pub(super) async fn text(&self, call: &Call) -> Result<String, String> {
        match self.reply(call).await? {
            Reply::Result(HandlerResult::Text { value }) => Ok(value),
            other => Err(format!("not a reply of type text: {}", shown(&other))),
        }
    }

    /// Whether it answers envelopes, whatever it serves.
    pub(super) async fn is_alive(&self) -> Result<(), String> {
        is_served(&self.answer(&Call::nobodys()).await?)
    }
}

impl Call {
    pub(super) fn new(handler: &str, method: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let path = format!("/{handler}");
        let mut header = json!({"Host": ["api.example.com"]});
        if !body.is_empty() {
            header["Content-Length"] = json!([body.len().to_string()]);
        }
        Self(json!({
            "kind": "handler",
            "name": handler,
            "context": {"request_id": "7f3c1b9e-5d0a-4f7e-9c55-0a4c4a1f2b11", "timeout_ms": 30000},
            "param": {
                "method": method, "path": path, "raw_path": path, "query_string": "", "params": {}, "header": header,
                "body": Base64Body::encode(body), "remote_addr": "203.0.113.9",
            },
        }))
    }

    /// An envelope from elsewhere, for that handler.
    pub(super) fn from_envelope(handler: &str, mut envelope: Value) -> Self {
        envelope["name"] = handler.into();
        Self(envelope)
    }

    /// With a JSON body.
    pub(super) fn json(handler: &str, body: &Value) -> Self {
        let call = Self::new(handler, "POST", body.to_string());
        call.with("/param/header/Content-Type", json!(["application/json"]))
    }

    /// A handler that no worker has.
    pub(super) fn nobodys() -> Self {
        Self::new("conform/nobodys", "GET", "")
    }

    pub(super) fn slow(time: Duration) -> Self {
        Self::new("conform/slow", "POST", time.as_millis().to_string())
    }

    /// Sets what a JSON pointer points to; a field that is not there is added.
    pub(super) fn with(mut self, pointer: &str, value: Value) -> Self {
        if let Some((parent, field)) = pointer.rsplit_once('/')
            && let Some(parent) = self.0.pointer_mut(parent)
        {
            parent[field] = value;
        }
        self
    }

    pub(super) fn envelope(&self) -> &Value {
        &self.0
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }
}

/// Reads an answer as the gateway does.
pub(super) fn reply(answer: &Answer) -> Result<Reply, String> {
    if answer.status != 200 {
        return Err(answer.shown());
    }
    serde_json::from_slice(&answer.body).map_err(|error| format!("no reply ({error}): {}", answer.shown()))
}

/// The worker took the call, whatever it made of it.
pub(super) fn is_served(answer: &Answer) -> Result<(), String> {
    if answer.status == 401 || answer.status >= 500 { Err(answer.shown()) } else { Ok(()) }
}

/// Error 117.
pub(super) fn is_unknown(answer: &Answer) -> Result<(), String> {
    match reply(answer)? {
        Reply::Error(error) if error.code.0 == 117 => Ok(()),
        other => Err(format!("no error 117: {}", shown(&other))),
    }
}

/// A reply, for people.
pub(super) fn shown(reply: &Reply) -> String {
    let text = serde_json::to_vec(reply).unwrap_or_default();
    super::wire::excerpt(&text)
}
