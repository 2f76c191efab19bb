//! What stands between a client and the gateway, and whose word counts: X-Forwarded-For, Forwarded, the PROXY protocol.

use std::io;
use std::net::SocketAddr;

use gearway_tests::tls::{Certificate, HOST};
use gearway_tests::{Connection, Gateway, Request};
use serde_json::{Value, json};

use crate::expect::{bad_request, envelope, serving};

const TRUSTING: &str = "[public]\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n";

/// A PROXY protocol header of version 2 for a client of IPv4.
fn header(command: u8, client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11]);
    header.extend(u16::try_from(12 + more.len()).expect("a short header").to_be_bytes());
    header.extend(client);
    header.extend([127, 0, 0, 1, 0x30, 0x39, 0, 80]);
    header.extend(more);
    header
}

async fn ask_behind(header: &[u8], gateway: &Gateway, request: Request) -> io::Result<Value> {
    let mut connection = gateway.connect().await;
    connection.write(header).await?;
    let response = connection.request(&request).await?;
    Ok(envelope(&response)["param"].take())
}

#[tokio::test]
async fn both_headers_name_the_client_when_a_trusted_proxy_sends_them() {
    let (gateway, _worker) = serving(TRUSTING, &["foo"]).await;
    for (list, standard, client) in [
        (Some("203.0.113.9"), None, "203.0.113.9"),
        (None, Some("for=203.0.113.9;proto=https, for=10.0.0.1"), "203.0.113.9"),
        (None, Some("for=\"[2001:db8::1]:4711\""), "2001:db8::1"),
        (None, Some("for=unknown"), "127.0.0.1"),
        (Some("6.6.6.6, 203.0.113.9"), Some("for=6.6.6.6, for=203.0.113.9"), "203.0.113.9"),
    ] {
        let named = [("X-Forwarded-For", list), ("Forwarded", standard)];
        let request = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .fold(Request::get("/foo"), |request, (name, value)| request.header(name, value));
        let param = envelope(&gateway.send(request).await)["param"].take();
        assert_eq!(param["remote_addr"], client, "{list:?} {standard:?}");
        assert_eq!(param["header"]["Forwarded"], standard.map_or(Value::Null, |value| json!([value])));
    }
    let request =
        Request::get("/foo").header("X-Forwarded-For", "203.0.113.9").header("Forwarded", "for=203.0.113.8");
    let error = bad_request(&gateway.send(request).await);
    assert!(error["message"].as_str().is_some_and(|text| text.contains("different clients")), "{error}");
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let (gateway, _worker) = serving("", &["foo"]).await;
    let request =
        Request::get("/foo").header("X-Forwarded-For", "203.0.113.9").header("Forwarded", "for=203.0.113.8");
    let param = envelope(&gateway.send(request).await)["param"].take();
    assert_eq!(param["remote_addr"], "127.0.0.1");
    assert_eq!(
        (&param["header"]["X-Forwarded-For"], &param["header"]["Forwarded"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn a_proxy_protocol_header_names_the_client() {
    let (gateway, _worker) = serving(&format!("{TRUSTING}proxy_protocol = true\n"), &["foo"]).await;
    let spoofed = || Request::get("/foo").header("X-Forwarded-For", "6.6.6.6");
    let param =
        ask_behind(&header(0x21, [203, 0, 113, 9], &[]), &gateway, spoofed()).await.expect("an answer");
    assert_eq!(
        (&param["remote_addr"], &param["header"]["X-Forwarded-For"]),
        (&json!("203.0.113.9"), &Value::Null)
    );
    // Another proxy before this one is believed as if it had connected itself.
    let behind = header(0x21, [10, 0, 0, 7], &[0x04, 0, 1, 0]);
    assert_eq!(ask_behind(&behind, &gateway, spoofed()).await.expect("an answer")["remote_addr"], "6.6.6.6");
    // The proxy's own health check.
    let local = header(0x20, [203, 0, 113, 9], &[]);
    assert_eq!(
        ask_behind(&local, &gateway, Request::get("/foo")).await.expect("an answer")["remote_addr"],
        "127.0.0.1"
    );
    for refused in [&b""[..], b"PROXY TCP4 203.0.113.9 127.0.0.1 1 80\r\n", &header(0x2f, [1, 2, 3, 4], &[])]
    {
        assert!(ask_behind(refused, &gateway, Request::get("/foo")).await.is_err(), "{refused:?}");
    }
}

#[tokio::test]
async fn a_header_counts_from_trusted_proxies_alone() {
    let config = "[public]\ntrusted_proxies = [\"10.0.0.0/8\"]\nproxy_protocol = true\n";
    let (gateway, _worker) = serving(config, &["foo"]).await;
    let mut connection = gateway.connect().await;
    connection.write(&header(0x21, [203, 0, 113, 9], &[])).await.expect("a connection");
    connection.write(&Request::get("/foo").to_bytes(gateway.public_address())).await.expect("a connection");
    assert!(connection.read_to_end().await.starts_with(b"HTTP/1.1 400 "));
    assert_eq!(gateway.get("/foo").await.status, 200);
}

#[tokio::test]
async fn a_header_comes_before_tls_and_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let certificate = Certificate::make();
    certificate.write(folder.path());
    let path = folder.path().display();
    let tls = format!("tls.cert_file = \"{path}/cert.pem\"\ntls.key_file = \"{path}/key.pem\"\n");
    let config = format!("{TRUSTING}proxy_protocol = true\n{tls}[limits]\nheader_timeout = \"1s\"\n");
    let (gateway, _worker) = serving(&config, &["foo"]).await;
    let to: SocketAddr = gateway.public_address();
    let stream =
        certificate.connect_behind(to, &header(0x21, [203, 0, 113, 9], &[])).await.expect("a handshake");
    let (reader, writer) = tokio::io::split(stream);
    let response =
        Connection::over(reader, writer, to).request(&Request::get("/foo").header("Host", HOST)).await;
    assert_eq!(envelope(&response.expect("an answer"))["param"]["remote_addr"], "203.0.113.9");
    let mut slow = gateway.connect().await;
    slow.write(&header(0x21, [203, 0, 113, 9], &[])[..20]).await.expect("a connection");
    assert_eq!(slow.read_to_end().await, b"");
}
