use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Activity, ConnectionLimits, InProgress, RequestBody};

mod answers;
mod served;
mod timers;

const LIMITS: ConnectionLimits = ConnectionLimits {
    max_header: 8192,
    header_timeout: Duration::from_secs(10),
    idle_timeout: Duration::from_secs(75),
};

/// Serves a connection with what `answer` makes of each request.
fn serve_with<F>(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: ConnectionLimits,
    activity: Activity,
    answer: impl Fn(Request<RequestBody>, InProgress) -> F,
) -> impl Future<Output = io::Result<()>>
where
    F: Future<Output = Response<Bytes>>,
{
    let in_progress = activity.clone();
    let service = move |request| {
        let answering = answer(request, in_progress.begin());
        async move { answering.await.map(Into::into) }
    };
    super::serve(io, limits, activity, service, |_| ())
}

/// Reads a body to its end.
async fn whole(mut body: RequestBody, at_most: usize) -> io::Result<Bytes> {
    if let Some(whole) = body.take_whole() {
        return Ok(whole);
    }
    let mut whole = BytesMut::new();
    loop {
        whole.reserve(at_most);
        if std::future::poll_fn(|cx| body.poll_read(cx, &mut whole, at_most)).await? == 0 {
            return Ok(whole.freeze());
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
