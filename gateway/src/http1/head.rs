//! One request head, read line by line. RFC 9112 sections 2.2, 3, 5 and 6; Contract section 7.
//!
//! Every check that two parsers are known to do differently is settled here by refusing: a head passes only if the
//! strictest reader accepts it, and then all of them agree on where its body ends.

use std::ops::Range;

use smallvec::SmallVec;

/// So many header fields a head may have.
pub const MAX_FIELDS: u8 = 100;

/// The longest target that [`http::Uri`] takes.
const MAX_TARGET: usize = 65_534;

/// The two values above this one mean something else to parsers in use.
const MAX_LENGTH: u64 = u64::MAX - 2;

/// `u64::MAX` has twenty digits, and h11 refuses more of them even when they are leading zeros.
const MAX_LENGTH_DIGITS: usize = 20;

/// Where a field's name and its value, without the white space around it, lie in the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Range<usize>,
    pub(super) value: Range<usize>,
}

/// The fields of one head; those of most fit without memory of their own.
pub(super) type Fields = SmallVec<[Field; 16]>;

/// What the lines of a head say about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) method: Range<usize>,
    pub(super) target: Range<usize>,
    pub(super) http_11: bool,
    pub(super) framing: Framing,
    /// Whether the client asks for the connection to close behind the response. RFC 9112 section 9.6.
    pub(super) asks_to_close: bool,
    /// Whether the client waits for a 100 before it sends the body. RFC 9110 section 10.1.1.
    pub(super) expects_continue: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// A body of so many bytes; without a body, none.
    Length(u64),
    Chunked,
    /// Nothing: what a client sends after CONNECT is for the tunnel in one reading and a request in another.
    Nothing,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// Not a head, or one with more than one reading: 400.
    Malformed,
    /// Too many bytes or too many fields: 431.
    TooLarge,
}

/// What the bytes of a head so far amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadStep {
    NeedMore,
    /// The head takes the first `len` bytes.
    Complete {
        len: usize,
        head: Head,
    },
    Refused(HeadError),
}

/// How far a head has been read. Remembers offsets and never bytes or fields, so it costs nothing to make one per request.
#[derive(Clone, Debug, Default)]
pub(super) struct HeadScan {
    /// Where the first line starts that is not checked yet.
    line: usize,
    /// No line ends before this offset, so that bytes that trickle in are looked at once.
    searched: usize,
    request_line: Option<RequestLine>,
    fields: u8,
    chunked: bool,
    length: Option<u64>,
    asks_to_close: bool,
    expects_continue: bool,
}

#[derive(Clone, Copy, Debug)]
struct RequestLine {
    method_len: usize,
    target_len: usize,
    http_11: bool,
    connect: bool,
}

/// A line that is whole and valid, or why there is none.
enum Line<T> {
    Complete { len: usize, found: T },
    Partial,
    Malformed,
    TooLarge,
}

enum HeadLine<'a> {
    /// The value with the white space around it.
    Field {
        name: &'a [u8],
        value: &'a [u8],
    },
    End,
}

impl HeadScan {
    /// Whether it has been shown bytes.
    pub(super) fn has_begun(&self) -> bool {
        self.line > 0 || self.searched > 0
    }

    /// Reads on. `head` starts with the head's first byte each time and may go on beyond its end; `max` bounds the
    /// head, its closing empty line included. Of a head that is complete, `fields` holds all fields.
    pub(super) fn advance(&mut self, head: &[u8], max: usize, fields: &mut Fields) -> HeadStep {
        fields.clear();
        let step = match self.read_lines(head, fields) {
            HeadStep::Complete { len, .. } if len > max => HeadStep::Refused(HeadError::TooLarge),
            HeadStep::NeedMore if head.len() >= max => HeadStep::Refused(HeadError::TooLarge),
            step @ (HeadStep::Complete { .. } | HeadStep::NeedMore | HeadStep::Refused(_)) => step,
        };
        if matches!(step, HeadStep::Complete { .. }) && fields.len() < usize::from(self.fields) {
            // It came in parts, of which the earlier ones' fields were forgotten.
            return Self::default().advance(head, max, fields);
        }
        step
    }

