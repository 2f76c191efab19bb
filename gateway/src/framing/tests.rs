use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::noop_waker;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{BAD_REQUEST, FIELDS_TOO_LARGE, FramedIo, FramingLimits};

mod served;
mod timers;

const LIMITS: FramingLimits = FramingLimits {
    max_header: 8192,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
};

/// A connection whose reads return these segments one by one, and then its end.
struct Segments(std::vec::IntoIter<Vec<u8>>);

impl AsyncRead for Segments {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(mut segment) = self.0.next() {
            let rest = segment.split_off(segment.len().min(buf.remaining()));
            buf.put_slice(&segment);
            if !rest.is_empty() {
                let others = std::mem::take(&mut self.0);
                self.0 = std::iter::once(rest).chain(others).collect::<Vec<_>>().into_iter();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Segments {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a reader gets: the bytes, and whether they ended in an error.
fn deliver(segments: Vec<Vec<u8>>, reader_buffer: usize) -> (Vec<u8>, bool) {
    let mut framed = FramedIo::new(Segments(segments.into_iter()), LIMITS);
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    let mut delivered = Vec::new();
    loop {
        let mut space = vec![0; reader_buffer];
        let mut buf = ReadBuf::new(&mut space);
        match Pin::new(&mut framed).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (delivered, false),
            Poll::Ready(Ok(())) => delivered.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return (delivered, true),
            Poll::Pending => panic!("pending on a connection that always has bytes"),
        }
    }
}

/// `bytes` cut into reads of these sizes, again and again.
fn cut(bytes: &[u8], sizes: &[usize]) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut segments = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (segment, after) = rest.split_at(rest.len().min(*size));
        segments.push(segment.to_vec());
        rest = after;
    }
    segments
}

fn body_and_framing() -> impl Strategy<Value = (String, Vec<u8>)> {
    let data = || proptest::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        Just((String::new(), Vec::new())),
        data().prop_map(|body| (format!("Content-Length: {}\r\n", body.len()), body)),
        data().prop_map(|body| (format!("content-length:\t0{} \r\n", body.len()), body)),
        (proptest::collection::vec(data(), 0..4), any::<bool>(), any::<bool>()).prop_map(
            |(chunks, extended, trailed)| {
                let extension = if extended { ";a;b=c;d=\"e;\\\" f\"" } else { "" };
                let mut body = Vec::new();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    body.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
                    body.extend_from_slice(chunk);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(format!("00{extension}\r\n").as_bytes());
                body.extend_from_slice(if trailed { b"X-Sum: 1 2\r\nY:\r\n\r\n" } else { b"\r\n" });
                ("TRANSFER-encoding: Chunked\r\n".to_owned(), body)
            }
        ),
    ]
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let fields =
        proptest::collection::vec(("[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}", "[ -~\t\u{80}-\u{ff}]{0,60}"), 0..8);
    ("[A-Z]{1,9}", "/[!\"$-~]{0,60}", fields, body_and_framing())
        .prop_filter(
            "CONNECT has no body, and these names have a meaning of their own",
            |(method, _, fields, _)| {
                let reserved = ["connection", "content-length", "transfer-encoding", "expect", "upgrade"];
                method != "CONNECT"
                    && fields.iter().all(|(name, _)| !reserved.contains(&&*name.to_lowercase()))
            },
        )
        .prop_map(|(method, target, fields, (framing, body))| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\n{framing}").into_bytes();
            for (name, value) in fields {
                bytes.extend_from_slice(format!("{name}:{value}\r\n").as_bytes());
            }
            bytes.extend_from_slice(b"\r\n");
            bytes.extend_from_slice(&body);
            bytes
        })
}

/// Bytes that look like requests and are wrong in a place or two.
fn near_requests() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0_usize..3, 0_usize..4, prop::sample::select(SPLICES));
    (proptest::collection::vec(request(), 1..4), proptest::collection::vec(edit, 0..3)).prop_map(
        |(requests, edits)| {
            let mut bytes = requests.concat();
            for (place, remove, repeat, splice) in edits {
                let at = place.index(bytes.len());
                let end = (at + remove).min(bytes.len());
                bytes.splice(at..end, splice.repeat(repeat).iter().copied());
                if bytes.is_empty() {
                    bytes.push(b'\n');
                }
            }
            bytes
        },
    )
}

const SPLICES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b"0",
    b"f",
    b"1",
    b"+",
    b",",
    b"\"",
    b"\x7f",
    b"\xff",
    b"#",
    b"\r\n ",
    b"\r\nContent-Length: 3",
    b"\r\nContent-Length:3\r\n",
    b"\r\nTransfer-Encoding: chunked\r\n",
    b"\r\nTransfer-Encoding: gzip, chunked",
    b"0\r\n\r\n",
    b"HTTP/1.0\r\n",
    b"GET /x HTTP/1.1\r\n\r\n",
    b"CONNECT ",
];

proptest! {
    #[test]
    fn any_split_of_valid_requests_is_delivered_unchanged(
        requests in proptest::collection::vec(request(), 1..5),
        sizes in proptest::collection::vec(1_usize..400, 1..8),
        reader_buffer in 1_usize..600,
    ) {
        let bytes = requests.concat();
        let (delivered, failed) = deliver(cut(&bytes, &sizes), reader_buffer);
        prop_assert_eq!(String::from_utf8_lossy(&delivered), String::from_utf8_lossy(&bytes));
        prop_assert!(!failed);
    }

    #[test]
    fn what_is_delivered_is_a_prefix_and_at_most_a_refusal(
        bytes in prop_oneof![near_requests(), proptest::collection::vec(any::<u8>(), 0..200)],
        sizes in proptest::collection::vec(1_usize..400, 1..8),
        reader_buffer in 1_usize..600,
    ) {
        let (delivered, failed) = deliver(cut(&bytes, &sizes), reader_buffer);
        let refused = !failed && !bytes.starts_with(&delivered);
        let passed = match delivered.strip_suffix(BAD_REQUEST) {
            Some(_) if delivered.ends_with(&FIELDS_TOO_LARGE) => &delivered[..delivered.len() - FIELDS_TOO_LARGE.len()],
            Some(passed) if refused => passed,
            Some(_) | None => &delivered,
        };
        prop_assert!(bytes.starts_with(passed), "{:?}", String::from_utf8_lossy(&delivered));
        if !refused && !failed {
            prop_assert_eq!(passed.len(), bytes.len());
        }
    }

    #[test]
    fn the_split_does_not_change_what_is_delivered(
        bytes in near_requests(),
        sizes in proptest::collection::vec(1_usize..40, 1..8),
        reader_buffer in 1_usize..600,
    ) {
        let whole = deliver(vec![bytes.clone()], 8192);
        prop_assert_eq!(deliver(cut(&bytes, &sizes), reader_buffer), whole);
    }
}
