//! The shape that nearly every reply has, read in one pass over its bytes.
//!
//! A body in base64 is most of a large reply, and goes from the reply's bytes to the response's without any JSON reader
//! looking at it first. Whatever is unusual, wrong above all, is left to the reader that can say what it is: what is read
//! here, that one would have read to the same response.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use memchr::memchr;

use super::{has_content, is_the_gateways, typed};
use crate::dialect::Dialect;
use crate::json::plain_prefix;
use crate::pieces;

/// The response, if the reply has the usual shape.
pub(super) fn scan(reply: &Bytes, dialect: Dialect) -> Option<Response<Bytes>> {
    let mut scan = Scan { bytes: reply, at: 0 };
    scan.token(b'{')?;
    if scan.string()? != b"result" {
        return None;
    }
    scan.token(b':')?;
    let Members { kind, value, status, header, body } = scan.members()?;
    scan.token(b'}')?;
    scan.skip_space();
    if scan.at != reply.len() {
        return None;
    }
    match (dialect, kind, value) {
        (Dialect::GearwayV1, Some(b"text"), Some(text))
            if status.is_none() && header.is_none() && body.is_none() =>
        {
            std::str::from_utf8(text).ok()?;
            Some(typed("text/plain; charset=utf-8", reply.slice_ref(text)))
        }
        (Dialect::GearwayV1, Some(b"response"), None) | (Dialect::SkygearV1, None, None) => {
            let status = status?;
            let body = pieces::decode(body.unwrap_or_default()).ok()?;
            let mut response = Response::new(if has_content(status) { body } else { Bytes::new() });
            *response.status_mut() = status;
            *response.headers_mut() = header.unwrap_or_default();
            Some(response)
        }
        (Dialect::GearwayV1 | Dialect::SkygearV1, _, _) => None,
    }
}

/// What stands in `result`, each at most once.
#[derive(Default)]
struct Members<'r> {
    kind: Option<&'r [u8]>,
    /// The text between its quotes; not known to be UTF-8.
    value: Option<&'r [u8]>,
    status: Option<StatusCode>,
    header: Option<HeaderMap>,
    /// The text between its quotes, which may be anything.
    body: Option<&'r [u8]>,
}

/// Reads on over JSON as long as it is of the plainest kind; [`None`] says that it is not, or is none.
struct Scan<'r> {
    bytes: &'r [u8],
    at: usize,
}

impl<'r> Scan<'r> {
    fn members(&mut self) -> Option<Members<'r>> {
        let mut members = Members::default();
        self.token(b'{')?;
        loop {
            let name = self.string()?;
            self.token(b':')?;
            let is_new = match name {
                b"type" => members.kind.replace(self.string()?).is_none(),
                b"value" => members.value.replace(self.string()?).is_none(),
                b"status" => members.status.replace(self.status()?).is_none(),
                b"header" => members.header.replace(self.header()?).is_none(),
                b"body" => members.body.replace(self.until_quote()?).is_none(),
                _ => false,
            };
            if !is_new {
                return None;
            }
            if !self.goes_on(b'}')? {
                return Some(members);
            }
        }
    }

    fn header(&mut self) -> Option<HeaderMap> {
        let mut header = HeaderMap::new();
        self.token(b'{')?;
        if self.is_next(b'}') {
            return Some(header);
        }
        loop {
            let name = HeaderName::from_bytes(self.string()?).ok()?;
            let is_dropped = is_the_gateways(&name);
            self.token(b':')?;
            self.token(b'[')?;
            let mut more = !self.is_next(b']');
            while more {
                let value = self.string()?;
                if !value.is_ascii() {
                    return None;
                }
                if !is_dropped {
                    header.try_append(name.clone(), field_value(&name, value)?).ok()?;
                }
                more = self.goes_on(b']')?;
            }
            if !self.goes_on(b'}')? {
                return Some(header);
            }
        }
    }

    /// A whole number that is the status of a response.
    fn status(&mut self) -> Option<StatusCode> {
        self.skip_space();
        let digits: &[u8; 3] = self.bytes.get(self.at..)?.first_chunk()?;
        if !matches!(digits[0], b'2'..=b'5') {
            return None;
        }
        // A fourth digit or a fraction is neither the comma nor the brace that has to follow.
        self.at += digits.len();
        StatusCode::from_bytes(digits).ok()
    }

    /// A string without escapes, as it stands between its quotes.
    fn string(&mut self) -> Option<&'r [u8]> {
        self.token(b'"')?;
        let rest = &self.bytes[self.at..];
        let plain = plain_prefix(rest);
        if *rest.get(plain)? != b'"' {
            return None;
        }
        self.at += plain + 1;
        Some(&rest[..plain])
    }

    /// As [`string`](Self::string), for one that is checked by what becomes of it.
    fn until_quote(&mut self) -> Option<&'r [u8]> {
        self.token(b'"')?;
        let rest = &self.bytes[self.at..];
        let length = memchr(b'"', rest)?;
        self.at += length + 1;
        Some(&rest[..length])
    }

    /// Whether a comma comes next, and not the end of the list or object.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        if self.is_next(b',') {
            return Some(true);
        }
        self.token(end).map(|()| false)
    }

    fn token(&mut self, token: u8) -> Option<()> {
        self.is_next(token).then_some(())
    }

    /// Takes the token if it comes next.
    fn is_next(&mut self, token: u8) -> bool {
        self.skip_space();
        let found = self.bytes.get(self.at) == Some(&token);
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }
}

/// The commonest value needs no memory of its own.
fn field_value(name: &HeaderName, value: &[u8]) -> Option<HeaderValue> {
    if name == CONTENT_TYPE && value == b"application/json" {
        return Some(HeaderValue::from_static("application/json"));
    }
    HeaderValue::from_bytes(value).ok()
}

#[cfg(test)]
mod tests;
