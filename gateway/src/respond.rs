//! A worker's reply to the HTTP response. Contract sections 5 and 7.

mod scan;

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use gearway_protocol::{Base64Body, ErrorCode, HandlerError, NOT_RUN_HEADER};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::dialect::Dialect;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::upstream::Answer;

/// What an answer means for its call.
#[derive(Debug)]
pub enum Verdict {
    /// The worker ran the handler, and this is what the client gets.
    Done(Result<Response<Pieces>, Error>),
    /// The worker says that it did not run it.
    NotRun(&'static str),
}

/// Reads an answer in the dialect of the worker that gave it. `max_body` bounds the body of the response.
#[must_use]
pub fn judge(answer: &Answer, dialect: Dialect, max_body: u64) -> Verdict {
    match (dialect, answer.status) {
        (_, StatusCode::OK) => {}
        (_, StatusCode::UNAUTHORIZED) => {
            return Verdict::NotRun("the worker does not know the gateway's secret");
        }
        (_, StatusCode::SERVICE_UNAVAILABLE) if says_not_run(answer) => {
            return Verdict::NotRun("the worker took no call");
        }
        // Skygear's Node plugins put an error reply under these.
        (Dialect::SkygearV1, StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR) => {}
        (Dialect::GearwayV1 | Dialect::SkygearV1, status) => {
            return Verdict::Done(Err(nonsense(format!("HTTP status {}", status.as_u16()))));
        }
    }
    let response = read(&answer.body, dialect, max_body);
    Verdict::Done(response.and_then(|response| with_large_body(response, answer, dialect, max_body)))
}

/// Whether this much of a reply ends with the quote that opens the text of its result's body.
#[must_use]
pub fn opens_body(json: &[u8]) -> bool {
    let closed = [json, b"\"}}"].concat();
    serde_json::from_slice::<ReplyFields<'_>>(&closed)
        .is_ok_and(|reply| reply.result.is_some_and(|result| result.body.is_some()))
}

/// Puts a body that was decoded while its reply came into the response that was read without it.
fn with_large_body(
    response: Response<Bytes>,
    answer: &Answer,
    dialect: Dialect,
    max_body: u64,
) -> Result<Response<Pieces>, Error> {
    let Some(body) = &answer.large_body else { return Ok(response.map(Pieces::from)) };
    if dialect == Dialect::GearwayV1 {
        // Beside a text or a value, a body is a field that nobody knows.
        let reply: ReplyFields<'_> =
            serde_json::from_slice(&answer.body).map_err(|error| nonsense(error.to_string()))?;
        if reply.result.is_none_or(|result| result.r#type.as_deref() != Some("response")) {
            return Ok(response.map(Pieces::from));
        }
    }
    let body = body.clone().map_err(|error| nonsense(format!("result.body: {error}")))?;
    check_length(body.len(), max_body)?;
    Ok(if has_content(response.status()) { response.map(|_| body) } else { response.map(Pieces::from) })
}

fn says_not_run(answer: &Answer) -> bool {
    answer.header(NOT_RUN_HEADER) == Some(b"1")
}

/// Reads the body of a reply, whose status said that there is one to read.
///
/// # Errors
/// The handler's own error, or [`Error::Nonsense`].
pub fn read(body: &Bytes, dialect: Dialect, max_body: u64) -> Result<Response<Bytes>, Error> {
    let response = match scan::scan(body, dialect) {
        Some(response) => response,
        None => read_any(body, dialect)?,
    };
    check_length(response.body().len(), max_body)?;
    Ok(response)
}

fn check_length(length: usize, max_body: u64) -> Result<(), Error> {
    if length as u64 > max_body {
        return Err(nonsense(format!("a body of {length} bytes; limits.max_body is {max_body}")));
    }
    Ok(())
}

/// Reads a reply however it is written, and says what is wrong with it.
fn read_any(body: &Bytes, dialect: Dialect) -> Result<Response<Bytes>, Error> {
    let reply: ReplyFields<'_> = serde_json::from_slice(body).map_err(|error| nonsense(error.to_string()))?;
    let result = match (reply.result, reply.error) {
        (Some(result), None) => result,
        (None, Some(error)) => return Err(Error::Handler(handler_error(error, dialect))),
        (Some(_), Some(_)) => return Err(nonsense("both result and error")),
        (None, None) => return Err(nonsense("neither result nor error")),
    };
    Ok(match dialect {
        Dialect::SkygearV1 => whole_response(result)?,
        Dialect::GearwayV1 => match result.r#type.as_deref() {
            Some("text") => {
                let value = result.value.ok_or_else(|| nonsense("result.value is missing"))?;
                let text: String = serde_json::from_str(value.get())
                    .map_err(|error| nonsense(format!("result.value: {error}")))?;
                typed("text/plain; charset=utf-8", text.into())
            }
            Some("json") => {
                let value = result.value.ok_or_else(|| nonsense("result.value is missing"))?;
                typed("application/json", body.slice_ref(value.get().as_bytes()))
            }
            Some("response") => whole_response(result)?,
            Some(other) => {
                return Err(nonsense(format!("result.type {other:?} is none of text, json, response")));
            }
            None => return Err(nonsense("result.type is missing")),
        },
    })
}

