//! The wire types read every golden message, and refuse what has not its shape.
#![allow(clippy::unwrap_used, reason = "what is unexpected fails the test")]

use std::fs;
use std::path::Path;

use gearway_protocol::{Base64Body, Envelope, ErrorCode, HandlerResult, Registration, Reply};
use serde_json::Value;

/// Every vector of a kind, with its file's name.
fn vectors(kind: &str) -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(kind);
    let vectors: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect();
    assert!(vectors.len() >= 8, "{kind} has its vectors");
    vectors
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap()
}

#[test]
fn envelopes_are_read_and_written() {
    for (name, vector) in vectors("requests") {
        let envelope: Envelope = serde_json::from_str(&vector["envelope"].to_string()).unwrap();
        assert_eq!(serde_json::to_value(&envelope).unwrap(), vector["envelope"], "{name}");
        assert_eq!(serde_json::to_value(&envelope.context).unwrap(), vector["context"], "{name}");
        assert_eq!(envelope.name, text(&vector, "handler_name"), "{name}");
        assert_eq!(
            Base64Body::encode(&envelope.param.body.0),
            text(&vector["http"], "body_base64"),
            "{name}"
        );
    }
}

#[test]
fn replies_are_read() {
    for (name, vector) in vectors("replies") {
        let reply: Reply = serde_json::from_str(text(&vector, "reply")).unwrap();
        let Reply::Result(result) = reply else { panic!("{name} is an error") };
        let (status, body) = match result {
            HandlerResult::Text { value } => (200, value.into_bytes()),
            HandlerResult::Json { value } => (200, value.get().as_bytes().to_vec()),
            HandlerResult::Response { status, header: _, body } => (status, body.0),
        };
        assert_eq!(vector["response"]["status"], status, "{name}");
        assert_eq!(Base64Body::encode(&body), text(&vector["response"], "body_base64"), "{name}");
    }
}

#[test]
fn errors_have_the_status_and_name_of_their_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/errors.json");
    let errors: Vec<Value> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut named = Vec::new();
    for vector in &errors {
        let reply: Reply = serde_json::from_str(text(vector, "reply")).unwrap();
        let Reply::Error(error) = reply else { panic!("{vector}") };
        assert_eq!(vector["response"]["status"], error.code.status(), "{vector}");
        if let Some(name) = error.code.name() {
            assert_eq!(vector["response"]["body"]["error"]["name"], name);
            named.push(error.code);
        }
    }
    named.dedup();
    assert!(ErrorCode::NAMED.iter().all(|code| named.contains(code)));
}

#[test]
fn nonsense_has_the_wrong_shape_unless_it_says_so() {
    for (name, vector) in vectors("nonsense") {
        let bytes = match vector.get("reply") {
            Some(reply) => reply.as_str().unwrap().as_bytes().to_vec(),
            None => Base64Body::decode(text(&vector, "reply_base64")).unwrap(),
        };
        let read = serde_json::from_slice::<Reply>(&bytes);
        assert_eq!(read.is_ok(), vector["well_formed"].as_bool().unwrap(), "{name}: {read:?}");
    }
}

#[test]
fn registrations_have_the_right_shape_unless_they_say_so() {
    for (name, vector) in vectors("registrations") {
        let text = vector["registration"].to_string();
        let read: Result<Registration, _> =
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&text));
        if vector["valid"] == true || vector["well_formed"] == true {
            assert!(read.is_ok(), "{name}: {read:?}");
            continue;
        }
        let error = read.unwrap_err().to_string();
        assert!(error.contains(vector["field"].as_str().unwrap()), "{name}: {error}");
    }
}

#[test]
fn the_least_registration_takes_get_post_and_put_from_anybody() {
    let (_, vector) = vectors("registrations").into_iter().find(|(name, _)| name == "least").unwrap();
    let registration: Registration = serde_json::from_value(vector["registration"].clone()).unwrap();
    let handler = &registration.handlers[0];
    assert_eq!(handler.methods, ["GET", "POST", "PUT"]);
    assert!(!handler.key_required && !handler.user_required && !handler.idempotent);
    assert_eq!((handler.timeout_ms, registration.max_concurrency), (None, None));
}
