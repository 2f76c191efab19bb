//! Versions of TLS that are broken, and authorities that are none.

use gearway_tests::gateway::gearway;
use gearway_tests::tls::Certificate;
use gearway_tests::{Gateway, Request, process, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const PROTOCOL_VERSION: u8 = 70;

/// The first message of a client that speaks up to this version of TLS. It offers what either side of TLS 1.2 could agree on.
fn client_hello(version: [u8; 2]) -> Vec<u8> {
    let suites = [0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x09, 0xc0, 0x13, 0x00, 0x2f];
    // supported_groups, ec_point_formats, signature_algorithms
    let extensions = [
        &[0x00, 0x0a, 0x00, 0x06, 0x00, 0x04, 0x00, 0x17, 0x00, 0x1d][..],
        &[0x00, 0x0b, 0x00, 0x02, 0x01, 0x00],
        &[0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x08, 0x04],
    ]
    .concat();
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.push(0);
    body.extend(u16::try_from(suites.len()).expect("few").to_be_bytes());
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("few").to_be_bytes());
    body.extend(extensions);
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    let length = u16::try_from(message.len()).expect("short").to_be_bytes();
    [&[HANDSHAKE, 3, 1][..], &length, &message].concat()
}

/// TLS 1.2 and later: what is older is refused with the alert that says so.
#[tokio::test]
async fn nothing_before_tls_1_2_is_spoken() {
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::make().write(folder.path());
    let path = folder.path().display();
    let gateway = Gateway::start(&format!(
        "[public.tls]\ncert_file = \"{path}/cert.pem\"\nkey_file = \"{path}/key.pem\"\n"
    ))
    .await;
    for (version, accepted) in [([3, 0], false), ([3, 1], false), ([3, 2], false), ([3, 3], true)] {
        let mut stream = TcpStream::connect(gateway.public_address()).await.expect("a connection");
        stream.write_all(&client_hello(version)).await.expect("a connection");
        let mut record = [0; 7];
        wait::within("an answer", stream.read_exact(&mut record)).await.expect("a record");
        if accepted {
            assert_eq!(record[0], HANDSHAKE, "{version:?}: {record:?}");
        } else {
            assert_eq!((record[0], record[6]), (ALERT, PROTOCOL_VERSION), "{version:?}: {record:?}");
        }
    }
    let metrics = gateway.admin().get("/metrics").await.text();
    assert!(!metrics.contains("gearway_tls_handshake_failures_total{reason=\"refused\"} 0"), "{metrics}");
}

/// Nor with a worker that would like to.
#[tokio::test]
async fn a_worker_with_an_old_version_of_tls_is_not_called() {
    let folder = tempfile::tempdir().expect("a folder");
    Certificate::make().write(folder.path());
    let config =
        format!("[workers]\npark = \"0s\"\ntls.ca_file = \"{}/cert.pem\"\n", folder.path().display());
    let gateway = Gateway::start(&config).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let worker = gearway_tests::ScriptedWorker::start("registers for the other");
    let registration = gearway_tests::Registration::new("worker").handler("foo");
    let url = serde_json::json!(format!("https://localhost:{port}/"));
    worker.register(&gateway, &registration.set("url", url)).await;
    let to = gateway.public_address();
    let asked = tokio::spawn(async move { Request::post("/foo", "secret").send(to).await });
    let (mut stream, _) = wait::within("a connection", listener.accept()).await.expect("a connection");
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.expect("a record");
    // A ServerHello of TLS 1.1: its version, a random, no session, a suite, no compression.
    let server_hello = [&[2, 0, 0, 38, 3, 2][..], &[9; 32], &[0, 0xc0, 0x13, 0]].concat();
    let record = [&[HANDSHAKE, 3, 2, 0, 42][..], &server_hello].concat();
    stream.write_all(&record).await.expect("a connection");
    let mut sent = Vec::new();
    // A reset ends it as well.
    drop(wait::within("the gateway gives up", stream.read_to_end(&mut sent)).await);
    assert!(!sent.windows(6).any(|six| six == b"secret"));
    drop(listener);
    crate::expect::not_run(&asked.await.expect("no panic"));
}

/// An authority that cannot be read is no reason to trust anybody: the gateway does not start with it, and keeps the one it had.
#[tokio::test]
async fn a_bad_authority_fails_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = Certificate::make();
    good.write(folder.path());
    let file = folder.path().join("ca.pem");
    let ca = |content: &str| std::fs::write(&file, content).expect("a writable folder");
    let config = format!("[workers.tls]\nca_file = \"{}\"\n", file.display());
    let path = folder.path().join("gearway.toml");
    std::fs::write(&path, &config).expect("a writable folder");
    let truncated = &good.cert_pem[..good.cert_pem.len() / 2];
    let garbled = good.cert_pem.replacen("MI", "!!", 1);
    for content in ["", "no certificate", truncated, &garbled, &good.key_pem] {
        ca(content);
        for command in ["check", "serve"] {
            let mut command = gearway(&[command, "--config"]);
            command.arg(&path);
            let finished = process::run(command).await;
            assert_eq!(finished.code(), 1, "{content:?}: {finished:?}");
            assert!(finished.output().contains("workers.tls.ca_file"), "{content:?}: {finished:?}");
        }
    }
    ca(&good.cert_pem);
    let gateway = Gateway::start(&config).await;
    ca("no certificate");
    gateway.sighup();
    let complaint = gateway.wait_for_log("the reload fails", |line| line.contains("the old one stays")).await;
    assert!(complaint.contains("workers.tls.ca_file"), "{complaint}");
}