fn typed(content_type: &'static str, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn whole_response(result: ResultFields<'_>) -> Result<Response<Bytes>, Error> {
    let status = result.status.ok_or_else(|| nonsense("result.status is missing"))?;
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| nonsense(format!("result.status {status} is not within 200 to 599")))?;
    let body = Base64Body::decode(&result.body.unwrap_or_default().0)
        .map_err(|error| nonsense(format!("result.body: {error}")))?;
    let mut response = Response::new(if has_content(status) { body.into() } else { Bytes::new() });
    *response.status_mut() = status;
    for (name, values) in result.header.0 {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| nonsense(format!("result.header: {name:?} is not a header name")))?;
        if is_the_gateways(&name) {
            continue;
        }
        for Text(value) in values {
            let value = latin1(&value).ok_or_else(|| {
                nonsense(format!("result.header: the value of {name} is not a header value"))
            })?;
            response
                .headers_mut()
                .try_append(name.clone(), value)
                .map_err(|_| nonsense("result.header: too many headers"))?;
        }
    }
    Ok(response)
}

/// RFC 9110 sections 15.3.5 and 15.4.5: some have none.
fn has_content(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Framing and the connection are between the gateway and its client; a worker that could set them could split responses.
fn is_the_gateways(name: &HeaderName) -> bool {
    match name.as_str() {
        "content-length" | "transfer-encoding" | "connection" | "keep-alive" | "upgrade" | "trailer"
        | "te" | "x-request-id" => true,
        other => other.starts_with("proxy-"),
    }
}

fn latin1(text: &str) -> Option<HeaderValue> {
    if text.is_ascii() {
        return HeaderValue::from_str(text).ok();
    }
    let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    HeaderValue::from_bytes(&bytes?).ok()
}

fn handler_error(error: ErrorFields, dialect: Dialect) -> HandlerError {
    let mut info = error.info;
    if dialect == Dialect::SkygearV1
        && let Some(info) = &mut info
    {
        // The Python plugin's traceback: for the worker's own log, never for clients.
        info.remove("trace");
    }
    let name = match dialect {
        Dialect::GearwayV1 => error.name,
        Dialect::SkygearV1 => error.name.or_else(|| skygear_name(error.code).map(str::to_owned)),
    };
    HandlerError {
        code: ErrorCode(error.code),
        name,
        message: error.message.unwrap_or_default(),
        info: info.filter(|info| !info.is_empty()),
    }
}

/// The codes of Skygear's packages that contract section 9 leaves out. Skygear's server named them for its Python plugins,
/// which send no names.
fn skygear_name(code: u32) -> Option<&'static str> {
    match code {
        121 => Some("PluginInitializing"),
        124 => Some("RecordQueryDenied"),
        126 => Some("PasswordPolicyViolated"),
        129 => Some("AssetSizeTooLarge"),
        10_000 => Some("UnexpectedError"),
        _ => None,
    }
}

fn nonsense(reason: impl Into<String>) -> Error {
    Error::Nonsense { reason: reason.into() }
}

