//! An HTTP/1.1 server on a real socket that answers as it is told, also with what no server should send.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::port::ReservedPort;
use crate::wait;
use crate::wire;

/// A request as the server got it.
#[derive(Debug, Clone)]
pub struct Incoming {
    pub method: String,
    pub target: String,
    /// In order, with repeats.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Which of the server's connections it came on, counted from 0.
    pub connection: usize,
    caller_left: Arc<AtomicBool>,
    answered: Arc<AtomicBool>,
}

impl Incoming {
    /// The header's only value.
    ///
    /// # Panics
    /// When the header is repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} is repeated: {:?}", self.headers);
        value
    }

    /// Whether the caller closed the connection while its answer was held back.
    #[must_use]
    pub fn caller_left(&self) -> bool {
        self.caller_left.load(Ordering::SeqCst)
    }

    /// Whether the whole answer has been written.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.answered.load(Ordering::SeqCst)
    }
}

/// Something that stays shut until the test opens it.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }
}

impl Gate {
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        // It cannot fail: `self` holds the sender.
        drop(self.0.subscribe().wait_for(|open| *open).await);
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A well-formed response.
    Http { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Exactly these bytes and then the connection closes.
    BytesThenClose(Vec<u8>),
    /// A well-formed 200 of this size, all of one letter, for as long as somebody reads.
    Filler { size: u64, chunked: bool },
    /// Another answer, held back until the gate opens.
    After(Gate, Box<Self>),
}

impl Answer {
    /// HTTP 200 with this body.
    #[must_use]
    pub fn raw(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200, body)
    }

    /// Another HTTP status with this body.
    #[must_use]
    pub fn status(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type".into(), "application/json".into())];
        Self::Http { status, headers, body: body.into() }
    }

    /// The worker's reply: a handler returned this text.
    #[must_use]
    pub fn text(value: &str) -> Self {
        Self::reply(&json!({"result": {"type": "text", "value": value}}))
    }

    /// The worker's reply: a handler returned this value.
    #[must_use]
    pub fn json(value: &Value) -> Self {
        Self::reply(&json!({"result": {"type": "json", "value": value}}))
    }

    /// The worker's reply, whatever it is.
    #[must_use]
    pub fn reply(reply: &Value) -> Self {
        Self::raw(reply.to_string())
    }

    #[must_use]
    pub fn close() -> Self {
        Self::BytesThenClose(Vec::new())
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Self::Http { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }

    #[must_use]
    pub fn after(self, gate: &Gate) -> Self {
        Self::After(gate.clone(), Box::new(self))
    }
}

type Script = Arc<dyn Fn(&Incoming) -> Answer + Send + Sync>;

/// The server. Its port stays its own while it refuses connections, and its connections end with it.
pub struct Server {
    port: ReservedPort,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    script: Mutex<Script>,
    connections: AtomicUsize,
    /// How many bytes of a connection are read before it is closed; `usize::MAX` for all.
    read_at_most: AtomicUsize,
    open: Mutex<Vec<AbortHandle>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts to serve on a loopback port.
    #[must_use]
    pub fn start(script: impl Fn(&Incoming) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(ReservedPort::take(), script)
    }

    /// Starts to serve on that port.
    #[must_use]
    pub fn at(port: ReservedPort, script: impl Fn(&Incoming) -> Answer + Send + Sync + 'static) -> Self {
        let shared = Shared {
            script: Mutex::new(Arc::new(script)),
            connections: AtomicUsize::new(0),
            read_at_most: AtomicUsize::new(usize::MAX),
            open: Mutex::default(),
        };
        let server = Self { port, shared: Arc::new(shared), accepting: Mutex::default() };
        server.accept();
        server
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Answers from now on by another script.
    pub fn script(&self, script: impl Fn(&Incoming) -> Answer + Send + Sync + 'static) {
        *lock(&self.shared.script) = Arc::new(script);
    }

    /// Closes new connections once that many of their bytes were read: 0 right after they were accepted,
    /// `usize::MAX` never.
    pub fn read_at_most(&self, bytes: usize) {
        self.shared.read_at_most.store(bytes, Ordering::SeqCst);
    }

    /// How many connections there have been.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends every open connection, wherever it is.
    pub fn close_connections(&self) {
        for connection in lock(&self.shared.open).drain(..) {
            connection.abort();
        }
    }

    /// As a process that died: open connections end and new ones are refused.
    pub async fn refuse(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // An aborted task yields an error, and its listener is closed by then.
            drop(accepting.await);
        }
        self.close_connections();
        // A child process that another test is just starting holds a copy of the listener until it runs its own program.
        wait::until("connections are refused", async || {
            TcpStream::connect(self.address()).await.is_err().then_some(())
        })
        .await;
    }

