//! An HTTP/1.1 client that normalises nothing: it sends the bytes that it is given, and shows every header that
//! came back, in order.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::TcpStream;

use crate::wait;

/// A request, written as it is put together: nothing is added but `Host`, and `Content-Length` for a body.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
    chunk: Option<usize>,
    host: bool,
}

impl Request {
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: None,
            chunk: None,
            host: true,
        }
    }

    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    #[must_use]
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body)
    }

    /// Adds a header; `Host` replaces the one that would be added.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.host &= !name.eq_ignore_ascii_case("host");
        self.headers.push((name.into(), value.as_ref().into()));
        self
    }

    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    #[must_use]
    pub fn api_key(self, key: &str) -> Self {
        self.header("X-Skygear-API-Key", key)
    }

    #[must_use]
    pub fn access_token(self, token: &str) -> Self {
        self.header("X-Skygear-Access-Token", token)
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// Sends the body in chunks of `size` bytes instead of with a `Content-Length`.
    #[must_use]
    pub fn chunked(mut self, size: usize) -> Self {
        self.chunk = Some(size);
        self
    }

    /// The bytes on the wire.
    #[must_use]
    pub fn to_bytes(&self, host: SocketAddr) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if self.host {
            bytes.extend(format!("Host: {host}\r\n").bytes());
        }
        for (name, value) in &self.headers {
            bytes.extend(name.bytes());
            bytes.extend(b": ");
            bytes.extend(value);
            bytes.extend(b"\r\n");
        }
        match (&self.body, self.chunk) {
            (None, _) => bytes.extend(b"\r\n"),
            (Some(body), None) => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                bytes.extend(body);
            }
            (Some(body), Some(size)) => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(size) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        bytes
    }

    /// Sends the request on a connection of its own and reads the whole response.
    ///
    /// # Panics
    /// When there is no whole response.
    pub async fn send(&self, to: SocketAddr) -> Response {
        match self.try_send(to).await {
            Ok(response) => response,
            Err(error) => panic!("{} {}: {error}", self.method, self.target),
        }
    }

    /// As [`send`](Self::send), for tests in which a failure is an answer.
    ///
    /// # Errors
    /// When the connection fails or ends before the whole response was read.
    pub async fn try_send(&self, to: SocketAddr) -> io::Result<Response> {
        Connection::connect(to).await?.request(self).await
    }
}

/// A response, as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// In order, with repeats; names in the case in which they came.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The header's only value.
    ///
    /// # Panics
    /// When the header is repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.header_values(name);
        assert!(values.len() <= 1, "{name} is repeated: {self:?}");
        values.into_iter().next().map(|value| latin1(&value))
    }

    /// The header's values, in order.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<Vec<u8>> {
        let named = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.clone()).collect()
    }

    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// # Panics
    /// When the body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// # Panics
    /// When the status is another.
    #[track_caller]
    #[must_use]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    fn closes(&self) -> bool {
        self.header_values("connection").iter().any(|value| value.eq_ignore_ascii_case(b"close"))
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(500)];
        writeln!(f, "status {}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", latin1(value))?;
        }
        write!(f, "{} bytes: {}", self.body.len(), String::from_utf8_lossy(shown))
    }
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A client's connection, kept alive between requests.
pub struct Connection {
    reader: BufReader<Box<dyn AsyncRead + Send + Unpin>>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    host: SocketAddr,
    closing: bool,
}

