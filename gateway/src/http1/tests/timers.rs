//! The clock is paused: it moves only when every task waits, and then exactly to the next timer.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream, DuplexStream};
use tokio::time::{Instant, sleep};

use super::super::{Activity, InProgress, RequestBody};
use super::{LIMITS, serve_with, whole};

const SECOND: Duration = Duration::from_secs(1);
const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// A client's end of a connection whose handler is `answer`.
fn connect<A, F>(pipe: usize, answer: A) -> DuplexStream
where
    A: Fn(Request<RequestBody>, InProgress) -> F + Send + 'static,
    F: Future<Output = &'static str> + Send + 'static,
{
    let (client, server) = tokio::io::duplex(pipe);
    serve(server, answer);
    client
}

fn serve<A, F>(server: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, answer: A)
where
    A: Fn(Request<RequestBody>, InProgress) -> F + Send + 'static,
    F: Future<Output = &'static str> + Send + 'static,
{
    tokio::spawn(serve_with(server, LIMITS, Activity::new(), text(answer)));
}

fn text<A, F>(
    answer: A,
) -> impl Fn(Request<RequestBody>, InProgress) -> std::pin::Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>
where
    A: Fn(Request<RequestBody>, InProgress) -> F,
    F: Future<Output = &'static str> + Send + 'static,
{
    move |request, in_progress| {
        let answering = answer(request, in_progress);
        Box::pin(async { Response::new(Bytes::from(answering.await)) })
    }
}

/// As [`connect`]; after `calm` the connection is told to close when it is idle once `grace` is over.
fn connect_for<A, F>(calm: Duration, grace: Duration, answer: A) -> DuplexStream
where
    A: Fn(Request<RequestBody>, InProgress) -> F + Send + 'static,
    F: Future<Output = &'static str> + Send + 'static,
{
    let (client, server) = tokio::io::duplex(1024);
    let activity = Activity::new();
    let connection = serve_with(server, LIMITS, activity.clone(), text(answer));
    tokio::spawn(async move {
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(calm) => activity.close_when_idle(Instant::now() + grace),
        }
        drop(connection.await);
    });
    client
}

async fn slowly(_: Request<RequestBody>, in_progress: InProgress) -> &'static str {
    sleep(5 * SECOND).await;
    drop(in_progress);
    "done"
}

async fn at_once(_: Request<RequestBody>, in_progress: InProgress) -> &'static str {
    drop(in_progress);
    "done"
}

/// What comes until the connection closes, and when that is.
async fn until_closed(client: &mut DuplexStream) -> (String, Duration) {
    let start = Instant::now();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("answers are text");
    (answer, start.elapsed())
}

async fn send(client: &mut DuplexStream, bytes: &[u8]) {
    client.write_all(bytes).await.expect("the server is still there");
}

