//! HTTP/2 on the public listener: what is the same as over HTTP/1.1, and the floods that only HTTP/2 has.

use bytes::Bytes;
use gearway_tests::tls::{Certificate, Offer};
use gearway_tests::{Answer, Gate, Gateway, Registration, ScriptedWorker, wait};
use h2::client::SendRequest;
use http::{Request, Response};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use self::frames::{Frame, Frames};
use crate::expect::serving;

mod frames;
mod limits;
mod slow;

const H2C: &str = "[public]\nh2c = true\n";

/// A client on a connection of its own; its task ends with the connection.
async fn client(gateway: &Gateway) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.public_address()).await.expect("a connection");
    handshake(stream).await
}

async fn handshake(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(stream).await.expect("a handshake");
    tokio::spawn(connection);
    sender
}

async fn ask(
    sender: &SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Vec<u8>>,
) -> Result<Response<Vec<u8>>, h2::Error> {
    wait::within("an answer", async {
        let mut sender = sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, body.is_none())?;
        let sending = async {
            let mut rest = Bytes::from(body.unwrap_or_default());
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let Some(Ok(capacity)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                    return;
                };
                let piece = rest.split_to(capacity.min(rest.len()));
                if stream.send_data(piece, rest.is_empty()).is_err() {
                    return;
                }
            }
        };
        let receiving = async {
            let (head, mut body) = response.await?.into_parts();
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                whole.extend_from_slice(&piece);
            }
            Ok(Response::from_parts(head, whole))
        };
        tokio::join!(sending, receiving).1
    })
    .await
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://gate.example{path}")).body(()).expect("a request")
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://gate.example{path}")).body(()).expect("a request")
}

fn param(response: &Response<Vec<u8>>) -> Value {
    assert_eq!(response.status(), 200, "{response:?}");
    serde_json::from_slice::<Value>(response.body()).expect("a worker's answer")["envelope"]["param"].take()
}

#[tokio::test]
async fn a_request_has_the_same_envelope_as_over_http1() {
    let (gateway, _worker) = serving(H2C, &["foo/"]).await;
    let sender = client(&gateway).await;
    let mut request = post("/foo/a%20b?x=1");
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("te", "trailers"),
        ("x-forwarded-for", "1.2.3.4"),
    ] {
        request.headers_mut().append(name, value.parse().expect("a value"));
    }
    let response = ask(&sender, request, Some(b"hello".to_vec())).await.expect("an answer");
    assert!(response.headers().contains_key("x-request-id"));
    assert!(!response.headers().contains_key("connection"), "{response:?}");
    let param = param(&response);
    assert_eq!(param["method"], "POST");
    assert_eq!((&param["path"], &param["raw_path"]), (&json!("/foo/a b"), &json!("/foo/a%20b")));
    assert_eq!((&param["query_string"], &param["body"]), (&json!("x=1"), &json!("aGVsbG8=")));
    assert_eq!(
        param["header"],
        json!({"Host": ["gate.example"], "Content-Length": ["5"], "Cookie": ["a=1; b=2"], "X-A": ["1", "2"]})
    );
    let response = ask(&sender, get("/foo"), None).await.expect("an answer");
    assert_eq!(
        (response.status().as_u16(), &response.headers()["location"]),
        (301, &"/foo/".parse().expect("a value"))
    );
}

#[tokio::test]
async fn alpn_chooses_http2_over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::make();
    certificate.write(folder.path());
    let path = folder.path().display();
    let config = format!("[public.tls]\ncert_file = \"{path}/cert.pem\"\nkey_file = \"{path}/key.pem\"\n");
    let (gateway, worker) = serving(&config, &["echo"]).await;
    worker.echo_bodies();
    let offer = Offer { alpn: &["h2", "http/1.1"], ..Offer::default() };
    let stream = certificate.connect(gateway.public_address(), offer).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let sender = handshake(stream).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let asked = (0..4).map(|_| ask(&sender, post("/echo"), Some(body.clone())));
    let [a, b, c, d] = <[_; 4]>::try_from(asked.collect::<Vec<_>>()).unwrap_or_else(|_| unreachable!());
    let answers = tokio::join!(a, b, c, d);
    for answer in [answers.0, answers.1, answers.2, answers.3] {
        assert!(answer.expect("an answer").body() == &body);
    }
}

#[tokio::test]
async fn without_h2c_the_preface_is_a_bad_request() {
    let gateway = Gateway::start("").await;
    let mut connection = gateway.connect().await;
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("a connection");
    assert!(connection.read_to_end().await.starts_with(b"HTTP/1.1 400 "));
}

