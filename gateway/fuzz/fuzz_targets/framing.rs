//! What the framing check lets through to hyper: the same however the bytes arrive, and nothing but whole heads that httparse reads
//! alike, with bodies that end where the check says. The first byte of the input says where the rest is cut.
#![no_main]

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use gearway::framing::{FramedIo, FramingLimits};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::runtime::Runtime;

const MAX_HEADER: usize = 512;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

/// A client whose bytes arrive so many at a time.
struct Client<'a> {
    bytes: &'a [u8],
    piece: usize,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.bytes.len()).min(buf.remaining());
        let (now, later) = self.bytes.split_at(length);
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = let_through(bytes, usize::MAX);
    let pieces = let_through(bytes, usize::from(cut).max(1));
    // Whether a line is malformed or too long may depend on how much of it is there.
    assert_eq!(genuine(&whole.0), genuine(&pieces.0), "cut every {cut} bytes");
    assert_eq!(whole.1, pieces.1, "cut every {cut} bytes");
    let (delivered, refused_in_body) = whole;
    check(bytes, &delivered, refused_in_body);
});

/// What was let through, and whether a stand-in for a refused head follows it.
fn genuine(delivered: &[u8]) -> (&[u8], bool) {
    let malformed = b"@\r\n\r\n".as_slice();
    let too_large = [b"GET / HTTP/1.1\r\n", b"a:\r\n".repeat(101).as_slice(), malformed].concat();
    let before = delivered.strip_suffix(too_large.as_slice()).or_else(|| delivered.strip_suffix(malformed));
    (before.unwrap_or(delivered), before.is_some())
}

/// What hyper gets to read, and whether it got an error at the end.
fn let_through(bytes: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let limits = FramingLimits {
        max_header: MAX_HEADER,
        header_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
    };
    RUNTIME.with_borrow(|runtime| {
        runtime.block_on(async {
            let mut framed = FramedIo::new(Client { bytes, piece }, limits);
            let mut delivered = Vec::new();
            let end = framed.read_to_end(&mut delivered).await;
            (delivered, end.is_err())
        })
    })
}

fn check(sent: &[u8], delivered: &[u8], refused_in_body: bool) {
    let genuine = sent.iter().zip(delivered).take_while(|(one, other)| one == other).count();
    let mut rest = delivered;
    let mut at = 0;
    while !rest.is_empty() {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(rest) {
            Ok(httparse::Status::Complete(head)) if at + head <= genuine => head,
            // The stand-in for what was refused, which no parser takes for a request of the client's.
            other => {
                let stand_in = rest == b"@\r\n\r\n" || rest.ends_with(b"@\r\n\r\n");
                assert!(stand_in && !refused_in_body, "{other:?} {:?}", rest.escape_ascii().to_string());
                return;
            }
        };
        assert!(head <= MAX_HEADER);
        let named =
            |name: &str| request.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        assert!(lengths + codings <= 1, "two framings");
        let value = |name: &str| {
            request
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name))
                .map(|field| field.value)
        };
        let body = &rest[head..];
        let taken = match (value("content-length"), value("transfer-encoding")) {
            (Some(length), _) => {
                let length: u64 =
                    std::str::from_utf8(length).expect("digits").trim().parse().expect("digits");
                usize::try_from(length).unwrap_or(usize::MAX).min(body.len())
            }
            (_, Some(coding)) => {
                assert!(coding.trim_ascii().eq_ignore_ascii_case(b"chunked"));
                match chunked(body) {
                    Some(length) => length,
                    // The connection ends within it.
                    None => return,
                }
            }
            (None, None) => 0,
        };
        at += head + taken;
        rest = &body[taken..];
    }
}

/// How long a whole chunked body at the beginning of `bytes` is.
fn chunked(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let digits = bytes[at..at + line].split(|byte| *byte == b';').next()?;
        let size = u64::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("a size");
        at += line + 2;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        if end > bytes.len() {
            return None;
        }
        assert_eq!(&bytes[end - 2..end], b"\r\n");
        at = end;
    }
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some(at);
        }
    }
}
