//! The request target's path in its one canonical form. Contract section 3.

use std::borrow::Cow;

use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What the path of a request target comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target<'r> {
    Path(CanonicalPath<'r>),
    /// The path had empty segments (`//`). This is the path without them, percent-encoded, ready for a `Location`
    /// header: it starts with exactly one `/`, so it never names another host.
    Redirect(String),
}

/// A percent-decoded path that starts with `/` and has no empty segments, no dot segments, no `\` and no NUL.
///
/// It borrows from the request as long as there was nothing to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanonicalPath<'r> {
    text: Cow<'r, str>,
}

/// Why a path is refused with 400. The texts are for the client and repeat nothing of what it sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path must start with /")]
    NotAbsolute,
    #[error("the path has a character that must be percent-encoded")]
    Unencoded,
    #[error("the path has a % without two hexadecimal digits after it; a percent sign itself is written %25")]
    BadEscape,
    #[error("the path has an encoded slash (%2F), which is not accepted")]
    EncodedSlash,
    #[error("the path has a backslash, which is not accepted, encoded or not")]
    Backslash,
    #[error("the path has a NUL character (%00), which is not accepted")]
    Nul,
    #[error("the path has a segment . or .., which is not accepted, encoded or not; send the resolved path")]
    DotSegment,
    #[error("the path is not UTF-8 once it is percent-decoded")]
    NotUtf8,
}

/// Reads the path of a request target: what stands before the first `?`.
///
/// Nothing else in the gateway decodes a path, so that the route, the credentials that it demands and the worker
/// see the same one.
///
/// # Errors
/// When the path could be read in two ways, or in none. An error goes before a redirect, for a redirect would
/// promise that the rest of the path is in order.
pub fn canonicalise(raw: &str) -> Result<Target<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if let Some(byte) = raw.bytes().find(|&byte| !may_stand_raw(byte)) {
        return Err(if byte == b'\\' { PathError::Backslash } else { PathError::Unencoded });
    }
    let text = decode(raw)?;

    let mut has_empty_segment = false;
    let mut start = 1;
    while let Some(length) = memchr(b'/', &text.as_bytes()[start..]) {
        has_empty_segment |= length == 0;
        refuse_dots(&text.as_bytes()[start..start + length])?;
        start += length + 1;
    }
    refuse_dots(&text.as_bytes()[start..])?;

    if has_empty_segment {
        return Ok(Target::Redirect(without_empty_segments(&text).encoded()));
    }
    Ok(Target::Path(CanonicalPath { text }))
}

impl CanonicalPath<'_> {
    /// The whole path, decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The decoded segments, none of them empty. The root has none.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text.split('/').filter(|segment| !segment.is_empty())
    }

    /// Whether the path ends in `/`, as the root does.
    #[must_use]
    pub fn has_trailing_slash(&self) -> bool {
        self.text.ends_with('/')
    }

    /// The path percent-encoded (RFC 3986 section 3.3), for a `Location` header or a log line.
    #[must_use]
    pub fn encoded(&self) -> String {
        utf8_percent_encode(&self.text, NOT_IN_PATHS).to_string()
    }

    /// The same path, free of the request that it was read from.
    #[must_use]
    pub fn into_owned(self) -> CanonicalPath<'static> {
        CanonicalPath { text: Cow::Owned(self.text.into_owned()) }
    }
}

/// All but `/` and the `pchar` of RFC 3986.
const NOT_IN_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// `?` and `#` end a path, so a raw one here means that another reader would see a shorter path. Other visible
/// characters are taken although RFC 3986 wants some of them encoded: browsers and webhook senders do not encode
/// `|` or `"`, and everyone reads them alike.
const fn may_stand_raw(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'?' | b'#')
}

fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    let mut rest = raw.as_bytes();
    let Some(mut plain) = memchr(b'%', rest) else { return Ok(Cow::Borrowed(raw)) };
    let mut decoded = Vec::with_capacity(raw.len());
    loop {
        decoded.extend_from_slice(&rest[..plain]);
        let [b'%', high, low, after @ ..] = &rest[plain..] else { return Err(PathError::BadEscape) };
        match hex(*high)? << 4 | hex(*low)? {
            b'/' => return Err(PathError::EncodedSlash),
            b'\\' => return Err(PathError::Backslash),
            0 => return Err(PathError::Nul),
            byte => decoded.push(byte),
        }
        rest = after;
        match memchr(b'%', rest) {
            Some(next) => plain = next,
            None => break,
        }
    }
    decoded.extend_from_slice(rest);
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| PathError::NotUtf8)
}

fn hex(digit: u8) -> Result<u8, PathError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(PathError::BadEscape),
    }
}

fn refuse_dots(segment: &[u8]) -> Result<(), PathError> {
    if matches!(segment, b"." | b"..") { Err(PathError::DotSegment) } else { Ok(()) }
}

fn without_empty_segments(text: &str) -> CanonicalPath<'static> {
    let mut kept = String::with_capacity(text.len());
    for segment in text.split('/').filter(|segment| !segment.is_empty()) {
        kept.push('/');
        kept.push_str(segment);
    }
    if text.ends_with('/') {
        kept.push('/');
    }
    CanonicalPath { text: Cow::Owned(kept) }
}

#[cfg(test)]
mod tests;
