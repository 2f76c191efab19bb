//! What a service gets to see, and the client to read.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Response};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::super::chunked::{ChunkScan, ChunkStep};
use super::super::head::{Fields, Framing, HeadScan, HeadStep};
use super::super::{Activity, ConnectionLimits};
use super::{LIMITS, cut, near_requests, request, serve_with, whole};

/// What the service saw of a request: its method, its target, and its body if that came whole.
type Seen = (Method, String, Option<Bytes>);

#[derive(Debug)]
struct Served {
    seen: Vec<Seen>,
    statuses: Vec<u16>,
    text: String,
    /// Closed without waiting for a timeout.
    at_once: bool,
}

impl Served {
    /// The targets, and the lengths of the bodies.
    fn lengths(&self) -> Vec<(String, Option<usize>)> {
        self.seen.iter().map(|(_, target, body)| (target.clone(), body.as_ref().map(Bytes::len))).collect()
    }
}

/// Sends the segments to a server and reads until it closes.
async fn serve(segments: Vec<Vec<u8>>, limits: ConnectionLimits) -> Served {
    exchange(segments, limits, false, 1000).await
}

/// As [`serve`]; but the client may end its side after the segments, where otherwise it only waits. Bodies are read so many bytes at a
/// time.
async fn exchange(segments: Vec<Vec<u8>>, limits: ConnectionLimits, ends: bool, at_most: usize) -> Served {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let connection = serve_with(server, limits, Activity::new(), {
        let seen = Arc::clone(&seen);
        move |request, in_progress| {
            let seen = Arc::clone(&seen);
            async move {
                let (head, body) = request.into_parts();
                let body = whole(body, at_most).await.ok();
                let status = if body.is_some() { 200 } else { 418 };
                seen.lock().push((head.method, head.uri.to_string(), body));
                drop(in_progress);
                let response = Response::builder().status(status).body(Bytes::from_static(b"done"));
                response.expect("a status and a body make a response")
            }
        }
    });
    let server = tokio::spawn(connection);

    let start = Instant::now();
    for segment in segments {
        if client.write_all(&segment).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    if ends {
        client.shutdown().await.expect("a duplex pipe shuts down");
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("a duplex pipe only ends");
    let at_once = start.elapsed().is_zero();
    drop(client);
    server.await.expect("the connection does not panic").expect("the pipe does not break");

    let text = String::from_utf8_lossy(&answer).into_owned();
    let statuses = text
        .match_indices("HTTP/1.")
        .map(|(at, _)| text[at + 9..at + 12].parse().expect("a status is three digits"))
        .collect();
    let seen = std::mem::take(&mut *seen.lock());
    Served { seen, statuses, text, at_once }
}

fn with_header(line: &str) -> Vec<u8> {
    format!("POST /refused HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\nbody").into_bytes()
}

fn malformed() -> Vec<Vec<u8>> {
    let lines = [
        // Two framings, or one that parsers read differently.
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked\r\nContent-Length: x",
        "Content-Length: 4\r\nContent-Length: 4",
        "Content-Length: 4\r\ncontent-length: 5",
        "Content-Length: 4, 4",
        "Content-Length: +4",
        "Content-Length: -4",
        "Content-Length: 0x4",
        "Content-Length: 4 4",
        "Content-Length: 4.0",
        "Content-Length: \u{664}",
        "Content-Length:",
        "Content-Length: ",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551615",
        "Content-Length: 000000000000000000004",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\t",
        "Transfer-Encoding:",
        // Field lines.
        "X: a\r\n continued",
        "X: a\r\n\tcontinued",
        "Transfer-Encoding:\r\n chunked",
        "X : a",
        "X\t: a",
        "Content-Length : 4",
        ": a",
        "X",
        " X: a",
        "X(): a",
        "X\u{e9}: a",
        "X\0: a",
        "X: a\0",
        "X: a\u{1}b",
        "X: a\u{7f}b",
        "X: a\u{b}b",
        // Line ends.
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\r\r",
        "X: a\n",
        "\nX: a",
    ];
    let heads: &[&[u8]] = &[
        b"GET / HTTP/1.1\n\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"GET / HTTP/1.1\rHost: a\r\r",
        b"GET / HTTP/1.1\r\r\n\r\n",
        b"GET / HTTP/1.1\r\n\rX",
        b"\nGET / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b"GET /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET\t/ HTTP/1.1\r\n\r\n",
        b"GET /\tHTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET HTTP/1.1\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET\r\n\r\n",
        b"G(T / HTTP/1.1\r\n\r\n",
        b"G\0T / HTTP/1.1\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\n\r\n",
        b"GET /\x7f HTTP/1.1\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n",
        b"GET a HTTP/1.1\r\n\r\n",
        b"GET a:80 HTTP/1.1\r\n\r\n",
        b"GET ** HTTP/1.1\r\n\r\n",
        b"GET ?a HTTP/1.1\r\n\r\n",
        b"GET http:/a HTTP/1.1\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\n\r\n",
        b"GET https://a@b/c HTTP/1.1\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/1.10\r\n\r\n",
        b"GET / HTTP/1.\r\n\r\n",
        b"GET / http/1.1\r\n\r\n",
        b"GET / HTTP/11\r\n\r\n",
        b"GET / ICY/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT a:1 HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody",
        b"CONNECT a:1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ];
    lines.iter().map(|line| with_header(line)).chain(heads.iter().map(|head| head.to_vec())).collect()
}

fn too_large() -> Vec<Vec<u8>> {
    let filler = "x".repeat(8000);
    vec![
        format!("GET / HTTP/1.1\r\nA: {filler}\r\nB: {filler}\r\n\r\n").into_bytes(),
        format!("GET /{filler}{filler} HTTP/1.1\r\n\r\n").into_bytes(),
        format!("{}{} / HTTP/1.1\r\n\r\n", filler.to_uppercase(), filler.to_uppercase()).into_bytes(),
        format!("GET / HTTP/1.1\r\n{filler}{filler}").into_bytes(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)).into_bytes(),
    ]
}

fn single_bytes(bytes: &[u8]) -> Vec<Vec<u8>> {
    cut(bytes, &[1])
}

#[tokio::test(start_paused = true)]
async fn malformed_heads_get_400_and_a_close() {
    for bytes in malformed() {
        for segments in [vec![bytes.clone()], single_bytes(&bytes)] {
            let served = serve(segments, LIMITS).await;
            let shown = String::from_utf8_lossy(&bytes);
            assert_eq!((&served.statuses, &served.seen), (&vec![400], &vec![]), "{shown:?}");
            assert!(served.at_once, "{shown:?}");
            assert!(served.text.ends_with("\r\n\r\n"), "a bare 400 has no body: {}", served.text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn oversized_heads_get_431_and_a_close() {
    for bytes in too_large() {
        for segments in [vec![bytes.clone()], cut(&bytes, &[700]), single_bytes(&bytes)] {
            let served = serve(segments, LIMITS).await;
            assert_eq!((served.statuses, served.seen), (vec![431], vec![]));
            assert!(served.at_once);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_exact() {
    for max_header in [300, 8192, 20_000, 40_000] {
        let limits = ConnectionLimits { max_header, ..LIMITS };
        let empty = "GET / HTTP/1.1\r\nConnection: close\r\nA: \r\n\r\n".len();
        for (extra, status) in [(0, 200), (1, 431)] {
            let filler = "x".repeat(max_header - empty + extra);
            let bytes = format!("GET / HTTP/1.1\r\nConnection: close\r\nA: {filler}\r\n\r\n").into_bytes();
            for segments in [vec![bytes.clone()], cut(&bytes, &[1000])] {
                let served = serve(segments, limits).await;
                assert_eq!((served.statuses, served.at_once), (vec![status], true), "{max_header} + {extra}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_fields_are_not_too_many() {
    let bytes = format!("GET / HTTP/1.1\r\nConnection: close\r\n{}\r\n", "A: b\r\n".repeat(99)).into_bytes();
    assert_eq!(serve(vec![bytes], LIMITS).await.statuses, [200]);
}

#[tokio::test(start_paused = true)]
async fn requests_before_a_refused_one_are_answered() {
    let good = b"POST /good HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyGET /too HTTP/1.1\r\n\r\n".as_slice();
    let refused = malformed().into_iter().map(|bytes| (bytes, 400));
    let refused = refused.chain(too_large().into_iter().map(|bytes| (bytes, 431)));
    for (bad, status) in refused {
        let bytes = [good, &bad].concat();
        for segments in [vec![bytes.clone()], cut(&bytes, &[50, 3])] {
            let served = serve(segments, LIMITS).await;
            let shown = String::from_utf8_lossy(&bad);
            assert_eq!(served.statuses, [200, 200, status], "{shown:?}");
            let lengths = [("/good".to_owned(), Some(4)), ("/too".to_owned(), Some(0))];
            assert_eq!(served.lengths(), lengths, "{shown:?}");
            assert!(served.at_once, "{shown:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_after_a_refused_one_is_never_served() {
    for bad in malformed() {
        let bytes = [&bad, b"GET /after HTTP/1.1\r\n\r\n".as_slice()].concat();
        for segments in [vec![bytes.clone()], vec![bad, b"GET /after HTTP/1.1\r\n\r\n".to_vec()]] {
            assert_eq!(serve(segments, LIMITS).await.seen, []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn kept_alive_and_pipelined_requests_are_served_in_order() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /2 HTTP/1.1\r\nContent-Length: 12\r\n\r\nGET / HTTP\r\n\
        POST /3 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n\
        PUT /4 HTTP/1.1\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\
        M-SEARCH /5?a=b HTTP/1.1\r\nX: \xff\t \x80 \r\nEmpty:\r\n\r\n\
        OPTIONS * HTTP/1.1\r\n\r\n\
        GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n\
        GET /6 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\
        GET /7 HTTP/1.1\r\n\r\n"
        .as_slice();
    for segments in [vec![bytes.to_vec()], single_bytes(bytes), cut(bytes, &[40, 1, 90])] {
        let served = serve(segments, LIMITS).await;
        assert_eq!(served.statuses, [200; 8], "{}", served.text);
        let lengths = served.lengths().into_iter().map(|(_, length)| length.expect("every body is whole"));
        assert_eq!(lengths.collect::<Vec<_>>(), [0, 12, 15, 0, 0, 0, 0, 0]);
        assert!(served.at_once, "HTTP/1.0 closes when it is answered");
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_longer_than_every_buffer_pass() {
    let body = "0123456789abcdef".repeat(1 << 14);
    let bytes = format!("POST /1 HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let bytes = format!(
        "{bytes}POST /2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{chunked}"
    );
    let served = serve(vec![bytes.into_bytes()], LIMITS).await;
    let expected = [("/1".to_owned(), Some(body.len())), ("/2".to_owned(), Some(body.len()))];
    assert_eq!(served.lengths(), expected);
}

#[tokio::test(start_paused = true)]
async fn malformed_chunks_fail_the_body_and_close() {
    let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000));
    let long_trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(9000));
    let many_trailers = format!("0\r\n{}\r\n", "A: b\r\n".repeat(101));
    let bodies = [
        "1\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na0\r\n\r\n",
        "1\ra\r\n0\r\n\r\n",
        "\r\n",
        "g\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "-1\r\na\r\n0\r\n\r\n",
        "+1\r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        "1\t\r\na\r\n0\r\n\r\n",
        "1 ;a\r\na\r\n0\r\n\r\n",
        "1;\r\na\r\n0\r\n\r\n",
        "1; a\r\na\r\n0\r\n\r\n",
        "1;a=\r\na\r\n0\r\n\r\n",
        "1;a=\"\n\"\r\na\r\n0\r\n\r\n",
        "1;a=\"\r\n\"\r\na\r\n0\r\n\r\n",
        "1;a=\"\"b\r\na\r\n0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "00000000000000001\r\na\r\n0\r\n\r\n",
        "10000000000000000\r\na\r\n0\r\n\r\n",
        "0\r\n\n",
        "0\n\r\n",
        "0\r\n \r\n",
        "0\r\nA\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: b\r\n c\r\n\r\n",
        "0\r\nA: \0\r\n\r\n",
        "0\r\nContent-Length: 4\r\n\r\n",
        "0\r\ntransfer-ENCODING: chunked\r\n\r\n",
        "0\r\nX: y\r\nConnection: close\r\n\r\n",
        &long_extension,
        &long_trailer,
        &many_trailers,
    ];
    for body in bodies {
        let bytes =
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /after HTTP/1.1\r\n\r\n");
        for segments in [vec![bytes.clone().into_bytes()], cut(bytes.as_bytes(), &[1])] {
            let served = serve(segments, LIMITS).await;
            let lengths = vec![("/".to_owned(), None)];
            assert_eq!((&served.statuses, served.lengths()), (&vec![418], lengths), "{body:?}");
            assert!(served.at_once, "{body:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_are_the_relays_to_judge() {
    for host in ["", "Host: a\r\nHost: b\r\n"] {
        let bytes = format!("GET / HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        assert_eq!(serve(vec![bytes.into_bytes()], LIMITS).await.statuses, [200]);
    }
}

#[tokio::test(start_paused = true)]
async fn connect_is_passed_on_and_nothing_after_it() {
    for length in ["", "Content-Length: 0\r\n"] {
        let head = format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n{length}\r\n");
        let served = serve(vec![head.clone().into_bytes()], LIMITS).await;
        assert_eq!(served.lengths(), [("a:443".to_owned(), Some(0))]);
        let smuggled = format!("{head}GET /smuggled HTTP/1.1\r\n\r\n");
        let served = serve(vec![smuggled.into_bytes()], LIMITS).await;
        assert_eq!(served.lengths(), [("a:443".to_owned(), Some(0))]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_breaks_off_gets_400() {
    let served = exchange(vec![b"GET / HTTP/1.1\r\nHost: a\r".to_vec()], LIMITS, true, 1000).await;
    assert_eq!((served.statuses, served.seen), (vec![400], vec![]));
}

/// Writes all of `bytes` to a real socket before it reads the answer, as simple clients do.
async fn write_then_read(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.expect("the client connects");
        serve_with(socket, LIMITS, Activity::new(), async |_, _| {
            Response::builder().status(404).body(Bytes::new()).expect("a response")
        })
        .await
    });
    let mut client = TcpStream::connect(address).await.expect("the server listens");
    client.write_all(&bytes).await.expect("the server takes everything");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("the answer is not cut off");
    drop(client);
    server.await.expect("the connection does not panic").expect("the client takes its answer");
    answer
}

#[tokio::test]
async fn clients_that_write_first_get_their_answer() {
    let filler = "x".repeat(4 << 20);
    let oversized = write_then_read(format!("GET / HTTP/1.1\r\nA: {filler}\r\n\r\n").into_bytes()).await;
    assert!(oversized.starts_with("HTTP/1.1 431 "), "{oversized}");
    let malformed = write_then_read(format!("GET / HTTP/1.1\n{filler}").into_bytes()).await;
    assert!(malformed.starts_with("HTTP/1.1 400 "), "{malformed}");
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", filler.len());
    let unread = write_then_read(format!("{head}{filler}").into_bytes()).await;
    assert!(unread.starts_with("HTTP/1.1 404 "), "{unread}");
}

fn scan(bytes: &[u8]) -> HeadStep {
    HeadScan::default().advance(bytes, LIMITS.max_header, &mut Fields::new())
}

/// The body lengths of what is admitted, by this module's own count.
fn admitted_lengths(bytes: &[u8]) -> Vec<Option<usize>> {
    let mut lengths = Vec::new();
    let mut rest = bytes;
    while let HeadStep::Complete { len, head } = scan(rest) {
        rest = &rest[len..];
        match head.framing {
            Framing::Length(length) if length <= rest.len() as u64 => {
                lengths.push(Some(length as usize));
                rest = &rest[length as usize..];
            }
            Framing::Chunked => {
                let (used, step) = ChunkScan::new().decode(rest, |_| {});
                if step != ChunkStep::Done {
                    lengths.push(None);
                    return lengths;
                }
                lengths.push(Some(dechunked_len(&rest[..used])));
                rest = &rest[used..];
            }
            Framing::Length(_) => {
                lengths.push(None);
                return lengths;
            }
            Framing::Nothing => {
                lengths.push(Some(0));
                return lengths;
            }
        }
    }
    lengths
}

fn dechunked_len(mut body: &[u8]) -> usize {
    let mut total = 0;
    loop {
        let digits = body.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = std::str::from_utf8(&body[..digits]).expect("digits are text");
        let size = usize::from_str_radix(size, 16).expect("the size was admitted");
        if size == 0 {
            return total;
        }
        total += size;
        let line = body.iter().position(|&byte| byte == b'\n').expect("the size line ends") + 1;
        body = &body[line + size + 2..];
    }
}

proptest! {
    #[test]
    fn every_admitted_body_is_counted_alike(
        bytes in near_requests(),
        sizes in proptest::collection::vec(1_usize..400, 1..8),
        at_most in 1_usize..600,
    ) {
        let served = in_paused_time(exchange(cut(&bytes, &sizes), LIMITS, true, at_most));
        let admitted = admitted_lengths(&bytes);
        let seen: Vec<_> = served.lengths().into_iter().map(|(_, length)| length).collect();
        // It may stop early: at targets that are no URI, behind HTTP/1.0, and where the client asks for it.
        prop_assert!(admitted.starts_with(&seen), "{:?} is not the beginning of {:?}", seen, admitted);
        let may_stop = [b"HTTP/1.0".as_slice(), b"close"].iter().any(|word| {
            bytes.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
        });
        if !served.statuses.contains(&400) && !may_stop {
            let whole = admitted.iter().take_while(|length| length.is_some()).count();
            prop_assert!(seen.len() >= whole, "{:?} of {:?}", seen, admitted);
        }
    }

    #[test]
    fn the_split_does_not_change_what_is_seen(
        bytes in prop_oneof![near_requests(), proptest::collection::vec(any::<u8>(), 0..200)],
        sizes in proptest::collection::vec(1_usize..40, 1..8),
        at_most in 1_usize..600,
    ) {
        let whole = in_paused_time(exchange(vec![bytes.clone()], LIMITS, true, 8192));
        let parts = in_paused_time(exchange(cut(&bytes, &sizes), LIMITS, true, at_most));
        prop_assert_eq!((whole.seen, whole.statuses), (parts.seen, parts.statuses));
    }

    #[test]
    fn valid_requests_are_all_seen(
        requests in proptest::collection::vec(request(), 1..5),
        sizes in proptest::collection::vec(1_usize..400, 1..8),
        at_most in 1_usize..600,
    ) {
        // Some of the targets are no URI.
        let is_uri = |request: &Vec<u8>| {
            let target = request.split(|byte| *byte == b' ').nth(1);
            target.is_some_and(|target| http::Uri::try_from(target).is_ok())
        };
        let requests: Vec<_> = requests.into_iter().filter(is_uri).collect();
        let served = in_paused_time(exchange(cut(&requests.concat(), &sizes), LIMITS, true, at_most));
        prop_assert_eq!(served.statuses, vec![200; requests.len()]);
    }
}

fn in_paused_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(work)
}
