//! An HTTP/1.1 client that normalises nothing: what the worker wrote is what is judged.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

/// How long an answer may take. It decides only how soon a broken worker is given up.
const PATIENCE: Duration = Duration::from_secs(40);
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 64 * 1024 * 1024;

/// The worker's HTTP response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case; values as they were.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

/// What was seen of all of a worker's answers together.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) framing: BTreeSet<String>,
    pub(super) content_type: BTreeSet<String>,
    pub(super) keep_alive: BTreeSet<String>,
}

pub(super) type SharedNotes = Arc<Mutex<Notes>>;

/// A connection to the worker.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    authority: String,
    target: String,
    notes: SharedNotes,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<String> {
        let mut values = self.values(name);
        let first = values.next()?;
        Some(values.fold(first, |joined, value| format!("{joined}, {value}")))
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let of_that_name = self.headers.iter().filter(move |(given, _)| given == name);
        of_that_name.map(|(_, value)| value.iter().copied().map(char::from).collect())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some()
    }

    /// Status and the beginning of the body, for people.
    pub(super) fn shown(&self) -> String {
        format!("HTTP {} with {}", self.status, excerpt(&self.body))
    }
}

/// The beginning of a body, for people.
pub(super) fn excerpt(body: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]);
    if body.is_empty() {
        "an empty body".to_owned()
    } else if body.len() > SHOWN {
        format!("{text}… ({} bytes)", body.len())
    } else {
        text.into_owned()
    }
}

impl Connection {
    pub(super) async fn open(url: &Url, notes: SharedNotes) -> Result<Self, String> {
        let host = url.host_str().ok_or("the worker's URL has no host")?;
        let port = url.port_or_known_default().ok_or("the worker's URL has no port")?;
        let connecting = TcpStream::connect((host.trim_matches(['[', ']']), port));
        let stream = timeout(PATIENCE, connecting)
            .await
            .map_err(|_| format!("no connection to {host}:{port} within {PATIENCE:?}"))?
            .map_err(|error| format!("no connection to {host}:{port}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        Ok(Self { stream, authority: format!("{host}:{port}"), target, notes })
    }

    /// Posts a body as the gateway does, with that `Authorization` or none.
    pub(super) async fn post(&mut self, authorization: Option<&str>, body: &[u8]) -> Result<Answer, String> {
        let mut head = format!("POST {} HTTP/1.1\r\nHost: {}\r\n", self.target, self.authority);
        if let Some(authorization) = authorization {
            head.push_str(&format!("Authorization: {authorization}\r\n"));
        }
        head.push_str("Content-Type: application/json\r\n");
        head.push_str("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n");
        head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let (mut reader, mut writer) = self.stream.split();
        let write = async {
            writer.write_all(head.as_bytes()).await?;
            writer.write_all(body).await?;
            writer.flush().await
        };
        // An answer may come before the worker has read everything: it counts, if it arrives.
        let (written, answer) = timeout(PATIENCE, async { tokio::join!(write, read_answer(&mut reader)) })
            .await
            .map_err(|_| format!("no answer within {PATIENCE:?}"))?;
        let (answer, faults) = answer.map_err(|fault| match (fault, written) {
            (Fault::Framing(fault), _) => {
                self.notes.lock().framing.insert(fault.clone());
                fault
            }
            (Fault::Gone(error), Err(unwritten)) => format!("{error}; the call was not read: {unwritten}"),
            (Fault::Gone(error), Ok(())) => error,
        })?;
        self.note(&answer, faults);
        Ok(answer)
    }

    /// Whether the worker closes the connection, or writes to it without being asked, within that time.
    pub(super) async fn stirs_within(&mut self, time: Duration) -> bool {
        timeout(time, self.stream.readable()).await.is_ok()
    }

    fn note(&self, answer: &Answer, faults: Vec<String>) {
        let mut notes = self.notes.lock();
        notes.framing.extend(faults);
        if answer.status == 200 {
            let content_type = answer.header("content-type").unwrap_or_default();
            let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if media_type != "application/json" {
                notes.content_type.insert(format!("Content-Type: {content_type}"));
            }
        }
        let says = |name: &str| answer.header(name).unwrap_or_default().to_ascii_lowercase();
        for parameter in says("keep-alive").split(',').map(str::trim) {
            let seconds = parameter.strip_prefix("timeout=").and_then(|text| text.parse::<u64>().ok());
            if seconds.is_some_and(|seconds| seconds < 60) {
                notes.keep_alive.insert(format!("Keep-Alive: {parameter}"));
            }
        }
        // Whatever is refused may end the connection; a reply may not.
        if answer.status == 200 && says("connection").split(',').any(|option| option.trim() == "close") {
            notes.keep_alive.insert("Connection: close".to_owned());
        }
    }
}

enum Fault {
    /// It is no HTTP/1.1.
    Framing(String),
    /// The connection ended.
    Gone(String),
}

/// The answer, and what is wrong with it though it can be read.
async fn read_answer(reader: &mut (impl AsyncRead + Unpin)) -> Result<(Answer, Vec<String>), Fault> {
    let mut buffer = Vec::new();
    let mut faults = Vec::new();
    let mut answer = loop {
        match parse_head(&buffer)? {
            // Interim answers say nothing about the call.
            Some((interim, length, _)) if (100..200).contains(&interim.status) => {
                buffer.drain(..length);
            }
            Some((answer, length, version)) => {
                buffer.drain(..length);
                if version != 1 {
                    faults.push(format!("HTTP/1.{version} in the status line"));
                }
                break answer;
            }
            None if buffer.len() > MAX_HEAD => {
                return Err(Fault::Framing("headers without an end".to_owned()));
            }
            None => more(reader, &mut buffer).await?,
        }
    };
    let lengths: Vec<_> = answer.values("content-length").collect();
    let chunked = answer.is_chunked();
    match (lengths.as_slice(), chunked) {
        ([_, ..], true) => {
            return Err(Fault::Framing("both Content-Length and Transfer-Encoding".to_owned()));
        }
        ([_, _, ..], false) => {
            return Err(Fault::Framing(format!("{} Content-Length headers", lengths.len())));
        }
        ([length], false) => {
            let parsed = length.parse::<usize>().ok().filter(|length| *length <= MAX_BODY);
            let length = parsed.ok_or_else(|| Fault::Framing(format!("Content-Length: {length}")))?;
            while buffer.len() < length {
                more(reader, &mut buffer).await?;
            }
            answer.body = buffer.drain(..length).collect();
        }
        ([], true) => answer.body = read_chunks(reader, &mut buffer).await?,
        ([], false) if matches!(answer.status, 204 | 304) => {}
        ([], false) => {
            return Err(Fault::Framing(format!(
                "HTTP {} with neither Content-Length nor Transfer-Encoding: only the end of the connection would end it",
                answer.status
            )));
        }
    }
    if !buffer.is_empty() {
        faults.push(format!("behind the answer's end: {}", excerpt(&buffer)));
    }
    Ok((answer, faults))
}

/// A whole head, how long it is, and its minor version.
fn parse_head(buffer: &[u8]) -> Result<Option<(Answer, usize, u8)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed
        .parse(buffer)
        .map_err(|error| Fault::Framing(format!("no HTTP/1.1 head ({error}): {}", excerpt(buffer))))?;
    let httparse::Status::Complete(length) = status else { return Ok(None) };
    let headers =
        parsed.headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()));
    let answer =
        Answer { status: parsed.code.unwrap_or_default(), headers: headers.collect(), body: Vec::new() };
    Ok(Some((answer, length, parsed.version.unwrap_or_default())))
}

