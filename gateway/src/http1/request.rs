//! A head's lines as a request.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::head::{Fields, Head};

/// Puts the request that a head stands for where it is asked for; it shares the head's memory. False for a target that is no URI.
pub(super) fn of_head(bytes: &Bytes, head: &Head, fields: &Fields, parts: &mut Option<Parts>) -> bool {
    fill(bytes, head, fields, parts.insert(Request::new(()).into_parts().0)).is_some()
}

fn fill(bytes: &Bytes, head: &Head, fields: &Fields, parts: &mut Parts) -> Option<()> {
    parts.method = Method::from_bytes(&bytes[head.method.clone()]).ok()?;
    parts.uri = Uri::from_maybe_shared(bytes.slice(head.target.clone())).ok()?;
    parts.version = if head.http_11 { Version::HTTP_11 } else { Version::HTTP_10 };
    parts.headers.reserve(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(&bytes[field.name.clone()]).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(field.value.clone())).ok()?;
        parts.headers.append(name, value);
    }
    Some(())
}