impl Connection {
    /// # Errors
    /// When nobody listens.
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self::over(reader, writer, to))
    }

    /// A connection that is open already, to be spoken over as if it were one to `host`.
    #[must_use]
    pub fn over(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        host: SocketAddr,
    ) -> Self {
        Self { reader: BufReader::new(Box::new(reader)), writer: Box::new(writer), host, closing: false }
    }

    /// # Panics
    /// When nobody listens.
    pub async fn open(to: SocketAddr) -> Self {
        Self::connect(to).await.unwrap_or_else(|error| panic!("connecting to {to}: {error}"))
    }

    /// Whether the other side announced that it closes the connection.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Sends exactly these bytes.
    ///
    /// # Errors
    /// When the other side has closed.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await
    }

    /// Sends a request and reads its response. The two overlap, so that an answer that comes before the
    /// request's end (a 413) is read, and a body that nobody reads any more does not hang the test.
    ///
    /// # Errors
    /// When the connection ends before the whole response was read.
    pub async fn request(&mut self, request: &Request) -> io::Result<Response> {
        let bytes = request.to_bytes(self.host);
        let Self { reader, writer, .. } = self;
        let answer = async {
            let writing = writer.write_all(&bytes);
            let reading = read_response(reader, request.method == "HEAD");
            tokio::pin!(writing, reading);
            tokio::select! {
                // Whatever was not sent is lost, and with it the connection.
                response = &mut reading => response.map(|response| (response, true)),
                written = &mut writing => match (written, (&mut reading).await) {
                    (_, Ok(response)) => Ok((response, false)),
                    (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(error),
                },
            }
        };
        let what = format!("{} {} is answered", request.method, request.target);
        let (response, cut_short) = wait::within(&what, answer).await?;
        self.closing = cut_short || response.closes();
        Ok(response)
    }

    /// Reads the response to what was written.
    ///
    /// # Errors
    /// When the connection ends before the whole response was read.
    pub async fn read_response(&mut self) -> io::Result<Response> {
        let response = wait::within("a response", read_response(&mut self.reader, false)).await?;
        self.closing = response.closes();
        Ok(response)
    }

    /// Everything up to the end of the connection; a reset ends it too.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // What was read before a reset is in `rest`, and is what the caller asked for.
        drop(wait::within("the connection closes", self.reader.read_to_end(&mut rest)).await);
        rest
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("host", &self.host).field("closing", &self.closing).finish()
    }
}

async fn read_response(reader: &mut (impl AsyncBufRead + Unpin), head_only: bool) -> io::Result<Response> {
    let mut response = parse_head(&read_head(reader).await?)?;
    let status = response.status;
    if head_only || matches!(status, 100..=199 | 204 | 304) {
        return Ok(response);
    }
    let lengths = response.header_values("content-length");
    let encodings = response.header_values("transfer-encoding");
    response.body = match (&lengths[..], &encodings[..]) {
        ([length], []) => {
            let length = latin1(length).parse::<usize>().map_err(|error| invalid(error.to_string()))?;
            let mut body = vec![0; length];
            reader.read_exact(&mut body).await?;
            body
        }
        ([], [encoding]) if encoding.eq_ignore_ascii_case(b"chunked") => read_chunks(reader).await?,
        ([], []) => {
            let mut body = Vec::new();
            reader.read_to_end(&mut body).await?;
            body
        }
        _ => return Err(invalid(format!("ambiguous framing: {response:?}"))),
    };
    Ok(response)
}

fn parse_head(head: &[u8]) -> io::Result<Response> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        other => return Err(invalid(format!("a response head that is none ({other:?}): {}", latin1(head)))),
    }
    let status = parsed.code.unwrap_or_default();
    let headers =
        parsed.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    Ok(Response { status, headers, body: Vec::new() })
}

/// A message's head, up to and with the empty line.
pub(crate) async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head).await? == 0 {
            let text = format!("the connection ended after {:?}", latin1(&head));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
    }
    Ok(head)
}

/// A chunked body; trailers are read and dropped.
pub(crate) async fn read_chunks(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
        if size == 0 {
            break;
        }
        let start = body.len();
        body.resize(start + size, 0);
        reader.read_exact(&mut body[start..]).await?;
        let mut end = [0; 2];
        reader.read_exact(&mut end).await?;
        if end != *b"\r\n" {
            return Err(invalid("a chunk without its end".into()));
        }
    }
    loop {
        let mut trailer = String::new();
        reader.read_line(&mut trailer).await?;
        if trailer.trim_end().is_empty() {
            return Ok(body);
        }
    }
}

pub(crate) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