    fn read_lines(&mut self, head: &[u8], fields: &mut Fields) -> HeadStep {
        const MALFORMED: HeadStep = HeadStep::Refused(HeadError::Malformed);
        const TOO_LARGE: HeadStep = HeadStep::Refused(HeadError::TooLarge);

        if self.searched > self.line {
            let fresh = &head[self.searched..];
            if memchr::memchr(b'\n', fresh).is_none() {
                let hopeless = cannot_become_a_line(&head[self.searched - 1..]);
                self.searched = head.len();
                return if hopeless { MALFORMED } else { HeadStep::NeedMore };
            }
        }

        let request_line = match self.request_line {
            Some(known) => known,
            None => match read_request_line(&head[self.line..]) {
                Line::Complete { len, found } => {
                    self.line += len;
                    self.request_line = Some(found);
                    found
                }
                Line::Partial => {
                    self.searched = head.len();
                    return HeadStep::NeedMore;
                }
                Line::Malformed => return MALFORMED,
                Line::TooLarge => return TOO_LARGE,
            },
        };

        loop {
            match read_head_line(&head[self.line..]) {
                Line::Complete { len, found: HeadLine::Field { name, value } } => {
                    if self.fields == MAX_FIELDS {
                        return TOO_LARGE;
                    }
                    self.fields += 1;
                    let name_end = self.line + name.len();
                    let value_start = name_end + 1 + leading_ows(value);
                    let trimmed = trim_ows(value);
                    if !self.note(name, value, trimmed, request_line) {
                        return MALFORMED;
                    }
                    fields.push(Field {
                        name: self.line..name_end,
                        value: value_start..value_start + trimmed.len(),
                    });
                    self.line += len;
                }
                Line::Complete { len, found: HeadLine::End } => {
                    let Some(framing) = self.framing(request_line) else { return MALFORMED };
                    let RequestLine { method_len, target_len, http_11, .. } = request_line;
                    let target = method_len + 1..method_len + 1 + target_len;
                    let Self { asks_to_close, expects_continue, .. } = *self;
                    let method = 0..method_len;
                    let head = Head { method, target, http_11, framing, asks_to_close, expects_continue };
                    return HeadStep::Complete { len: self.line + len, head };
                }
                Line::Partial => {
                    self.searched = head.len();
                    return HeadStep::NeedMore;
                }
                Line::Malformed => return MALFORMED,
                Line::TooLarge => return TOO_LARGE,
            }
        }
    }

    /// Remembers what a field says about the body and the connection; false if it makes the framing ambiguous.
    #[inline]
    fn note(&mut self, name: &[u8], value: &[u8], trimmed: &[u8], request_line: RequestLine) -> bool {
        match ConnectionField::of(name) {
            None => true,
            Some(ConnectionField::ContentLength) => {
                let first = self.length.is_none() && !self.chunked;
                self.length = parse_length(trimmed);
                first && self.length.is_some()
            }
            Some(ConnectionField::TransferEncoding) => {
                let first = self.length.is_none() && !self.chunked;
                // llhttp refuses a tab behind the coding.
                self.chunked = value.trim_ascii().eq_ignore_ascii_case(b"chunked") && !value.contains(&b'\t');
                first && self.chunked && request_line.http_11
            }
            Some(ConnectionField::Connection) => {
                self.asks_to_close |= names_close(trimmed);
                true
            }
            Some(ConnectionField::Expect) => {
                self.expects_continue = trimmed.eq_ignore_ascii_case(b"100-continue") && request_line.http_11;
                true
            }
        }
    }

    fn framing(&self, request_line: RequestLine) -> Option<Framing> {
        let framing = if self.chunked { Framing::Chunked } else { Framing::Length(self.length.unwrap_or(0)) };
        match (request_line.connect, framing) {
            (false, framing) => Some(framing),
            (true, Framing::Length(0) | Framing::Nothing) => Some(Framing::Nothing),
            // Some parsers read a body after CONNECT and others never do.
            (true, Framing::Length(_) | Framing::Chunked) => None,
        }
    }
}

