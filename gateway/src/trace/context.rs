use http::{HeaderMap, HeaderValue};

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
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[36..52].copy_from_slice(&random_half());
    match parent {
        Some(Parent { trace, flags, .. }) => {
            text[3..35].copy_from_slice(trace.as_bytes());
            text[53..].copy_from_slice(flags.as_bytes());
        }
        None if is_hex(request_id, 32) && is_not_zero(request_id) => {
            text[3..35].copy_from_slice(request_id.as_bytes());
        }
        None => text[3..35].copy_from_slice(&random_hex()),
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
    let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    // All of them, without an early end: so they are looked at many at once.
    text.len() == digits && text.bytes().fold(true, |all, byte| all & is_digit(byte))
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
    for half in digits.as_chunks_mut().0 {
        *half = random_half();
    }
    digits
}

/// 16 hexadecimal digits, not all of them zero.
fn random_half() -> [u8; 16] {
    let mut digits = [0; 16];
    let bytes = random_span().to_be_bytes();
    let digit = |digit: u8| digit + b'0' + u8::from(digit > 9) * (b'a' - 10 - b'0');
    for (place, byte) in bytes.into_iter().enumerate() {
        digits[2 * place] = digit(byte >> 4);
        digits[2 * place + 1] = digit(byte & 15);
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
    fn spans_are_sixteen_digits_and_no_two_are_the_same() {
        let spans: Vec<_> = (0..100)
            .map(|_| continued(&HeaderMap::new(), "id").to_str().unwrap()[36..52].to_owned())
            .collect();
        assert!(spans.iter().all(|span| is_hex(span, 16)), "{spans:?}");
        let digits: std::collections::BTreeSet<char> = spans.concat().chars().collect();
        assert_eq!(digits.len(), 16);
        assert_eq!(std::collections::BTreeSet::from_iter(&spans).len(), spans.len());
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
