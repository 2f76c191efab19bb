//! Workers behind TLS and behind sockets of the file system.

use std::path::Path;
use std::time::{Duration, Instant};

use gearway_tests::tls::Certificate;
use gearway_tests::{Gateway, Registration, Request, Response, ScriptedWorker, wait};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpListener, UnixListener};

use crate::expect;

/// The body of the next call on a connection.
async fn read_call(stream: &mut (impl AsyncBufRead + Unpin)) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("Content-Length: ") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// Answers every call on a connection: an init with one route, whatever else with a text or, in Skygear's dialect, its body.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    while let Some(body) = read_call(&mut stream).await {
        let is_init = body.windows(6).any(|six| six == b"\"init\"");
        let reply = match is_init {
            true => json!({"result": {"handler": [{"name": "legacy"}]}}),
            false => {
                json!({"result": {"type": "text", "value": "answered", "status": 201, "header": {}, "body": "YQ=="}})
            }
        };
        let reply = reply.to_string();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", reply.len());
        if stream.write_all(format!("{head}{reply}").as_bytes()).await.is_err()
            || stream.flush().await.is_err()
        {
            return;
        }
    }
}

/// A worker with this certificate, which may want one of its callers. Returns its port.
async fn serve_tls(certificate: &Certificate, wants: Option<&Certificate>) -> u16 {
    let acceptor = certificate.acceptor(wants);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    port
}

fn written(certificate: &Certificate) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    certificate.write(folder.path());
    folder
}

fn trusting(folder: &Path) -> String {
    format!(
        "[workers]\nallowed_urls = [\"127.0.0.0/8\", \"::1\"]\ntls.ca_file = \"{}/cert.pem\"\n",
        folder.display()
    )
}

async fn register(gateway: &Gateway, name: &str, url: &str) -> Response {
    let registrar = ScriptedWorker::start("registers for the other");
    let registration = Registration::new(name).handler(name).set("url", json!(url));
    registrar.try_register(gateway, &registration, Some(&gateway.registration_token())).await
}

#[tokio::test]
async fn a_worker_behind_tls_is_known_by_its_certificate() {
    let (certificate, other) = (Certificate::make(), Certificate::make());
    let (folder, other_folder) = (written(&certificate), written(&other));
    let port = serve_tls(&certificate, None).await;
    let gateway = Gateway::start(&trusting(folder.path())).await;
    drop(register(&gateway, "known", &format!("https://localhost:{port}/")).await.expect_status(201));
    for _ in 0..2 {
        assert_eq!(gateway.post("/known", vec![b'x'; 400_000]).await.expect_status(200).text(), "answered");
    }
    drop(register(&gateway, "misnamed", &format!("https://127.0.0.1:{port}/")).await.expect_status(201));
    let park = "park = \"50ms\"\n";
    gateway.write_config(&format!("{}{park}", trusting(other_folder.path())));
    let reload = async |times: usize| {
        gateway.sighup();
        let reloaded = || gateway.log().iter().filter(|line| line.contains("configuration reloaded")).count();
        wait::until("it is reloaded", async || (reloaded() == times).then_some(())).await;
    };
    reload(1).await;
    expect::not_run(&gateway.post("/misnamed", "x").await);
    expect::not_run(&gateway.post("/known", "x").await);
    gateway.write_config(&format!("{}{park}", trusting(folder.path())));
    reload(2).await;
    let answered = async || (gateway.post("/known", "x").await.status == 200).then_some(());
    wait::until("the right authority is trusted again", answered).await;
    expect::not_run(&gateway.post("/misnamed", "x").await);
}

#[tokio::test]
async fn without_an_authority_no_worker_is_trusted() {
    let gateway = Gateway::start("").await;
    let refused = register(&gateway, "foo", "https://localhost:9/").await.expect_status(422);
    assert!(refused.text().contains("workers.tls.ca_file"), "{refused:?}");
}

#[tokio::test]
async fn the_gateway_shows_its_certificate_to_a_worker_that_wants_one() {
    let (certificate, own) = (Certificate::make(), Certificate::make());
    let (folder, own_folder) = (written(&certificate), written(&own));
    let port = serve_tls(&certificate, Some(&own)).await;
    let url = format!("https://localhost:{port}/");
    let plugin = format!("[[plugin]]\nname = \"legacy\"\nurl = \"{url}\"\nprotocol = \"skygear-v1\"\n");
    let own = own_folder.path().display();
    let identity = format!("tls.cert_file = \"{own}/cert.pem\"\ntls.key_file = \"{own}/key.pem\"\n");
    let gateway = Gateway::start(&format!("{}{identity}{plugin}", trusting(folder.path()))).await;
    gateway.admin().wait_for_route("/legacy").await;
    assert_eq!(gateway.post("/legacy", "x").await.expect_status(201).text(), "a");
    let gateway = Gateway::start(&format!("{}park = \"50ms\"\n", trusting(folder.path()))).await;
    drop(register(&gateway, "foo", &url).await.expect_status(201));
    let refused = gateway.post("/foo", "x").await;
    assert!(matches!(refused.status, 502 | 503), "{refused:?}");
}

#[tokio::test]
async fn a_worker_may_listen_on_a_socket_in_an_allowed_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("foo.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    let url = format!("unix:{}", path.display());
    let config = format!("[workers]\nallowed_urls = [\"unix:{}/\"]", folder.path().display());
    let gateway = Gateway::start(&config).await;
    drop(register(&gateway, "foo", &url).await.expect_status(201));
    for _ in 0..2 {
        assert_eq!(gateway.post("/foo", vec![b'x'; 400_000]).await.expect_status(200).text(), "answered");
    }
    drop(register(&gateway, "bar", "http://127.0.0.1:9/").await.expect_status(422));
    let gateway = Gateway::start("").await;
    let refused = register(&gateway, "foo", &url).await.expect_status(422);
    assert!(refused.text().contains("allowed_urls"), "{refused:?}");
}

/// What it takes to connect, and to agree on keys, is not left to the handler.
#[tokio::test]
async fn the_worker_learns_what_is_left_once_it_is_connected() {
    let certificate = Certificate::make();
    let folder = written(&certificate);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}/", listener.local_addr().expect("an address").port());
    let gateway = Gateway::start(&trusting(folder.path())).await;
    drop(register(&gateway, "foo", &url).await.expect_status(201));
    let request = Request::post("/foo", "x").to_bytes(gateway.public_address());
    let mut client = gateway.connect().await;
    client.write(&request).await.expect("a connection");
    let (stream, _) = listener.accept().await.expect("a connection");
    // From here on the gateway waits for the handshake.
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waited = u64::try_from(since.elapsed().as_millis()).expect("not that long");
    let stream = certificate.acceptor(None).accept(stream).await.expect("a handshake");
    let call = read_call(&mut BufReader::new(stream)).await.expect("a call");
    let envelope: Value = serde_json::from_slice(&call).expect("an envelope");
    let left = envelope["context"]["timeout_ms"].as_u64();
    assert!(left.is_some_and(|left| left <= 60_000 - waited), "{left:?} of 60000 after {waited}");
}
