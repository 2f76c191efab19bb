//! What the HTTP/1 server passes on of whatever comes: the same however the bytes arrive, nothing but heads that httparse reads alike,
//! and bodies that are what lies between them. The first byte of the input says where the rest is cut, and how bodies are read.
#![no_main]

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gearway::http1::{self, Activity, ConnectionLimits, RequestBody};
use http::{Request, Response};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;

const MAX_HEADER: usize = 512;

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"));
}

/// A client whose bytes arrive so many at a time, and that takes every answer.
struct Client {
    bytes: Bytes,
    piece: usize,
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.bytes.len()).min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
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

/// A request that was passed on, and its body unless that has no end.
#[derive(Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Option<Bytes>,
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let cut = usize::from(cut).max(1);
    let whole = passed_on(bytes, usize::MAX, 8192);
    assert_eq!(whole, passed_on(bytes, cut, cut), "cut every {cut} bytes");
    check(bytes, &whole);
});

fn passed_on(bytes: &[u8], piece: usize, at_most: usize) -> Vec<Seen> {
    let limits = ConnectionLimits {
        max_header: MAX_HEADER,
        header_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
    };
    let client = Client { bytes: Bytes::copy_from_slice(bytes), piece };
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = async |request: Request<RequestBody>| {
        let (head, body) = request.into_parts();
        let fields = head.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let (method, target, fields) = (head.method.to_string(), head.uri.to_string(), fields.collect());
        let body = read(body, at_most).await.ok();
        seen.borrow_mut().push(Seen { method, target, fields, body });
        Response::new(Bytes::from_static(b"done").into())
    };
    RUNTIME.with_borrow(|runtime| {
        let served = http1::serve(client, limits, Activity::new(), service, |_| ());
        // Only a body without a reading ends it with an error, if that.
        drop(runtime.block_on(served));
    });
    seen.take()
}

async fn read(mut body: RequestBody, at_most: usize) -> io::Result<Bytes> {
    let mut whole = BytesMut::new();
    loop {
        whole.reserve(at_most);
        let read = poll_fn(|cx| body.poll_read(cx, &mut whole, at_most)).await?;
        assert!(read <= at_most);
        if read == 0 {
            return Ok(whole.freeze());
        }
    }
}

fn check(sent: &[u8], seen: &[Seen]) {
    let mut rest = sent;
    for seen in seen {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut fields);
        let head = match request.parse(rest) {
            Ok(httparse::Status::Complete(head)) => head,
            other => panic!("{other:?} {:?}", rest.escape_ascii().to_string()),
        };
        assert!(head <= MAX_HEADER);
        assert_eq!(request.method, Some(&*seen.method));
        let mut expected: Vec<(String, Vec<u8>)> = request
            .headers
            .iter()
            .map(|field| (field.name.to_ascii_lowercase(), field.value.to_vec()))
            .collect();
        let mut fields = seen.fields.clone();
        expected.sort();
        fields.sort();
        assert_eq!(fields, expected);
        let named = |name: &str| -> Vec<&[u8]> {
            let fields = seen.fields.iter().filter(|(other, _)| other == name);
            fields.map(|(_, value)| value.as_slice()).collect()
        };
        let (lengths, codings) = (named("content-length"), named("transfer-encoding"));
        assert!(lengths.len() + codings.len() <= 1, "two framings");
        let after = &rest[head..];
        let taken = match (lengths.first(), codings.first()) {
            (Some(length), _) => {
                let length: u64 = std::str::from_utf8(length).expect("digits").parse().expect("digits");
                match usize::try_from(length).ok().filter(|length| *length <= after.len()) {
                    Some(length) => {
                        assert_eq!(seen.body.as_deref(), Some(&after[..length]));
                        length
                    }
                    None => return assert_eq!(seen.body, None),
                }
            }
            (_, Some(coding)) => {
                assert!(coding.eq_ignore_ascii_case(b"chunked"));
                match (&seen.body, chunked(after)) {
                    (Some(body), Some((data, length))) => {
                        assert_eq!(*body, data);
                        length
                    }
                    (None, _) => return,
                    (Some(_), None) => panic!("a body without an end has been read whole"),
                }
            }
            (None, None) => 0,
        };
        rest = &after[taken..];
    }
}

/// The data of a whole chunked body at the beginning of `bytes`, and how long it is there.
fn chunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut at = 0;
    let mut data = Vec::new();
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let digits = bytes[at..at + line].split(|byte| *byte == b';').next()?;
        let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        at += line + 2;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?.checked_add(2)?;
        if end > bytes.len() {
            return None;
        }
        data.extend_from_slice(&bytes[at..end - 2]);
        at = end;
    }
    loop {
        let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        at += line + 2;
        if line == 0 {
            return Some((data, at));
        }
    }
}
