//! Replies as bytes. Bodies are megabytes at times, so each is written once, straight into the buffer that is sent.

use bytes::Bytes;
use gearway_protocol::{ErrorCode, HandlerError as ToldError};
use http::{HeaderMap, StatusCode};
use serde::Serialize;

use crate::HandlerError;
use crate::handler_error::NEUTRAL;
use crate::reply::{Content, Reply};

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const JSON: &str = "application/json";

const JSON_START: &[u8] = br#"{"result":{"type":"json","value":"#;
const END: &[u8] = b"}}";

/// A JSON value that was serialised behind the reply's beginning, so that the reply needs no second copy.
pub(crate) struct JsonReply(Vec<u8>);

impl JsonReply {
    pub(crate) fn new<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<Self> {
        let mut buffer = Vec::with_capacity(JSON_START.len() + 128);
        buffer.extend_from_slice(JSON_START);
        serde_json::to_writer(&mut buffer, value)?;
        Ok(Self(buffer))
    }

    /// The value alone.
    pub(crate) fn into_value(self) -> Bytes {
        Bytes::from(self.0).slice(JSON_START.len()..)
    }
}

impl std::fmt::Debug for JsonReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JsonReply({} bytes)", self.0.len() - JSON_START.len())
    }
}

impl Reply {
    /// The body of the worker's HTTP response. Contract section 5.
    pub(crate) fn into_wire(self) -> Bytes {
        match self.0 {
            Content::Text(text) => {
                let mut buffer = br#"{"result":{"type":"text","value":"#.to_vec();
                buffer.reserve(text.len() + text.len() / 16 + 8);
                write_json(&mut buffer, &*text);
                buffer.extend_from_slice(END);
                buffer.into()
            }
            Content::Json(JsonReply(mut buffer)) => {
                buffer.extend_from_slice(END);
                buffer.into()
            }
            Content::Response(response) => encode_response(&response),
            Content::Error(error) => {
                if let Some(source) = error.source() {
                    tracing::error!(
                        code = error.code().0,
                        error = source as &dyn std::error::Error,
                        "the handler failed"
                    );
                }
                encode_error(error.told())
            }
        }
    }
}

/// `{"error": …}`, as it answers calls that reach no handler too.
pub(crate) fn encode_error(error: &ToldError) -> Bytes {
    let mut buffer = br#"{"error":"#.to_vec();
    write_json(&mut buffer, error);
    buffer.push(b'}');
    buffer.into()
}

/// What a panic answers: its own text is for the log.
pub(crate) fn panicked() -> Reply {
    Reply(Content::Error(HandlerError::new(ErrorCode::UNEXPECTED_ERROR, NEUTRAL)))
}

fn encode_response(response: &http::Response<Bytes>) -> Bytes {
    let status = response.status();
    if !(StatusCode::OK.as_u16()..600).contains(&status.as_u16()) {
        tracing::error!(%status, "a handler's status must be between 200 and 599");
        return panicked().into_wire();
    }
    let body = response.body();
    let mut buffer = Vec::with_capacity(body.len().div_ceil(3) * 4 + 64 * response.headers().len() + 96);
    buffer.extend_from_slice(br#"{"result":{"type":"response","status":"#);
    buffer.extend_from_slice(status.as_str().as_bytes());
    buffer.extend_from_slice(br#","header":{"#);
    write_headers(&mut buffer, response.headers());
    buffer.extend_from_slice(br#"},"body":""#);
    gearway_protocol::Base64Body::encode_to(body, &mut buffer);
    buffer.extend_from_slice(br#""}}"#);
    buffer.into()
}

fn write_headers(buffer: &mut Vec<u8>, headers: &HeaderMap) {
    for (index, name) in headers.keys().enumerate() {
        if index > 0 {
            buffer.push(b',');
        }
        write_json(buffer, &canonical_case(name.as_str()));
        buffer.push(b':');
        let values: Vec<String> =
            headers.get_all(name).iter().map(|value| latin1(value.as_bytes())).collect();
        write_json(buffer, &values);
    }
}

fn write_json<T: Serialize + ?Sized>(buffer: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(buffer, value)
        .expect("strings and maps with string keys are JSON, and a Vec takes all");
}

/// `content-type` → `Content-Type`: HTTP ignores the case, but people and other languages' maps do not.
pub(crate) fn canonical_case(name: &str) -> String {
    let mut start_of_word = true;
    name.chars()
        .map(|c| {
            let cased = if start_of_word { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            start_of_word = c == '-';
            cased
        })
        .collect()
}

/// The characters that stand for a header value's bytes.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}
