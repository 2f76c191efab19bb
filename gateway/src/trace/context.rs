use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

/// The lowest bit of a `traceparent`'s flags: whoever sent it records the trace.
const SAMPLED: u8 = 1;

/// What a `traceparent` says, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: u128,
    pub(super) span: u64,
    pub(super) flags: u8,
}

impl Context {
    pub(super) fn read(traceparent: &HeaderValue) -> Option<Self> {
        let Parent { trace, span, flags } = parts(traceparent.to_str().ok()?)?;
        Some(Self {
            trace: u128::from_str_radix(trace, 16).ok()?,
            span: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        })
    }

    pub(super) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(super) fn sampled(self, sampled: bool) -> Self {
        Self { flags: self.flags & !SAMPLED | u8::from(sampled), ..self }
    }

    pub(super) fn to_header(self) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    }
}

/// A valid `traceparent`'s parts.
struct Parent<'h> {
    trace: &'h str,
    span: &'h str,
    flags: &'h str,
}

/// What the client's `traceparent` says, if it sent a valid one.
pub(super) fn parent(headers: &HeaderMap) -> Option<Context> {
    Context::read(headers.get("traceparent")?)
}

/// The client's trace with a new span, or a trace that begins here, under the request's id where that could be a trace's.
pub(super) fn continued(headers: &HeaderMap, request_id: &str) -> HeaderValue {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok()).and_then(parts);
    let (random, span) = (random_hex(), random_hex());
    let (trace, flags) = match parent {
        Some(Parent { trace, flags, .. }) => (trace, flags),
        None if is_hex(request_id, 32) && is_not_zero(request_id) => (request_id, "00"),
        None => (str_of(&random), "00"),
    };
    let mut text: SmallVec<[u8; 55]> = SmallVec::new();
    for part in [b"00-", trace.as_bytes(), b"-", &span[16..], b"-", flags.as_bytes()] {
        text.extend_from_slice(part);
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

fn parts(value: &str) -> Option<Parent<'_>> {
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = is_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && is_not_zero(trace)
        && is_not_zero(span);
    valid.then_some(Parent { trace, span, flags })
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_not_zero(text: &str) -> bool {
    text.bytes().any(|byte| byte != b'0')
}

/// A new span's id, which is never zero.
pub(super) fn random_span() -> u64 {
    fastrand::u64(1..)
}

/// 32 hexadecimal digits: an id that a trace may have.
pub(crate) fn random_id() -> String {
    str_of(&random_hex()).to_owned()
}

/// 32 hexadecimal digits, not all of them zero in either half.
fn random_hex() -> [u8; 32] {
    let mut digits = [0; 32];
    for half in digits.chunks_exact_mut(16) {
        let mut number = random_span();
        for digit in half.iter_mut().rev() {
            *digit = b"0123456789abcdef"[(number & 15) as usize];
            number >>= 4;
        }
    }
    digits
}

fn str_of(digits: &[u8; 32]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn sent(traceparent: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            http::HeaderName::from_static("traceparent"),
            HeaderValue::from_str(traceparent).unwrap(),
        )])
    }

    #[test]
    fn a_trace_goes_on_with_a_new_span() {
        for (given, flags) in [
            ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "01"),
            ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-future", "00"),
        ] {
            let value = continued(&sent(given), "id");
            let value = value.to_str().unwrap();
            assert!(value.starts_with(&format!("00-{TRACE}-")) && value.ends_with(flags), "{value}");
            assert!(!value.contains("00f067aa0ba902b7"));
        }
        for given in [
            "",
            "00-0-0-0",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let request_id = "0123456789abcdef0123456789abcdef";
            let value = continued(&sent(given), request_id);
            assert!(value.to_str().unwrap().starts_with(&format!("00-{request_id}-")), "{given}");
        }
    }

    #[test]
    fn an_id_of_zeros_names_no_trace() {
        let value = continued(&HeaderMap::new(), &"0".repeat(32));
        assert!(Context::read(&value).is_some(), "{value:?}");
    }

    #[test]
    fn numbers_and_text_say_the_same() {
        let text = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-03");
        let context = Context::read(&text).unwrap();
        assert_eq!(context.to_header(), text);
        assert!(context.is_sampled() && !context.sampled(false).is_sampled());
        assert_eq!(context.sampled(false).flags, 2);
    }
}
