//! Headers that a signature depends on: one that is repeated could be read in two ways, so it is refused.

use http::{HeaderMap, HeaderName};

use super::Rejected;

/// What a request may bring at most, so that nobody makes the gateway check thousands.
pub(super) const MAX_SIGNATURES: usize = 16;

pub(super) fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, Rejected> {
    optional(headers, name)?.ok_or_else(|| Rejected::Missing(name.clone()))
}

pub(super) fn optional<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Rejected> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Rejected::Repeated(name.clone()));
    }
    let text = value.to_str().map_err(|_| malformed(name, "visible ASCII"))?;
    Ok(Some(text))
}

pub(super) fn malformed(header: &HeaderName, wanted: &'static str) -> Rejected {
    Rejected::Malformed { header: header.clone(), wanted }
}

/// A time in whole seconds since 1970. Nothing but digits, so that there is one way to write what is signed.
pub(super) fn seconds(text: &str, header: &HeaderName) -> Result<i64, Rejected> {
    let digits = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if digits { text.parse().ok() } else { None };
    parsed.ok_or_else(|| malformed(header, "a time in seconds since 1970"))
}
