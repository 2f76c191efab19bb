//! Single requests, on a connection each: registering, and checking that a proxy does its job.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};

/// Sends the bytes of a request that closes its connection; the status and the body.
pub(crate) fn exchange(to: SocketAddr, head: &[u8], body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut writing = stream.try_clone()?;
    // A proxy may begin to answer before it has read everything.
    std::thread::scope(|scope| {
        let sent = scope.spawn(move || writing.write_all(head).and_then(|()| writing.write_all(body)));
        let mut answer = Vec::new();
        let read = read_response(&mut stream, &mut answer);
        // So that the sender does not wait for a proxy that reads no more; it may be closed already.
        stream.shutdown(Shutdown::Both).ok();
        match sent.join() {
            Ok(outcome) => read.and_then(|response| outcome.context("cannot send").map(|()| response)),
            Err(_) => bail!("the sender panicked"),
        }
    })
}

/// JSON to the gateway's admin listener; its answer has to be a success.
pub(crate) fn admin(
    to: SocketAddr,
    token: &str,
    request_line: &str,
    body: &serde_json::Value,
) -> anyhow::Result<serde_json::Value> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{request_line} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let (status, answer) = exchange(to, head.as_bytes(), body.as_bytes())?;
    if !(200..300).contains(&status) {
        bail!("{request_line}: {status} {}", String::from_utf8_lossy(&answer));
    }
    Ok(if answer.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&answer)? })
}

fn read_response(stream: &mut TcpStream, answer: &mut Vec<u8>) -> anyhow::Result<(u16, Vec<u8>)> {
    let mut buffer = [0; 64 * 1024];
    loop {
        if let Some(response) = parse(answer)? {
            return Ok(response);
        }
        match stream.read(&mut buffer).context("no answer")? {
            0 => bail!("the connection ended within a response: {:?}", String::from_utf8_lossy(answer)),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

fn parse(bytes: &[u8]) -> anyhow::Result<Option<(u16, Vec<u8>)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.context("a response without a status")?;
    let body = &bytes[head..];
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    if let Some(length) = value("content-length") {
        let length: usize = length.parse()?;
        return Ok(body.get(..length).map(|body| (status, body.to_vec())));
    }
    if value("transfer-encoding").is_none() {
        return Ok(Some((status, Vec::new())));
    }
    let (mut rest, mut whole) = (body, Vec::new());
    loop {
        let httparse::Status::Complete((start, size)) =
            httparse::parse_chunk_size(rest).map_err(|_| anyhow::anyhow!("a bad chunk"))?
        else {
            return Ok(None);
        };
        let size = usize::try_from(size)?;
        let Some(chunk) = rest.get(start..start + size + 2) else { return Ok(None) };
        if size == 0 {
            return Ok(Some((status, whole)));
        }
        whole.extend_from_slice(&chunk[..size]);
        rest = &rest[start + size + 2..];
    }
}
