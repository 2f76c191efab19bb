//! What a worker answers, in both dialects, against a reading by plain JSON values. The input is a line that begins with
//! `s` for `skygear-v1`, and the body.
#![no_main]

use bytes::Bytes;
use gearway::dialect::Dialect;
use gearway::error::Error;
use gearway::respond::read;
use gearway_protocol::Base64Body;
use http::{Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const MAX_BODY: u64 = 1000;

fuzz_target!(|data: &[u8]| {
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let dialect = if data.starts_with(b"s") { Dialect::SkygearV1 } else { Dialect::GearwayV1 };
    let body = Bytes::copy_from_slice(data.get(line + 1..).unwrap_or_default());
    match read(&body, dialect, MAX_BODY) {
        Ok(response) => check(&response, dialect, &body),
        Err(error) => {
            assert!(matches!(error, Error::Nonsense { .. } | Error::Handler(_)), "{error:?}");
            let shown: Value = serde_json::from_slice(&error.to_json("id")).expect("errors are JSON");
            if dialect == Dialect::SkygearV1 {
                assert_eq!(shown["error"]["info"].get("trace"), None, "{shown}");
            }
        }
    }
});

fn check(response: &Response<Bytes>, dialect: Dialect, body: &[u8]) {
    assert!((200..600).contains(&response.status().as_u16()));
    assert!(response.body().len() as u64 <= MAX_BODY);
    for (name, value) in response.headers() {
        let name = name.as_str();
        let framing =
            ["content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "trailer", "te"];
        assert!(!framing.contains(&name) && !name.starts_with("proxy-"), "{name}");
        assert!(!value.as_bytes().iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{value:?}");
    }
    // Values nested deeper than the plain reading goes are passed on as they are.
    let Ok(reply) = serde_json::from_slice::<Value>(body) else { return };
    let result = &reply["result"];
    assert!(result.is_object() && reply.get("error").is_none_or(Value::is_null), "{reply}");
    let kind =
        if dialect == Dialect::SkygearV1 { "response" } else { result["type"].as_str().unwrap_or_default() };
    match kind {
        "text" => assert_eq!(result["value"].as_str().map(str::as_bytes), Some(&response.body()[..])),
        "json" => {
            let sent: Value = serde_json::from_slice(response.body()).expect("the value is JSON");
            assert_eq!(result["value"], sent);
        }
        "response" => {
            assert_eq!(result["status"].as_u64(), Some(u64::from(response.status().as_u16())));
            let decoded =
                Base64Body::decode(result["body"].as_str().unwrap_or_default()).expect("it was accepted");
            let empty = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            assert_eq!(&response.body()[..], if empty { &[] } else { &decoded[..] });
            // Names that differ in case alone are one header with the values of all.
            let mut left = response.headers().clone();
            for (name, values) in result["header"].as_object().into_iter().flatten() {
                if let Some(got) = response.headers().get(name) {
                    assert!(values.is_array(), "{values}");
                    assert!(!got.as_bytes().contains(&b'\n'));
                    left.remove(name);
                }
            }
            assert!(left.is_empty(), "{left:?}");
        }
        other => panic!("{other:?} was accepted: {reply}"),
    }
}