async fn read_chunks(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<Vec<u8>, Fault> {
    let mut body = Vec::new();
    loop {
        let parsed = httparse::parse_chunk_size(buffer);
        let parsed = parsed.map_err(|_| Fault::Framing(format!("no chunk size: {}", excerpt(buffer))))?;
        let httparse::Status::Complete((start, size)) = parsed else {
            more(reader, buffer).await?;
            continue;
        };
        buffer.drain(..start);
        let size = usize::try_from(size).ok().filter(|size| body.len() + size <= MAX_BODY);
        let size = size.ok_or_else(|| Fault::Framing("a chunk that is too large".to_owned()))?;
        if size == 0 {
            break;
        }
        while buffer.len() < size + 2 {
            more(reader, buffer).await?;
        }
        body.extend(buffer.drain(..size));
        let end: Vec<u8> = buffer.drain(..2).collect();
        if end != b"\r\n" {
            return Err(Fault::Framing("a chunk that is longer than its size says".to_owned()));
        }
    }
    // Trailers say nothing that a gateway would pass on.
    loop {
        let Some(end) = buffer.windows(2).position(|bytes| bytes == b"\r\n") else {
            more(reader, buffer).await?;
            continue;
        };
        buffer.drain(..end + 2);
        if end == 0 {
            return Ok(body);
        }
    }
}

async fn more(reader: &mut (impl AsyncRead + Unpin), buffer: &mut Vec<u8>) -> Result<(), Fault> {
    match reader.read_buf(buffer).await {
        Ok(0) if buffer.is_empty() => {
            Err(Fault::Gone("the connection was closed without an answer".to_owned()))
        }
        Ok(0) => Err(Fault::Framing("the connection was closed within an answer".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::Gone(format!("the connection broke: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &str) -> Result<(Answer, Vec<String>), String> {
        let read = read_answer(&mut bytes.as_bytes()).await;
        read.map_err(|fault| match fault {
            Fault::Framing(text) | Fault::Gone(text) => text,
        })
    }

    #[tokio::test]
    async fn both_framings_are_read() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nA: b\r\n\r\n",
        ] {
            let (answer, faults) = read(answer).await.unwrap();
            assert_eq!((answer.status, answer.body.as_slice(), faults.len()), (200, &b"hello"[..], 0));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        for (answer, expected) in [
            ("", "without an answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "within an answer"),
            ("HTTP/1.1 200 OK\r\n\r\nhello", "neither"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "2 Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello0\r\n\r\n", "longer"),
            ("hello\r\n\r\n", "no HTTP/1.1 head"),
        ] {
            let error = read(answer).await.unwrap_err();
            assert!(error.contains(expected), "{answer:?}: {error}");
        }
        let (_, faults) = read("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\nmore").await.unwrap();
        assert_eq!(faults.len(), 2, "{faults:?}");
    }
}
