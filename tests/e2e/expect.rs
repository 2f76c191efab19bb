//! What many tests expect of a response.

use gearway_tests::{Gateway, Registration, Response, ScriptedWorker};
use serde_json::{Value, json};

/// Contract section 7: this status, an error of this code and name, and the request's id in both places.
/// Returns what stands under `error`.
#[track_caller]
pub(crate) fn error(response: &Response, status: u16, code: u32, name: &str) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    let content_type = response.header("content-type").unwrap_or_default();
    assert!(content_type.starts_with("application/json"), "{response:?}");
    let error = response.json()["error"].take();
    assert_eq!((&error["code"], &error["name"]), (&json!(code), &json!(name)), "{response:?}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{response:?}");
    let id = response.header("x-request-id").unwrap_or_else(|| panic!("no X-Request-Id: {response:?}"));
    assert!(!id.is_empty() && error["request_id"] == id, "{response:?}");
    error
}

#[track_caller]
pub(crate) fn bad_request(response: &Response) -> Value {
    error(response, 400, 107, "BadRequest")
}

/// 503: the handler did not run, and when to come again.
#[track_caller]
pub(crate) fn not_run(response: &Response) -> Value {
    let error = error(response, 503, 118, "PluginUnavailable");
    let retry_after = response.header("retry-after").unwrap_or_default();
    assert!(retry_after.parse::<u32>().is_ok(), "{response:?}");
    assert_ne!(error["info"]["outcome"], "unknown", "{response:?}");
    error
}

/// 502: the worker went away after it was called.
#[track_caller]
pub(crate) fn outcome_unknown(response: &Response) -> Value {
    let error = error(response, 502, 118, "PluginUnavailable");
    assert_eq!(error["info"]["outcome"], "unknown", "{response:?}");
    error
}

/// The answer to a path that nobody registered, as the seed page has it.
#[track_caller]
pub(crate) fn unmatched(response: &Response) {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.json(), json!({"result": {"status": "OK"}}), "{response:?}");
}

/// A redirect to this path and query on the same host.
#[track_caller]
pub(crate) fn redirect(response: &Response, status: u16, to: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let location = response.header("location").unwrap_or_default();
    let path = match location.strip_prefix("http://") {
        Some(rest) => rest.find('/').map(|slash| &rest[slash..]).unwrap_or_default(),
        None => &location,
    };
    assert_eq!(path, to, "{response:?}");
}

/// The envelope that a worker's default answer shows.
#[track_caller]
pub(crate) fn envelope(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response:?}");
    let envelope = response.json()["envelope"].take();
    assert!(envelope.is_object(), "not a worker's answer: {response:?}");
    envelope
}

/// The name of the handler that answered.
#[track_caller]
pub(crate) fn handled_by(response: &Response) -> String {
    envelope(response)["name"].as_str().unwrap_or_default().to_owned()
}

/// A gateway and one worker with these handlers.
pub(crate) async fn serving(config: &str, handlers: &[&str]) -> (Gateway, ScriptedWorker) {
    let gateway = Gateway::start(config).await;
    let worker = ScriptedWorker::start("worker");
    let registration =
        handlers.iter().fold(Registration::new("worker"), |registration, name| registration.handler(name));
    worker.register(&gateway, &registration).await;
    (gateway, worker)
}
