//! Contract section 2: TLS on the public listener.

use std::io;
use std::path::Path;

use gearway_tests::tls::{Certificate, Offer};
use gearway_tests::{Answer, Connection, Gate, Gateway, Registration, Request, ScriptedWorker, wait};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::expect::unmatched;

/// A folder with a certificate, and the configuration that names it.
fn certified() -> (TempDir, Certificate, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::make();
    certificate.write(folder.path());
    let config = config(folder.path());
    (folder, certificate, config)
}

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!("[public.tls]\ncert_file = \"{folder}/cert.pem\"\nkey_file = \"{folder}/key.pem\"\n")
}

async fn ask(certificate: &Certificate, gateway: &Gateway) -> io::Result<u16> {
    let mut connection = certificate.http1(gateway.public_address()).await?;
    Ok(connection.request(&Request::get("/")).await?.status)
}

#[tokio::test]
async fn requests_and_bodies_pass_over_tls() {
    let (_folder, certificate, config) = certified();
    let gateway = Gateway::start(&config).await;
    let worker = ScriptedWorker::start("w");
    worker.register(&gateway, &Registration::new("w").handler("echo")).await;
    let body = vec![b'x'; 3 << 20];
    worker.script(|call| Answer::text(&call.envelope["param"]["body"].to_string().len().to_string()));
    for versions in [&[&TLS13][..], &[&TLS12]] {
        for alpn in [&["http/1.1"][..], &[]] {
            let offer = Offer { alpn, versions };
            let stream = certificate.connect(gateway.public_address(), offer).await.expect("a handshake");
            let (reader, writer) = tokio::io::split(stream);
            let mut connection = Connection::over(reader, writer, gateway.public_address());
            for _ in 0..2 {
                let response = connection.request(&Request::post("/echo", body.clone())).await;
                let response = response.expect("an answer").expect_status(200);
                assert_eq!(response.text(), (body.len() / 3 * 4 + 2).to_string());
            }
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_taken_on_sighup_and_a_bad_one_is_not() {
    let (folder, first, config) = certified();
    let gateway = Gateway::start(&config).await;
    let mut kept = first.http1(gateway.public_address()).await.expect("a handshake");
    let second = Certificate::make();
    assert!(ask(&second, &gateway).await.is_err(), "a client trusts one certificate alone");

    std::fs::write(folder.path().join("key.pem"), &second.key_pem).expect("a writable folder");
    gateway.sighup();
    let complaint = gateway.wait_for_log("the reload fails", |line| line.contains("the old one stays")).await;
    assert!(complaint.contains("public.tls.key_file") && complaint.contains("is not the key"), "{complaint}");
    assert_eq!(ask(&first, &gateway).await.expect("the old certificate"), 200);

    second.write(folder.path());
    gateway.sighup();
    gateway.wait_for_log("the reload", |line| line.contains("configuration reloaded")).await;
    assert_eq!(ask(&second, &gateway).await.expect("the new certificate"), 200);
    assert!(ask(&first, &gateway).await.is_err());
    assert_eq!(kept.request(&Request::get("/")).await.expect("the connection lives on").status, 200);
}

#[tokio::test]
async fn a_bad_pair_keeps_the_gateway_from_starting() {
    let (folder, _, config) = certified();
    std::fs::write(folder.path().join("key.pem"), Certificate::make().key_pem).expect("a writable folder");
    let path = folder.path().join("gearway.toml");
    std::fs::write(&path, config).expect("a writable folder");
    for command in ["check", "serve"] {
        let mut command = gearway_tests::gateway::gearway(&[command, "--config"]);
        command.arg(&path);
        let finished = gearway_tests::process::run(command).await;
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert!(finished.output().contains("gearway.toml:3: public.tls.key_file: "), "{finished:?}");
    }
}

#[tokio::test]
async fn clear_text_and_unknown_protocols_are_refused() {
    let (_folder, certificate, config) = certified();
    let gateway = Gateway::start(&config).await;
    let mut plain = gateway.connect().await;
    plain.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("a connection");
    let answer = plain.read_to_end().await;
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    let offer = Offer { alpn: &["spdy/3"], ..Offer::default() };
    assert!(certificate.connect(gateway.public_address(), offer).await.is_err());
    assert_eq!(ask(&certificate, &gateway).await.expect("others are served"), 200);
}

/// Who connects and does not shake hands, or does so slowly, holds up nobody and is let go.
#[tokio::test]
async fn slow_handshakes_end_after_header_timeout_and_hold_up_nobody() {
    let (_folder, certificate, config) = certified();
    let gateway = Gateway::start(&format!("[limits]\nheader_timeout = \"1s\"\n{config}")).await;
    let mut silent = gateway.connect().await;
    let mut begun = gateway.connect().await;
    begun.write(&[0x16, 0x03, 0x01, 0x02]).await.expect("a connection");
    assert_eq!(ask(&certificate, &gateway).await.expect("others are served"), 200);
    assert_eq!(silent.read_to_end().await, b"");
    assert_eq!(begun.read_to_end().await, b"");
}

#[tokio::test]
async fn a_drain_lets_a_request_over_tls_finish() {
    let (_folder, certificate, config) = certified();
    let gateway = Gateway::start(&config).await;
    let worker = ScriptedWorker::start("w");
    worker.register(&gateway, &Registration::new("w").handler("slow")).await;
    let gate = Gate::default();
    worker.always(Answer::text("done").after(&gate));
    let mut connection = certificate.http1(gateway.public_address()).await.expect("a handshake");
    let request = tokio::spawn(async move {
        let response = connection.request(&Request::get("/slow")).await.expect("an answer");
        (response, connection.read_to_end().await)
    });
    worker.call(0).await;
    gateway.process().signal(gearway_tests::process::Signal::TERM);
    gateway.wait_for_log("the drain", |line| line.contains("draining")).await;
    gate.open();
    let (response, rest) = request.await.expect("the client finishes");
    assert_eq!((response.status, response.text().as_str(), rest.as_slice()), (200, "done", &b""[..]));
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn closing_says_goodbye() {
    let (_folder, certificate, config) = certified();
    let gateway = Gateway::start(&config).await;
    let mut stream =
        certificate.connect(gateway.public_address(), Offer::default()).await.expect("a handshake");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.expect("a connection");
    let mut answer = String::new();
    // Without a close_notify this is an error.
    wait::within("the connection closes", stream.read_to_string(&mut answer)).await.expect("a clean end");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // The port speaks HTTP in clear text once more when TLS is taken out of the file.
    gateway.write_config("");
    gateway.sighup();
    gateway.wait_for_log("the reload", |line| line.contains("configuration reloaded")).await;
    unmatched(&gateway.get("/").await);
}