#[tokio::test]
async fn with_h2c_http1_is_spoken_too() {
    let (gateway, _worker) = serving(H2C, &["foo"]).await;
    assert_eq!(gateway.post("/foo", "body").await.status, 200);
}

/// Malformed heads are 400, or their stream is reset: they never reach a worker.
#[tokio::test]
async fn what_http1_refuses_is_refused() {
    let (gateway, worker) = serving(H2C, &["foo"]).await;
    let usual = [(":method", "POST"), (":scheme", "http"), (":path", "/foo"), (":authority", "a")];
    let with = |more: &[(&'static str, &'static str)]| [&usual[..], more].concat();
    let cases: Vec<Vec<(&str, &str)>> = vec![
        usual[..3].to_vec(),
        with(&[("host", "b")]),
        with(&[("host", "a"), ("host", "a")]),
        [&usual[..3], &[(":authority", "user@a")][..]].concat(),
        with(&[("connection", "close")]),
        with(&[("keep-alive", "1")]),
        with(&[("proxy-connection", "x")]),
        with(&[("transfer-encoding", "chunked")]),
        with(&[("upgrade", "websocket")]),
        with(&[("te", "gzip")]),
        with(&[("content-length", "1")]),
        with(&[("content-length", "0"), ("content-length", "0")]),
        with(&[("content-length", "-1")]),
        with(&[("X-Upper", "1")]),
        with(&[("x-control", "a\r\nb: c")]),
        with(&[(":path", "/bar")]),
        with(&[(":unknown", "x")]),
        [&usual[1..], &[(":method", "CONNECT")][..]].concat(),
        vec![(":method", "CONNECT"), (":authority", "a:80")],
        [&[("x-first", "1")][..], &usual].concat(),
        vec![(":method", "POST"), (":scheme", "http"), (":path", "/foo%2fbar"), (":authority", "a")],
        vec![(":method", "POST"), (":scheme", "http"), (":path", ""), (":authority", "a")],
    ];
    for case in cases {
        let mut frames = Frames::connect(&gateway).await;
        frames.headers(1, &case, true).await;
        let refused = match frames.next_of_stream(1).await {
            Some(Frame::Headers { status, .. }) => status == 400,
            Some(Frame::Reset { .. } | Frame::GoAway) | None => true,
            Some(Frame::Data { .. } | Frame::Other { .. }) => false,
        };
        assert!(refused, "{case:?}");
    }
    assert_eq!(worker.calls().len(), 0);
    let mut frames = Frames::connect(&gateway).await;
    frames.headers(1, &with(&[("host", "A:80")]), true).await;
    assert!(matches!(frames.next_of_stream(1).await, Some(Frame::Headers { status: 200, .. })));
    frames.headers(3, &[&usual[..3], &[("host", "h")][..]].concat(), true).await;
    assert!(matches!(frames.next_of_stream(3).await, Some(Frame::Headers { status: 200, .. })));
    assert_eq!(worker.call(1).await.envelope["param"]["header"]["Host"], json!(["h"]));
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let config = format!("{H2C}[limits]\nmax_body = 100\n");
    let (gateway, worker) = serving(&config, &["foo"]).await;
    let sender = client(&gateway).await;
    let large = ask(&sender, post("/foo"), Some(vec![b'x'; 101])).await.expect("an answer");
    assert_eq!(large.status(), 413);
    assert_eq!(worker.calls().len(), 0);
}

#[tokio::test]
async fn rate_limits_hold_alike() {
    let config =
        "[public]\nh2c = true\nrate_limit.per_address = \"2/h\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let (gateway, _worker) = serving(config, &["foo"]).await;
    let sender = client(&gateway).await;
    for (address, statuses) in [("192.0.2.1", [200, 200, 429]), ("192.0.2.2", [200, 200, 429])] {
        for status in statuses {
            let mut request = get("/foo");
            request.headers_mut().insert("x-forwarded-for", address.parse().expect("a value"));
            assert_eq!(ask(&sender, request, None).await.expect("an answer").status(), status, "{address}");
        }
    }
    // Whether by HTTP/2 or HTTP/1.1 makes no difference.
    let request = gearway_tests::Request::get("/foo").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(gateway.send(request).await.status, 429);
}

/// A call that its worker works for until it is told to finish.
struct AtWork {
    gate: Gate,
    asked: JoinHandle<Result<Response<Vec<u8>>, h2::Error>>,
}