/// The reply with everything large borrowed from its bytes.
#[derive(Deserialize)]
struct ReplyFields<'a> {
    #[serde(borrow)]
    result: Option<ResultFields<'a>>,
    error: Option<ErrorFields>,
}

#[derive(Deserialize)]
struct ResultFields<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    status: Option<i64>,
    #[serde(borrow, default)]
    header: HeaderFields<'a>,
    /// `null` is empty too: that is how Go writes a slice without elements.
    #[serde(borrow)]
    body: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct ErrorFields {
    code: u32,
    name: Option<String>,
    message: Option<String>,
    info: Option<Map<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// In the order in which they were written.
#[derive(Default)]
struct HeaderFields<'a>(Vec<(Cow<'a, str>, Vec<Text<'a>>)>);

impl<'de: 'a, 'a> Deserialize<'de> for HeaderFields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = HeaderFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of lists of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Text(name), values)) = map.next_entry()? {
                    fields.push((name, values));
                }
                Ok(HeaderFields(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// Tells `"value": null`, which is a value, from no value.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_text(text: &str) -> Result<Response<Bytes>, Error> {
        read(&Bytes::copy_from_slice(text.as_bytes()), Dialect::GearwayV1, 1 << 20)
    }

    #[test]
    fn json_passes_as_it_was_written() {
        let response =
            read_text(r#"{"result":{"type":"json","value": {"n" : 1e400, "big": 12345678901234567890123}}}"#);
        assert_eq!(response.unwrap().body(), r#"{"n" : 1e400, "big": 12345678901234567890123}"#);
    }

    #[test]
    fn escapes_in_base64_and_in_names_are_read() {
        let response = read_text(
            r#"{"result":{"type":"response","status":201,"header":{"X\u002dA":["1"]},"body":"\/w=="}}"#,
        );
        let response = response.unwrap();
        assert_eq!(response.body().as_ref(), b"\xff");
        assert_eq!(response.headers()["x-a"], "1");
    }

    #[test]
    fn framing_headers_are_left_out() {
        let response = read_text(
            r#"{"result":{"type":"response","status":200,"header":{"Content-Length":["3"],"Transfer-Encoding":["chunked"],"Connection":["close"],"Proxy-Authenticate":["x"],"X-B":["2","1"]},"body":""}}"#,
        )
        .unwrap();
        let names: Vec<_> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(names, [("x-b", b"2".as_slice()), ("x-b", b"1")]);
    }

    #[test]
    fn latin1_goes_back_to_its_bytes() {
        let response =
            read_text(r#"{"result":{"type":"response","status":200,"header":{"X-A":["caf\u00e9"]}}}"#)
                .unwrap();
        assert_eq!(response.headers()["x-a"].as_bytes(), b"caf\xe9");
    }

    #[test]
    fn skygears_own_codes_have_their_names_in_its_dialect_only() {
        for (code, name) in
            [(126, Some("PasswordPolicyViolated")), (10_000, Some("UnexpectedError")), (10_001, None)]
        {
            let reply = Bytes::from(format!(r#"{{"error":{{"code":{code},"message":"m"}}}}"#));
            for (dialect, name) in [(Dialect::SkygearV1, name), (Dialect::GearwayV1, None)] {
                let Err(Error::Handler(error)) = read(&reply, dialect, 1000) else { panic!("{code}") };
                assert_eq!(error.name.as_deref(), name, "{code} {dialect:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            for dialect in [Dialect::GearwayV1, Dialect::SkygearV1] {
                read(&Bytes::from(body.clone()), dialect, 1000).ok();
            }
        }

        #[test]
        fn nothing_that_could_split_a_response_gets_through(
            status in -10_i64..70_000,
            name in "[ -~\\n\\r]{0,12}",
            value in "[ -~\\n\\r\u{0}\u{ff}\u{100}]{0,12}",
        ) {
            let reply = serde_json::json!({"result": {"type": "response", "status": status, "header": {name: [value]}}});
            if let Ok(response) = read_text(&reply.to_string()) {
                prop_assert!((200..600).contains(&response.status().as_u16()));
                for value in response.headers().values() {
                    prop_assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                }
            }
        }
    }
}