/// The fields that say where a message ends and what becomes of the connection.
enum ConnectionField {
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
}

impl ConnectionField {
    #[inline]
    fn of(name: &[u8]) -> Option<Self> {
        match name.len() {
            6 if name.eq_ignore_ascii_case(b"expect") => Some(Self::Expect),
            10 if name.eq_ignore_ascii_case(b"connection") => Some(Self::Connection),
            14 if name.eq_ignore_ascii_case(b"content-length") => Some(Self::ContentLength),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => Some(Self::TransferEncoding),
            _ => None,
        }
    }
}

/// Whether bytes of an unfinished line hold what no line may hold, so that the client need not wait for its answer
/// until the line ends. Only the last byte may be a CR, whose LF may be under way.
fn cannot_become_a_line(bytes: &[u8]) -> bool {
    let Some((&last, earlier)) = bytes.split_last() else { return false };
    earlier.iter().any(|&byte| is_control(byte)) || (is_control(last) && last != b'\r')
}

/// `method SP target SP HTTP/1.x CRLF`, with exactly these two spaces.
fn read_request_line(bytes: &[u8]) -> Line<RequestLine> {
    let Some(method_len) = bytes.iter().position(|&byte| !is_token(byte)) else { return Line::Partial };
    if method_len == 0 || bytes[method_len] != b' ' {
        return Line::Malformed;
    }
    let (method, rest) = (&bytes[..method_len], &bytes[method_len + 1..]);

    let Some(target_len) = rest.iter().position(|&byte| !is_target(byte)) else { return Line::Partial };
    if target_len == 0 || rest[target_len] != b' ' {
        return Line::Malformed;
    }
    if target_len > MAX_TARGET {
        return Line::TooLarge;
    }
    let connect = method == b"CONNECT";
    if !connect && !has_target_form(&rest[..target_len]) {
        return Line::Malformed;
    }

    let version = &rest[target_len + 1..];
    let http_11 = match version.first_chunk() {
        Some(b"HTTP/1.1\r\n") => true,
        Some(b"HTTP/1.0\r\n") => false,
        Some(_) => return Line::Malformed,
        None if b"HTTP/1.1\r\n".starts_with(version) || b"HTTP/1.0\r\n".starts_with(version) => {
            return Line::Partial;
        }
        None => return Line::Malformed,
    };
    let len = method_len + 1 + target_len + 1 + b"HTTP/1.1\r\n".len();
    Line::Complete { len, found: RequestLine { method_len, target_len, http_11, connect } }
}

/// RFC 9112 section 3.2: a path, an absolute URL, or the asterisk. A bare name is a path to some parsers and an
/// authority to others. User information in a URL only ever hides its host (RFC 9110 section 4.2.4).
#[inline]
fn has_target_form(target: &[u8]) -> bool {
    if let [b'/', ..] | [b'*'] = target {
        return true;
    }
    let after_scheme = [b"http://".as_slice(), b"https://"].into_iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    });
    let authority = after_scheme.and_then(|rest| rest.split(|byte| matches!(byte, b'/' | b'?')).next());
    authority.is_some_and(|authority| !authority.is_empty() && !authority.contains(&b'@'))
}

/// A field, or the empty line that ends the head. A continuation line (obs-fold) has no name, so it is malformed.
#[inline]
fn read_head_line(bytes: &[u8]) -> Line<HeadLine<'_>> {
    let Some(name_len) = bytes.iter().position(|&byte| !is_token(byte)) else { return Line::Partial };
    let name = &bytes[..name_len];
    match (name_len, bytes[name_len]) {
        (0, b'\r') => {
            return match bytes.get(1) {
                Some(b'\n') => Line::Complete { len: 2, found: HeadLine::End },
                Some(_) => Line::Malformed,
                None => Line::Partial,
            };
        }
        (1.., b':') => {}
        _ => return Line::Malformed,
    }

    let rest = &bytes[name_len + 1..];
    let Some(value_len) = value_end(rest) else { return Line::Partial };
    match (rest[value_len], rest.get(value_len + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) => return Line::Partial,
        _ => return Line::Malformed,
    }
    let value = &rest[..value_len];
    Line::Complete { len: name_len + 1 + value_len + 2, found: HeadLine::Field { name, value } }
}