impl AtWork {
    async fn begin(worker: &ScriptedWorker, sender: &SendRequest<Bytes>) -> Self {
        let gate = Gate::default();
        worker.always(Answer::text("done").after(&gate));
        let sender = sender.clone();
        let asked = tokio::spawn(async move { ask(&sender, get("/foo"), None).await });
        worker.call(0).await;
        Self { gate, asked }
    }

    async fn finish(self) {
        self.gate.open();
        assert_eq!(self.asked.await.expect("no panic").expect("an answer").body(), b"done");
    }
}

#[tokio::test]
async fn a_drain_finishes_streams_and_says_goodbye() {
    let (gateway, worker) = serving(H2C, &["foo"]).await;
    let sender = client(&gateway).await;
    let at_work = AtWork::begin(&worker, &sender).await;
    gateway.process().signal(gearway_tests::process::Signal::TERM);
    gateway.wait_for_log("the drain", |line| line.contains("draining")).await;
    at_work.finish().await;
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
}

/// Streams that are opened and reset at once, before or after they are looked at.
#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let (gateway, worker) = serving(H2C, &["foo"]).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/foo"), (":authority", "a")];
    // In one go: they are reset before they are accepted.
    let mut frames = Frames::connect(&gateway).await;
    for stream in 0..500 {
        frames.headers(2 * stream + 1, &head, true).await;
        frames.reset(2 * stream + 1).await;
    }
    assert!(frames.ends().await);
    // One after the other: each is at the worker before it is reset.
    let before = worker.calls().len();
    let mut frames = Frames::connect(&gateway).await;
    let mut sent = 0;
    while sent < 1000 && !frames.has_ended() {
        frames.headers(2 * sent + 1, &head, true).await;
        frames.ping().await;
        frames.pong_or_end().await;
        frames.reset(2 * sent + 1).await;
        sent += 1;
    }
    assert!(sent < 400, "{sent} requests were given up on one connection");
    assert!(worker.calls().len() - before <= 400);
    gate.open();
    let sender = client(&gateway).await;
    assert_eq!(ask(&sender, get("/foo"), None).await.expect("others are served").status(), 200);
}

#[tokio::test]
async fn floods_of_small_frames_end_or_are_answered_one_by_one() {
    let (gateway, _worker) = serving(H2C, &["foo"]).await;
    let head = [(":method", "POST"), (":scheme", "http"), (":path", "/foo"), (":authority", "a")];
    // A head without end.
    let mut frames = Frames::connect(&gateway).await;
    frames.raw(0x1, 0, 1, &frames::block(&head)).await;
    for _ in 0..100_000 {
        frames.raw(0x9, 0, 1, &frames::block(&[("x", "y")])).await;
    }
    assert!(frames.ends().await);
    // Data that holds nothing.
    let mut frames = Frames::connect(&gateway).await;
    frames.headers(1, &head, false).await;
    for _ in 0..100_000 {
        frames.data(1, b"", false).await;
    }
    assert!(frames.ends().await);
    // Questions that nobody wants answered: the gateway stops to read when its answers are not taken.
    for (kind, payload) in [(0x6, &[0; 8][..]), (0x4, &[])] {
        let mut frames = Frames::connect(&gateway).await;
        frames.flood_without_reading(kind, payload, 64 << 20).await;
    }
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id())).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 200_000, "{kilobytes} kB at the peak");
    let sender = client(&gateway).await;
    assert_eq!(
        ask(&sender, post("/foo"), Some(b"x".to_vec())).await.expect("others are served").status(),
        200
    );
}

#[tokio::test]
async fn a_connection_without_a_request_ends_after_header_timeout() {
    let gateway = Gateway::start(&format!("{H2C}[limits]\nheader_timeout = \"500ms\"\n")).await;
    let mut silent = gateway.connect().await;
    let mut half = gateway.connect().await;
    half.write(b"PRI * HTTP/2").await.expect("a connection");
    let mut settled = Frames::connect(&gateway).await;
    assert_eq!(silent.read_to_end().await, b"");
    half.read_to_end().await;
    assert!(settled.ends().await);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_its_call_running() {
    let gateway = Gateway::start(H2C).await;
    let worker = ScriptedWorker::start("w");
    worker.register(&gateway, &Registration::new("w").handler("foo")).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut frames = Frames::connect(&gateway).await;
    let head = [(":method", "GET"), (":scheme", "http"), (":path", "/foo"), (":authority", "a")];
    frames.headers(1, &head, true).await;
    let call = worker.call(0).await;
    frames.reset(1).await;
    frames.ping().await;
    frames.pong_or_end().await;
    gate.open();
    wait::until("the worker's answer is taken", async || call.http.answered().then_some(())).await;
}
