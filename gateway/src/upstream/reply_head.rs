//! The head of a worker's reply. RFC 9112 sections 4, 5 and 6.

use std::mem::MaybeUninit;

use http::StatusCode;

use super::reply::ReplyError;

/// As many header fields as a request may have.
const MAX_FIELDS: usize = 100;

/// What a head says of its reply.
#[derive(Debug)]
pub(super) struct ReplyHead {
    pub(super) len: usize,
    pub(super) status: StatusCode,
    pub(super) framing: Framing,
    pub(super) keeps_alive: bool,
}

/// Where the reply ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    /// With the connection.
    UntilEnd,
}

impl ReplyHead {
    /// Reads a whole head, its empty line included.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ReplyError> {
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut response,
            bytes,
            &mut fields,
        );
        match parsed {
            Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
            // It ended at an empty line that a stricter reader does not see.
            Ok(_) => return Err(ReplyError::Nonsense("a line of its head does not end in CR LF")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ReplyError::Nonsense("its head has too many fields"));
            }
            Err(_) => return Err(ReplyError::Nonsense("its head is malformed")),
        }
        if has_bare_lf(bytes) {
            return Err(ReplyError::Nonsense("a line of its head does not end in CR LF"));
        }
        let is_http_11 = response.version == Some(1);
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .filter(|status| *status != StatusCode::SWITCHING_PROTOCOLS)
            .ok_or(ReplyError::Nonsense("its status is none that answers a call"))?;
        let mut length = None;
        let mut chunked = false;
        let mut keeps_alive = is_http_11;
        for field in &*response.headers {
            if field.name.eq_ignore_ascii_case("content-length") {
                if length.replace(decimal(field.value)?).is_some() {
                    return Err(ReplyError::Nonsense("it has several lengths"));
                }
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !field.value.eq_ignore_ascii_case(b"chunked") || !is_http_11 {
                    return Err(ReplyError::Nonsense("its Transfer-Encoding is not one chunked"));
                }
                chunked = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                let mut options = field.value.split(|byte| *byte == b',');
                keeps_alive &= !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        let framing = match (length, chunked) {
            (Some(_), true) => return Err(ReplyError::Nonsense("it has a length and is chunked")),
            _ if has_no_body(status) => Framing::Length(0),
            (Some(length), false) => Framing::Length(length),
            (None, true) => Framing::Chunked,
            (None, false) => Framing::UntilEnd,
        };
        if framing == Framing::UntilEnd {
            keeps_alive = false;
        }
        Ok(Self { len: bytes.len(), status, framing, keeps_alive })
    }
}

/// The value of the first field of this name in a head that was parsed before.
pub(super) fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    response.parse(head).ok()?;
    let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    Some(field.value)
}

/// RFC 9112 section 6.3.
fn has_no_body(status: StatusCode) -> bool {
    status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Digits and nothing else: a sign, a list or a space has more than one reading.
fn decimal(value: &[u8]) -> Result<u64, ReplyError> {
    let digits =
        std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(ReplyError::Nonsense("its length is no number"))
}

fn has_bare_lf(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|place| place == 0 || head[place - 1] != b'\r')
}
