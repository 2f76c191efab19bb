//! A request's parts to the bytes of an envelope. Contract section 5.

use std::net::IpAddr;
use std::time::Instant;

use gearway_protocol::Base64Body;
use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use crate::auth::{Permit, is_credential_header};
use crate::body::Body;
use crate::dialect::Dialect;
use crate::json::{plain_prefix, write_escaped, write_str};
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
    pub body: &'a Body,
    pub remote_addr: IpAddr,
    /// Whether what the peer says of those before it counts.
    pub peer_is_trusted: bool,
    pub request_id: &'a str,
    pub permit: &'a Permit,
    /// What the pattern's `{param}`s stood for, in order.
    pub captures: &'a [&'a str],
    pub deadline: Instant,
    /// The JSON of `context.delivery`, for a call from the log.
    pub delivery: Option<&'a str>,
}

/// What follows the body's base64 in an envelope.
pub const TAIL: &[u8] = br#""}}"#;

/// What an envelope takes beside its body, mostly. Only a first guess: the buffer grows when a request has more.
const USUAL_HEAD: usize = 1024;

/// Appends the envelope to `out`, by hand: the body goes from its bytes to base64 in the outgoing buffer, with no string
/// between.
pub fn encode(call: &Call<'_>, offer: &Offer, now: Instant, out: &mut Vec<u8>) {
    let room = base64_len(call.body.len()).saturating_add(USUAL_HEAD as u64);
    out.reserve(usize::try_from(room).unwrap_or(USUAL_HEAD));
    encode_head(call, offer, now, out);
    match call.body {
        Body::Plain(bytes) => Base64Body::encode_to(bytes, out),
        Body::Text { text, .. } => text.iter().for_each(|piece| out.extend_from_slice(piece)),
    }
    out.extend_from_slice(TAIL);
}

/// How long `length` bytes are in base64. An envelope is as long as its head, this and its [`TAIL`].
#[must_use]
pub const fn base64_len(length: u64) -> u64 {
    length.div_ceil(3) * 4
}

/// Appends what stands before the body's base64. `now` is what the time left is counted from.
pub fn encode_head(call: &Call<'_>, offer: &Offer, now: Instant, out: &mut Vec<u8>) {
    let dialect = offer.replica.dialect;
    out.extend_from_slice(br#"{"kind":"handler","name":"#);
    write_str(out, offer.name());
    out.extend_from_slice(br#","context":{"request_id":"#);
    write_str(out, call.request_id);
    if let Some(user_id) = call.permit.user_id() {
        out.extend_from_slice(br#","user_id":"#);
        write_str(out, user_id);
    }
    if let Some(key) = call.permit.access_key_type() {
        out.extend_from_slice(br#","access_key_type":"#);
        write_str(out, key.as_str());
    }
    if dialect == Dialect::GearwayV1 {
        let left = call.deadline.saturating_duration_since(now).as_millis();
        out.extend_from_slice(br#","timeout_ms":"#);
        write_number(out, u64::try_from(left).unwrap_or(u64::MAX));
        if let Some(delivery) = call.delivery {
            out.extend_from_slice(br#","delivery":"#);
            out.extend_from_slice(delivery.as_bytes());
        }
    }
    out.extend_from_slice(br#"},"param":{"method":"#);
    write_str(out, call.method.as_str());
    out.extend_from_slice(br#","path":"#);
    write_str(out, call.path.as_str());
    if dialect == Dialect::GearwayV1 {
        out.extend_from_slice(br#","raw_path":"#);
        write_str(out, call.raw_path);
    }
    out.extend_from_slice(br#","query_string":"#);
    write_str(out, call.query);
    if dialect == Dialect::GearwayV1 {
        out.extend_from_slice(br#","params":{"#);
        for (place, (name, value)) in offer.params().zip(call.captures).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            write_str(out, name);
            out.push(b':');
            write_str(out, value);
        }
        out.extend_from_slice(br#"},"remote_addr":""#);
        write_address(out, call.remote_addr);
        out.push(b'"');
    }
    out.extend_from_slice(br#","header":{"#);
    write_headers(out, call);
    out.extend_from_slice(br#"},"body":""#);
}

fn write_headers(out: &mut Vec<u8>, call: &Call<'_>) {
    out.extend_from_slice(br#""Host":["#);
    write_str(out, call.host);
    out.push(b']');
    if !call.body.is_empty() && !call.headers.contains_key(header::CONTENT_LENGTH) {
        out.extend_from_slice(br#","Content-Length":[""#);
        write_number(out, call.body.len());
        out.extend_from_slice(br#""]"#);
    }
    // The values of one name follow each other, so none has to be looked up.
    let mut last: Option<&HeaderName> = None;
    for (name, value) in call.headers {
        if last == Some(name) {
            out.push(b',');
        } else {
            if !reaches_worker(name, call.permit, call.peer_is_trusted) {
                continue;
            }
            if last.is_some() {
                out.push(b']');
            }
            out.extend_from_slice(b",\"");
            write_canonical_case(out, name);
            out.extend_from_slice(b"\":[");
            last = Some(name);
        }
        write_latin1(out, value.as_bytes());
    }
    if last.is_some() {
        out.push(b']');
    }
}

/// Contract section 4, and threats of spoofing: hop-by-hop and credential headers never reach a worker, and what a peer
/// says of those before it only when the peer is trusted. (What `Connection` names is gone already.)
pub(crate) fn reaches_worker(name: &HeaderName, permit: &Permit, peer_is_trusted: bool) -> bool {
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
        "authorization" => !permit.authorization_is_ours(),
        "forwarded" | "x-real-ip" => peer_is_trusted,
        other if other.starts_with("x-forwarded-") => peer_is_trusted,
        _ => !is_credential_header(name),
    }
}

/// `x-hub-signature-256` as `X-Hub-Signature-256`: the form of Go's `CanonicalMIMEHeaderKey`, which Skygear's plugins look for.
fn write_canonical_case(out: &mut Vec<u8>, name: &HeaderName) {
    let name = name.as_str().as_bytes();
    if plain_prefix(name) < name.len() {
        return write_escaped_canonical_case(out, name);
    }
    let start = out.len();
    out.extend_from_slice(name);
    let written = &mut out[start..];
    if let Some(first) = written.first_mut() {
        first.make_ascii_uppercase();
    }
    // Without a branch, so that many bytes are done at once.
    if let Some(rest) = written.get_mut(1..) {
        for (byte, &before) in rest.iter_mut().zip(name) {
            let raised = before == b'-' && byte.is_ascii_lowercase();
            *byte -= u8::from(raised) * (b'a' - b'A');
        }
    }
}

fn write_escaped_canonical_case(out: &mut Vec<u8>, name: &[u8]) {
    let mut starts = true;
    for &byte in name {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ if starts => out.push(byte.to_ascii_uppercase()),
            _ => out.push(byte),
        }
        starts = byte == b'-';
    }
}

fn write_latin1(out: &mut Vec<u8>, value: &[u8]) {
    if value.is_ascii() {
        write_escaped(out, value);
    } else {
        write_str(out, &value.iter().map(|&byte| char::from(byte)).collect::<String>());
    }
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                write_number(out, octet.into());
            }
        }
        IpAddr::V6(address) => out.extend_from_slice(address.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
    fn addresses_are_written_as_they_are_shown() {
        for text in ["203.0.113.9", "0.0.0.0", "255.255.255.255", "::1", "2001:db8::a:0:1"] {
            let mut out = Vec::new();
            write_address(&mut out, text.parse().unwrap());
            assert_eq!(out, text.as_bytes());
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