    /// Takes connections (again).
    pub fn accept(&self) {
        let listener = self.port.listen();
        *lock(&self.accepting) = Some(tokio::spawn(accept(listener, Arc::clone(&self.shared))));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = lock(&self.accepting).take() {
            accepting.abort();
        }
        self.close_connections();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end on their own or by `close_connections`, never because accepting stopped.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let handle = connections.spawn(serve(stream, number, Arc::clone(&shared)));
        lock(&shared.open).push(handle);
    }
}

async fn serve(stream: TcpStream, connection: usize, shared: Arc<Shared>) {
    let limit = shared.read_at_most.load(Ordering::SeqCst);
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    if limit < usize::MAX {
        let mut some = vec![0; limit];
        // However little came, the connection closes.
        drop(reader.read_exact(&mut some).await);
        return;
    }
    while let Ok(incoming) = read_request(&mut reader, connection).await {
        let script = Arc::clone(&lock(&shared.script));
        let answer = script(&incoming);
        let written = write(answer, &incoming, &mut reader, &mut writer).await;
        incoming.answered.store(written.is_ok(), Ordering::SeqCst);
        match written {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

async fn read_request(reader: &mut BufReader<OwnedReadHalf>, connection: usize) -> io::Result<Incoming> {
    let mut incoming = parse_head(&wire::read_head(reader).await?, connection)?;
    if let Some(length) = incoming.header("content-length") {
        let mut body = vec![0; length.parse().map_err(|_| wire::invalid("a content-length".into()))?];
        reader.read_exact(&mut body).await?;
        incoming.body = body;
    } else if incoming.header("transfer-encoding").is_some() {
        incoming.body = wire::read_chunks(reader).await?;
    }
    Ok(incoming)
}

fn parse_head(head: &[u8], connection: usize) -> io::Result<Incoming> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(head).map_err(|error| wire::invalid(error.to_string()))?;
    let text = |value: &[u8]| value.iter().copied().map(char::from).collect::<String>();
    Ok(Incoming {
        method: parsed.method.unwrap_or_default().into(),
        target: parsed.path.unwrap_or_default().into(),
        headers: parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        body: Vec::new(),
        connection,
        caller_left: Arc::default(),
        answered: Arc::default(),
    })
}

/// Whether the connection stays open.
async fn write(
    answer: Answer,
    incoming: &Incoming,
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> io::Result<bool> {
    let mut answer = answer;
    while let Answer::After(gate, held_back) = answer {
        tokio::select! {
            () = gate.opened() => {}
            () = end_of(reader) => {
                incoming.caller_left.store(true, Ordering::SeqCst);
                gate.opened().await;
            }
        }
        answer = *held_back;
    }
    match answer {
        Answer::Http { status, headers, body } => {
            let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n").into_bytes();
            for (name, value) in headers {
                bytes.extend(format!("{name}: {value}\r\n").bytes());
            }
            bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
            bytes.extend(body);
            writer.write_all(&bytes).await?;
            Ok(true)
        }
        Answer::BytesThenClose(bytes) => {
            writer.write_all(&bytes).await?;
            writer.shutdown().await?;
            Ok(false)
        }
        Answer::Filler { size, chunked } => {
            fill(size, chunked, writer).await?;
            Ok(true)
        }
        Answer::After(..) => Err(wire::invalid("unwrapped above".into())),
    }
}

/// Completes when the other side has closed; bytes that it sends ahead do not count.
async fn end_of(reader: &mut BufReader<OwnedReadHalf>) {
    match reader.fill_buf().await {
        Ok(bytes) if !bytes.is_empty() => std::future::pending().await,
        Ok(_) | Err(_) => {}
    }
}

async fn fill(size: u64, chunked: bool, writer: &mut OwnedWriteHalf) -> io::Result<()> {
    const PIECE: usize = 64 * 1024;
    let piece = vec![b'x'; PIECE];
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {size}") };
    writer.write_all(format!("HTTP/1.1 200 Scripted\r\n{framing}\r\n\r\n").as_bytes()).await?;
    let mut left = size;
    while left > 0 {
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        if chunked {
            writer.write_all(format!("{length:x}\r\n").as_bytes()).await?;
        }
        writer.write_all(&piece[..length]).await?;
        if chunked {
            writer.write_all(b"\r\n").await?;
        }
        left -= length as u64;
    }
    if chunked {
        writer.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}
