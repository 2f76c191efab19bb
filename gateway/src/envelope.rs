//! A request's parts to the bytes of an envelope. Contract section 5.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use crate::auth::{Permit, is_credential_header};
use crate::dialect::Dialect;
use crate::path::CanonicalPath;
use crate::registry::Offer;

/// One request, ready to be written for whichever replica is chosen.
#[derive(Debug)]
pub struct Call<'a> {
    pub method: &'a Method,
    pub path: &'a CanonicalPath<'a>,
    pub raw_path: &'a str,
    /// Without credentials.
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    /// The value of `Host`, or the authority of an absolute request target, which counts before it.
    pub host: &'a str,
    pub body: &'a Bytes,
    pub remote_addr: IpAddr,
    /// Whether what the peer says of those before it counts.
    pub peer_is_trusted: bool,
    pub request_id: &'a str,
    pub permit: &'a Permit,
    /// What the pattern's `{param}`s stood for, in order.
    pub captures: &'a [&'a str],
    pub deadline: Instant,
}

/// Writes the envelope by hand: the body goes from its bytes to base64 in the outgoing buffer, with no string between.
#[must_use]
pub fn encode(call: &Call<'_>, offer: &Offer) -> Vec<u8> {
    let mut out = Vec::with_capacity(call.body.len().div_ceil(3) * 4 + 1024);
    out.extend_from_slice(br#"{"kind":"handler","name":"#);
    write_str(&mut out, offer.name());
    out.extend_from_slice(br#","context":{"request_id":"#);
    write_str(&mut out, call.request_id);
    if let Some(user_id) = call.permit.user_id() {
        out.extend_from_slice(br#","user_id":"#);
        write_str(&mut out, user_id);
    }
    if let Some(key) = call.permit.access_key_type() {
        out.extend_from_slice(br#","access_key_type":"#);
        write_str(&mut out, key.as_str());
    }
    let dialect = offer.replica.dialect;
    if dialect == Dialect::GearwayV1 {
        let left = call.deadline.saturating_duration_since(Instant::now()).as_millis();
        out.extend_from_slice(br#","timeout_ms":"#);
        out.extend_from_slice(left.to_string().as_bytes());
    }
    out.extend_from_slice(br#"},"param":{"method":"#);
    write_str(&mut out, call.method.as_str());
    out.extend_from_slice(br#","path":"#);
    write_str(&mut out, call.path.as_str());
    if dialect == Dialect::GearwayV1 {
        out.extend_from_slice(br#","raw_path":"#);
        write_str(&mut out, call.raw_path);
    }
    out.extend_from_slice(br#","query_string":"#);
    write_str(&mut out, call.query);
    if dialect == Dialect::GearwayV1 {
        out.extend_from_slice(br#","params":{"#);
        for (place, (name, value)) in offer.params().zip(call.captures).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_str(&mut out, name);
            out.push(b':');
            write_str(&mut out, value);
        }
        out.push(b'}');
        out.extend_from_slice(br#","remote_addr":"#);
        write_str(&mut out, &call.remote_addr.to_string());
    }
    out.extend_from_slice(br#","header":{"#);
    write_headers(&mut out, call);
    out.extend_from_slice(br#"},"body":""#);
    base64_simd::STANDARD.encode_append(call.body, &mut out);
    out.extend_from_slice(br#""}}"#);
    out
}

fn write_headers(out: &mut Vec<u8>, call: &Call<'_>) {
    out.extend_from_slice(br#""Host":["#);
    write_str(out, call.host);
    out.push(b']');
    if !call.body.is_empty() && !call.headers.contains_key(header::CONTENT_LENGTH) {
        out.extend_from_slice(br#","Content-Length":[""#);
        out.extend_from_slice(call.body.len().to_string().as_bytes());
        out.extend_from_slice(br#""]"#);
    }
    for name in call.headers.keys().filter(|name| reaches_worker(name, call)) {
        out.extend_from_slice(b",\"");
        write_canonical_case(out, name);
        out.extend_from_slice(b"\":[");
        for (place, value) in call.headers.get_all(name).iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_latin1(out, value.as_bytes());
        }
        out.push(b']');
    }
}

/// Contract section 4, and threats of spoofing: hop-by-hop and credential headers never reach a worker, and what a peer
/// says of those before it only when the peer is trusted. (What `Connection` names is gone already.)
fn reaches_worker(name: &HeaderName, call: &Call<'_>) -> bool {
    match name.as_str() {
        "host" => false,
        "connection"
        | "keep-alive"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "transfer-encoding"
        | "upgrade"
        | "expect" => false,
        "authorization" => !call.permit.authorization_is_ours(),
        "forwarded" | "x-real-ip" => call.peer_is_trusted,
        other if other.starts_with("x-forwarded-") => call.peer_is_trusted,
        _ => !is_credential_header(name),
    }
}

/// `x-hub-signature-256` as `X-Hub-Signature-256`: the form of Go's `CanonicalMIMEHeaderKey`, which Skygear's plugins look for.
fn write_canonical_case(out: &mut Vec<u8>, name: &HeaderName) {
    let mut starts = true;
    for &byte in name.as_str().as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ if starts => out.push(byte.to_ascii_uppercase()),
            _ => out.push(byte),
        }
        starts = byte == b'-';
    }
}

fn write_latin1(out: &mut Vec<u8>, value: &[u8]) {
    match std::str::from_utf8(value) {
        Ok(text) if text.is_ascii() => write_str(out, text),
        _ => write_str(out, &value.iter().map(|&byte| char::from(byte)).collect::<String>()),
    }
}

fn write_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (place, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[written..place]);
        written = place + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
    }
    out.extend_from_slice(&bytes[written..]);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_read_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            write_str(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn header_values_read_back_byte_for_byte(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            write_latin1(&mut out, &value);
            let text: String = serde_json::from_slice(&out).unwrap();
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            prop_assert_eq!(bytes, value);
        }
    }

    #[test]
    fn names_take_their_canonical_case() {
        for (name, canonical) in [
            ("x-hub-signature-256", "X-Hub-Signature-256"),
            ("etag", "Etag"),
            ("www-authenticate", "Www-Authenticate"),
        ] {
            let mut out = Vec::new();
            write_canonical_case(&mut out, &HeaderName::from_static(name));
            assert_eq!(out, canonical.as_bytes());
        }
    }
}