fn assert_about(measured: Duration, expected: Duration) {
    let late = measured.checked_sub(expected).expect("not before its time");
    assert!(late < Duration::from_millis(10), "{measured:?} instead of {expected:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_closes_after_header_timeout() {
    let mut client = connect(1024, at_once);
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer, "");
    assert_about(after, LIMITS.header_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_trickled_head_closes_after_header_timeout() {
    let mut client = connect(1024, at_once);
    send(&mut client, GET).await;
    sleep(30 * SECOND).await;
    let start = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(client);
    tokio::spawn(async move {
        while writer.write_all(b"G").await.is_ok() {
            sleep(SECOND).await;
        }
    });
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.expect("answers are text");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1);
    assert_about(start.elapsed(), LIMITS.header_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_in_time_is_served() {
    let mut client = connect(1024, at_once);
    for pause in [0, 9, 70, 1, 70] {
        sleep(pause * SECOND).await;
        let (first, second) = GET.split_at(7);
        send(&mut client, first).await;
        sleep(9 * SECOND).await;
        send(&mut client, second).await;
    }
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 5);
    assert_about(after, LIMITS.idle_timeout);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_closes_after_idle_timeout() {
    let mut client = connect(1024, at_once);
    send(&mut client, GET).await;
    sleep(70 * SECOND).await;
    send(&mut client, GET).await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 2);
    assert_about(after, LIMITS.idle_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_is_never_idle() {
    let slow = 500 * SECOND;
    let mut client = connect(1024, move |_, in_progress| async move {
        sleep(slow).await;
        drop(in_progress);
        "done"
    });
    // The beginning of the next head waits as well.
    send(&mut client, b"GET / HTTP/1.1\r\n\r\nGET / HT").await;
    sleep(slow - SECOND).await;
    send(&mut client, b"TP/1.1\r\n\r\n").await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 2);
    assert_about(after, SECOND + slow + LIMITS.idle_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_head_begun_during_a_request_has_its_time_after_it() {
    let slow = 500 * SECOND;
    let mut client = connect(1024, move |_, in_progress| async move {
        sleep(slow).await;
        drop(in_progress);
        "done"
    });
    send(&mut client, b"GET / HTTP/1.1\r\n\r\nGET / HT").await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 1);
    assert_about(after, slow + LIMITS.header_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_outlives_the_response_defers_idleness() {
    let mut client = connect(1024, |_, in_progress| async move {
        tokio::spawn(async move {
            sleep(200 * SECOND).await;
            drop(in_progress);
        });
        "done"
    });
    send(&mut client, GET).await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 1);
    // Idle since the response was written, so overdue at once when the guard goes.
    assert_about(after, 200 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn bodies_have_no_timer_here() {
    let mut client = connect(1024, |request: Request<RequestBody>, in_progress| async move {
        let whole = whole(request.into_body(), 10).await;
        drop(in_progress);
        whole.map_or("broken", |_| "done")
    });
    send(&mut client, b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n").await;
    for _ in 0..5 {
        sleep(100 * SECOND).await;
        send(&mut client, b"x").await;
    }
    let (answer, after) = until_closed(&mut client).await;
    assert!(answer.ends_with("done"), "{answer}");
    assert_about(after, LIMITS.idle_timeout);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_response_slowly_gets_it_whole() {
    let mut client = connect(16, at_once);
    send(&mut client, b"GET / HTTP/1.1\r\n").await;
    send(&mut client, b"\r\n").await;
    let mut answer = Vec::new();
    while !answer.ends_with(b"done") {
        sleep(SECOND / 4).await;
        answer.push(client.read_u8().await.expect("the connection stays open"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_its_response_too_slowly_is_closed() {
    const LONG: &str = match str::from_utf8(&[b'x'; 100_000]) {
        Ok(text) => text,
        Err(_) => "",
    };
    for (bytes_a_second, taken_whole) in [(300, true), (200, false)] {
        let (mut client, server) = tokio::io::duplex(1024);
        serve(server, |_, in_progress| async move {
            drop(in_progress);
            LONG
        });
        send(&mut client, GET).await;
        let mut taken = 0;
        let mut buffer = vec![0; bytes_a_second];
        while taken < LONG.len()
            && let Ok(bytes @ 1..) = client.read(&mut buffer).await
        {
            taken += bytes;
            sleep(SECOND).await;
        }
        assert_eq!(taken >= LONG.len(), taken_whole, "{taken} bytes at {bytes_a_second} bytes a second");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_closed() {
    let mut client = connect(16, at_once);
    send(&mut client, b"GET / HTTP/1.1\r\n").await;
    send(&mut client, b"\r\n").await;
    sleep(LIMITS.idle_timeout + SECOND).await;
    let (answer, _) = until_closed(&mut client).await;
    assert_eq!(answer.len(), 16, "only what the pipe held: {answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_closed_whatever_buffers_below() {
    let (mut client, server) = tokio::io::duplex(16);
    serve(BufStream::new(server), at_once);
    send(&mut client, b"GET / HTTP/1.1\r\n").await;
    send(&mut client, b"\r\n").await;
    sleep(LIMITS.idle_timeout + SECOND).await;
    let (answer, _) = until_closed(&mut client).await;
    assert_eq!(answer.len(), 16, "only what the pipe held: {answer}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_may_go_on_sending_for_a_while() {
    let mut client = connect(1024, at_once);
    send(&mut client, b"GET /\n").await;
    let start = Instant::now();
    while client.write_all(&[b'x'; 512]).await.is_ok() {
        sleep(SECOND / 4).await;
    }
    let lingered = start.elapsed();
    assert!((5 * SECOND..6 * SECOND).contains(&lingered), "{lingered:?}");
    let (answer, _) = until_closed(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_to_close_stays_for_its_grace() {
    for requests in [0, 1] {
        let mut client = connect_for(3 * SECOND, 2 * SECOND, at_once);
        for _ in 0..requests {
            send(&mut client, GET).await;
        }
        let (answer, after) = until_closed(&mut client).await;
        assert_eq!(answer.matches("200 OK").count(), requests);
        assert_about(after, 5 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_within_the_grace_is_answered() {
    let mut client = connect_for(3 * SECOND, 2 * SECOND, at_once);
    send(&mut client, GET).await;
    sleep(4 * SECOND).await;
    send(&mut client, GET).await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 2);
    assert_about(after, SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_has_begun_outlives_the_grace() {
    let mut client = connect_for(3 * SECOND, 2 * SECOND, at_once);
    let (first, second) = GET.split_at(7);
    send(&mut client, first).await;
    sleep(8 * SECOND).await;
    send(&mut client, second).await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 1);
    assert_about(after, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_progress_outlives_the_grace() {
    let mut client = connect_for(SECOND, 2 * SECOND, slowly);
    send(&mut client, GET).await;
    let (answer, after) = until_closed(&mut client).await;
    assert_eq!(answer.matches("200 OK").count(), 1);
    assert_about(after, 5 * SECOND);
}
