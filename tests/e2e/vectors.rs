//! The golden messages, through the real gateway: what SDKs read and write in their tests is what it writes and reads.

use std::path::Path;

use gearway_protocol::Base64Body;
use gearway_tests::{Answer, Gateway, Registration, Request, Response, ScriptedWorker};
use serde_json::{Value, json};

use crate::expect::{self, serving};

const CREDENTIALS: &str = "[auth]\nclient_keys = [\"client-key\"]\nmaster_keys = [\"master-key\"]\n\
                           [auth.jwt]\nsecret = \"a-secret-that-only-test-vectors-use\"";

#[tokio::test]
async fn requests_become_the_envelopes() {
    let gateway = Gateway::start(CREDENTIALS).await;
    let worker = ScriptedWorker::start("vectors");
    for (file, vector) in vectors("requests") {
        let http = &vector["http"];
        let handler = json!({"name": vector["handler_name"], "methods": [http["method"]]});
        worker.register(&gateway, &Registration::new("vectors").handler_with(handler)).await;
        let response = gateway.send(request(http)).await;
        assert_eq!(response.status, 200, "{file}: {response:?}");

        let mut expected = vector["envelope"].clone();
        expected["param"]["remote_addr"] = "127.0.0.1".into();
        let mut written = worker.last_call().envelope.clone();
        for field in ["request_id", "timeout_ms"] {
            assert_eq!(
                written["context"][field].is_null(),
                expected["context"][field].is_null(),
                "{file}: {field}"
            );
            written["context"][field] = expected["context"][field].clone();
        }
        assert_eq!(written, expected, "{file}");
    }
}

#[tokio::test]
async fn replies_become_the_responses() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for (file, vector) in vectors("replies") {
        worker.always(Answer::raw(text(&vector["reply"])));
        let response = gateway.get("/foo").await;
        let expected = &vector["response"];
        assert_eq!(response.status, expected["status"], "{file}: {response:?}");
        assert_eq!(response.body, decoded(&expected["body_base64"]), "{file}: {response:?}");
        assert_eq!(own_headers(&response), expected_headers(expected), "{file}: {response:?}");
    }
}

#[tokio::test]
async fn errors_become_the_responses() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for vector in read(&folder().join("errors.json")).as_array().expect("a list") {
        worker.always(Answer::raw(text(&vector["reply"])));
        let response = gateway.get("/foo").await;
        let mut expected = vector["response"]["body"].clone();
        expected["error"]["request_id"] = response.header("x-request-id").into();
        assert_eq!(response.status, vector["response"]["status"], "{vector}: {response:?}");
        assert_eq!(response.json(), expected, "{vector}");
    }
}

#[tokio::test]
async fn nonsense_is_refused() {
    let (gateway, worker) = serving("", &["foo"]).await;
    for (file, vector) in vectors("nonsense") {
        let reply = match &vector["reply"] {
            Value::String(reply) => reply.clone().into_bytes(),
            _ => decoded(&vector["reply_base64"]),
        };
        let mut answer = match vector["status"].as_u64() {
            Some(status) => Answer::status(u16::try_from(status).expect("a status"), reply),
            None => Answer::raw(reply),
        };
        for header in vector["headers"].as_array().into_iter().flatten() {
            answer = answer.header(&text(&header[0]), &text(&header[1]));
        }
        worker.always(answer);
        let response = gateway.get("/foo").await;
        assert_eq!(response.status, 502, "{file}: {response:?}");
        expect::error(&response, 502, 130, "UnexpectedError");
    }
    worker.always(Answer::text("still here"));
    assert_eq!(gateway.get("/foo").await.text(), "still here");
}

#[tokio::test]
async fn registrations_are_accepted_or_name_the_field() {
    for (file, vector) in vectors("registrations") {
        let gateway = Gateway::start("").await;
        let request = Request::new("POST", "/v1/workers")
            .bearer(&gateway.registration_token())
            .json(&vector["registration"]);
        let response = request.send(gateway.admin_address()).await;
        if vector["valid"] == true {
            assert_eq!(response.status, 201, "{file}: {response:?}");
        } else {
            assert!(matches!(response.status, 400 | 422), "{file}: {response:?}");
            let message = text(&response.json()["error"]["message"]);
            assert!(message.contains(&text(&vector["field"])), "{file}: {message}");
        }
    }
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../plugin-protocol/vectors"))
}

/// Every file of a kind, with its name.
fn vectors(kind: &str) -> Vec<(String, Value)> {
    let entries = std::fs::read_dir(folder().join(kind)).expect("the folder is there");
    let vectors: Vec<_> = entries
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.file_name().expect("a file").to_string_lossy().into_owned(), read(&path)))
        .collect();
    assert!(!vectors.is_empty(), "there are no {kind}");
    vectors
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).expect("readable");
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Framing is the request's own to write; all other headers go out as they stand.
fn request(http: &Value) -> Request {
    let mut request = Request::new(&text(&http["method"]), &text(&http["target"]));
    let body = decoded(&http["body_base64"]);
    let mut framed = false;
    for header in http["headers"].as_array().expect("a list") {
        let (name, value) = (text(&header[0]), text(&header[1]));
        match name.to_ascii_lowercase().as_str() {
            "transfer-encoding" => request = request.chunked(body.len().div_ceil(2)),
            "content-length" => {}
            _ => {
                request = request.header(&name, latin1(&value));
                continue;
            }
        }
        framed = true;
    }
    if framed { request.body(body) } else { request }
}

fn own_headers(response: &Response) -> Vec<(String, Vec<u8>)> {
    let gateways = ["x-request-id", "date", "content-length"];
    let mut headers: Vec<_> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !gateways.contains(&name.as_str()))
        .collect();
    // Only the order of one name's values means something (RFC 9110 section 5.3).
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

fn expected_headers(response: &Value) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<_> = response["headers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|header| (text(&header[0]).to_ascii_lowercase(), latin1(&text(&header[1]))))
        .collect();
    headers.sort_by(|a, b| a.0.cmp(&b.0));
    headers
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).to_owned()
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect()
}

fn decoded(value: &Value) -> Vec<u8> {
    Base64Body::decode(&text(value)).expect("base64")
}