/// The offset of the first byte that may not stand in a field value: a control byte other than HTAB.
#[inline]
fn value_end(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        from += first_control(&bytes[from..])?;
        if bytes[from] != b'\t' {
            return Some(from);
        }
        from += 1;
    }
}

/// The offset of the first byte below 0x20 or equal to 0x7f. Eight bytes at a time: a borrow can only spoil marks
/// above the lowest true one, which is the one that counts.
#[inline]
fn first_control(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let differs_from_del = word ^ (ONES * 0x7f);
        let del = differs_from_del.wrapping_sub(ONES) & !differs_from_del;
        let marks = (below_space | del) & HIGH;
        if marks != 0 {
            return Some(index * 8 + marks.trailing_zeros() as usize / 8);
        }
    }
    let tail = rest.iter().position(|byte| byte.is_ascii_control())?;
    Some(words.len() * 8 + tail)
}

/// RFC 9110 section 8.6: digits alone. No sign, no list, no inner space.
fn parse_length(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > MAX_LENGTH_DIGITS {
        return None;
    }
    let mut length = 0_u64;
    for &byte in digits {
        if !byte.is_ascii_digit() {
            return None;
        }
        length = length.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    (length <= MAX_LENGTH).then_some(length)
}

/// Whether a value of Connection has `close` among its options. RFC 9110 section 7.6.1.
pub(super) fn names_close(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|option| trim_ows(option).eq_ignore_ascii_case(b"close"))
}

fn leading_ows(value: &[u8]) -> usize {
    value.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A `tchar` of RFC 9110 section 5.6.2.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// What may stand in a field value besides the visible: control bytes may not, HTAB excepted.
#[inline]
pub(super) fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Visible ASCII. `#` never stands in a request target (RFC 9112 section 3.2): some drop what follows it, and
/// others keep it.
#[inline]
fn is_target(byte: u8) -> bool {
    TARGET[usize::from(byte)]
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
};

static TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte <= 0x7e {
        table[byte] = byte as u8 != b'#';
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn control_bytes_are_found_by_words_as_by_bytes(bytes in proptest::collection::vec(
            prop_oneof![8 => 0x20_u8..=0xff, 1 => any::<u8>(), 1 => Just(0x7f_u8), 1 => Just(0x80)], 0..40,
        )) {
            prop_assert_eq!(first_control(&bytes), bytes.iter().position(u8::is_ascii_control));
        }

        #[test]
        fn lengths_are_read_exactly(length in 0..=MAX_LENGTH) {
            prop_assert_eq!(parse_length(length.to_string().as_bytes()), Some(length));
        }

        #[test]
        fn httparse_agrees_with_every_accepted_head(
            head in "[A-Z]{1,4} /[a-z?=%\"-]{0,9} HTTP/1\\.[01]\r\n([a-zX-]{1,9}:[ -~\t]{0,9}\r\n){0,5}\r\n(GET|\r\n)?",
            cut in 0_usize..40,
        ) {
            let bytes = head.as_bytes();
            let mut fields = Fields::new();
            let mut scan = HeadScan::default();
            let mut step = scan.advance(&bytes[..cut.min(bytes.len())], 1000, &mut fields);
            if step == HeadStep::NeedMore {
                step = scan.advance(bytes, 1000, &mut fields);
            }
            if let HeadStep::Complete { len, head } = step {
                let mut parsed = [httparse::EMPTY_HEADER; 8];
                let mut request = httparse::Request::new(&mut parsed);
                prop_assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(len)));
                prop_assert_eq!(request.method.map(str::as_bytes), Some(&bytes[head.method]));
                prop_assert_eq!(request.path.map(str::as_bytes), Some(&bytes[head.target]));
                let read: Vec<_> =
                    fields.iter().map(|field| (&bytes[field.name.clone()], &bytes[field.value.clone()])).collect();
                let expected: Vec<_> =
                    request.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
                prop_assert_eq!(read, expected);
            }
        }
    }
}
