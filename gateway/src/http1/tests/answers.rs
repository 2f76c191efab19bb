//! What is written, and what becomes of the connection behind it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use super::super::{Activity, RequestBody};
use super::{LIMITS, whole};
use crate::pieces::Pieces;

/// A client's end of a connection whose requests are answered so.
fn connect<F>(
    pipe: usize,
    untaken: &Arc<AtomicU64>,
    answer: impl Fn(Request<RequestBody>) -> F + Send + 'static,
) -> DuplexStream
where
    F: Future<Output = Response<Pieces>> + Send + 'static,
{
    let (client, server) = tokio::io::duplex(pipe);
    let untaken = Arc::clone(untaken);
    tokio::spawn(async move {
        let untaken = |bytes| {
            untaken.fetch_add(bytes, Ordering::Relaxed);
            Untaken(Arc::clone(&untaken), bytes)
        };
        super::super::serve(server, LIMITS, Activity::new(), answer, untaken).await
    });
    client
}

struct Untaken(Arc<AtomicU64>, u64);

impl Drop for Untaken {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

fn response(status: u16, fields: &[(&'static str, &'static str)], body: Pieces) -> Response<Pieces> {
    let mut response = Response::builder().status(status);
    for (name, value) in fields {
        response = response.header(*name, *value);
    }
    response.body(body).expect("a response")
}

fn text(body: &'static str) -> Pieces {
    Bytes::from_static(body.as_bytes()).into()
}

/// All that is sent back, without the date.
async fn exchange<F>(sent: &str, answer: impl Fn(Request<RequestBody>) -> F + Send + 'static) -> String
where
    F: Future<Output = Response<Pieces>> + Send + 'static,
{
    let mut client = connect(1 << 16, &Arc::default(), answer);
    client.write_all(sent.as_bytes()).await.expect("the pipe has room");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are text");
    answer.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

const CLOSE: &str = "HTTP/1.1\r\nconnection: x, Close\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn heads_say_how_long_their_bodies_are() {
    for (method, status, body, expected) in [
        ("GET", 200, "body", "200 OK\r\nx: 1\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbody"),
        ("GET", 404, "", "404 Not Found\r\nx: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
        ("GET", 799, "", "799 \r\nx: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"),
        ("HEAD", 200, "body", "200 OK\r\nx: 1\r\nconnection: close\r\ncontent-length: 4\r\n\r\n"),
        ("HEAD", 200, "", "200 OK\r\nx: 1\r\nconnection: close\r\n\r\n"),
        ("GET", 204, "body", "204 No Content\r\nx: 1\r\nconnection: close\r\n\r\n"),
        ("GET", 304, "body", "304 Not Modified\r\nx: 1\r\nconnection: close\r\n\r\n"),
    ] {
        // What a service says of the framing is none of its business.
        let fields = [("x", "1"), ("content-length", "17"), ("transfer-encoding", "gzip")];
        let sent = format!("{method} / {CLOSE}");
        let answered = exchange(&sent, move |_| async move { response(status, &fields, text(body)) }).await;
        assert_eq!(answered, format!("HTTP/1.1 {expected}"), "{method} {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn dates_are_written_unless_the_service_has_one() {
    let mut client = connect(1024, &Arc::default(), async |_| response(200, &[], text("")));
    client.write_all(format!("GET / {CLOSE}").as_bytes()).await.expect("the pipe has room");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are text");
    let date = answer.lines().find_map(|line| line.strip_prefix("date: ")).expect("a date");
    httpdate::parse_http_date(date).expect("a date of RFC 9110");

    let own = [("date", "Sun, 06 Nov 1994 08:49:37 GMT")];
    let mut client = connect(1024, &Arc::default(), move |_| async move { response(200, &own, text("")) });
    client.write_all(format!("GET / {CLOSE}").as_bytes()).await.expect("the pipe has room");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are text");
    assert_eq!(answer.matches("date: ").count(), 1);
    assert!(answer.contains("1994"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_response_that_asks_for_it_closes_the_connection() {
    let twice = "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n";
    let answered = exchange(twice, async |_| response(200, &[("connection", "close")], text("")));
    let answered = answered.await;
    assert_eq!(answered.matches("HTTP/1.1").count(), 1, "{answered}");
    assert_eq!(answered.matches("connection: close").count(), 1, "{answered}");
}

#[tokio::test(start_paused = true)]
async fn responses_in_many_pieces_come_whole_through_narrow_pipes() {
    for (pieces, size, pipe) in [(1, 5000, 64), (40, 3000, 1000), (40, 3, 7), (17, 70_000, 1 << 20)] {
        let untaken = Arc::default();
        let client = connect(pipe, &untaken, move |_| async move {
            let mut body = Pieces::default();
            (0..pieces).for_each(|piece| body.push(vec![piece as u8; size].into()));
            response(200, &[], body)
        });
        let sent = format!("GET / {CLOSE}").into_bytes();
        let (mut reader, mut writer) = tokio::io::split(client);
        let sending = tokio::spawn(async move { writer.write_all(&sent).await });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.expect("it comes whole");
        sending.await.expect("no panic").expect("the request is taken");
        let body = &answer[answer.len() - pieces * size..];
        assert!(answer[..answer.len() - body.len()].ends_with(b"\r\n\r\n"));
        assert!(
            body.chunks(size).enumerate().all(|(piece, bytes)| bytes.iter().all(|byte| *byte == piece as u8))
        );
        assert_eq!(untaken.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_client_has_not_taken_is_held() {
    let untaken = Arc::<AtomicU64>::default();
    let mut client =
        connect(1000, &untaken, async |_| response(200, &[], Bytes::from(vec![b'x'; 9000]).into()));
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("the pipe has room");
    // Time stands still until everybody waits.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(untaken.load(Ordering::Relaxed), 9000, "a piece is held as a whole");
    client.read_exact(&mut [0; 5000]).await.expect("more is sent");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(untaken.load(Ordering::Relaxed), 9000);
    drop(client);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(untaken.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_for_a_100_get_it_when_their_body_is_wanted() {
    let head = "POST /1 HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n";
    let reads = async |request: Request<RequestBody>| {
        let body = whole(request.into_body(), 100).await.expect("it comes");
        response(200, &[], body.into())
    };
    let mut client = connect(1024, &Arc::default(), reads);
    client.write_all(head.as_bytes()).await.expect("the pipe has room");
    let mut interim = [0; 25];
    client.read_exact(&mut interim).await.expect("the interim response");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(format!("bodyGET / {CLOSE}").as_bytes()).await.expect("the pipe has room");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are text");
    assert!(answer.contains("\r\n\r\nbodyHTTP/1.1 200 OK"), "{answer}");

    // Whoever sends it at once needs no leave, nor does HTTP/1.0 know of any.
    for head in
        [head.replace("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n"), head.replace("1.1", "1.0")]
    {
        let answered = exchange(&format!("{head}body"), reads).await;
        assert!(answered.starts_with("HTTP/1.1 200 OK") && answered.ends_with("body"), "{answered}");
    }
    // Whoever is answered without it must not send it any more, and nobody could tell it from a request.
    let answered = exchange(head, async |_| response(417, &[], text(""))).await;
    assert!(answered.starts_with("HTTP/1.1 417 ") && answered.contains("connection: close"), "{answered}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_is_dropped_if_it_is_there() {
    let ignores = async |_| response(200, &[], text(""));
    for body in ["Content-Length: 4\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"]
    {
        let answered = exchange(&format!("POST / HTTP/1.1\r\n{body}GET / {CLOSE}"), ignores).await;
        assert_eq!(answered.matches("200 OK").count(), 2, "{answered}");
    }
    for body in ["Content-Length: 5\r\n\r\nbody", "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n"] {
        let answered = exchange(&format!("POST / HTTP/1.1\r\n{body}"), ignores).await;
        assert_eq!(answered.matches("connection: close").count(), 1, "{answered}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_a_body_that_somebody_still_holds() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeps = {
        let kept = Arc::clone(&kept);
        move |request: Request<RequestBody>| {
            kept.lock().push(request.into_body());
            async { response(200, &[], text("")) }
        }
    };
    let post = "POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    let answered = exchange(&format!("{post}{post}"), keeps).await;
    assert_eq!(answered.matches("HTTP/1.1").count(), 1, "{answered}");
    assert!(answered.contains("connection: close"), "{answered}");
    assert_eq!(kept.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_with_its_client() {
    let (dropped, told) = oneshot::channel::<()>();
    let dropped = std::sync::Mutex::new(Some(dropped));
    let mut client = connect(1024, &Arc::default(), move |_| {
        let guard = dropped.lock().expect("no panic").take();
        async move {
            let _guard = guard;
            pending().await
        }
    });
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("the pipe has room");
    drop(client);
    told.await.expect_err("the guard goes without a word");
}
