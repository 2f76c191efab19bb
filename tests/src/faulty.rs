//! A worker that fails at any byte of an exchange, and keeps a ledger of what it ran.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::port::ReservedPort;

/// The header by which a ledger knows requests: whoever sends them gives each a value of its own.
pub const REQUEST_HEADER: &str = "X-Request-Number";

/// How often each request ran, over all workers that share the ledger.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<HashMap<String, Entry>>>);

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    runs: usize,
    damage: Damage,
}

/// What may be made of a reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// It is one, if it comes whole.
    #[default]
    None,
    /// It is one, or nonsense, for something follows it.
    Followed,
    /// Anything.
    Garbled,
}

impl Ledger {
    /// How often the request ran.
    #[must_use]
    pub fn runs(&self, request: &str) -> usize {
        self.entry(request).runs
    }

    /// What went wrong with a reply to the request.
    #[must_use]
    pub fn damage(&self, request: &str) -> Damage {
        self.entry(request).damage
    }

    /// Begins anew.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    fn entry(&self, request: &str) -> Entry {
        self.0.lock().get(request).copied().unwrap_or_default()
    }

    fn note(&self, request: &str, fault: Fault) {
        let mut entries = self.0.lock();
        let entry = entries.entry(request.to_owned()).or_default();
        entry.runs += 1;
        let damage = match fault {
            Fault::Garbled(_) => Damage::Garbled,
            Fault::Twice => Damage::Followed,
            _ => Damage::None,
        };
        entry.damage = entry.damage.max(damage);
    }
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: FIN.
    Close,
    /// As the kernel does for a process that died with unread bytes: RST.
    Reset,
    /// Not at all: nothing more comes, until the other side gives up.
    Stall,
}

impl End {
    pub const ALL: [Self; 3] = [Self::Close, Self::Reset, Self::Stall];
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// After so many bytes of the request were read; with 0 they wait unread.
    InRequest(usize, End),
    /// After so many bytes of the reply. The handler has run.
    InReply(usize, End),
    /// The byte of the reply at this place is another. The handler has run.
    Garbled(usize),
    /// The reply comes twice, at once.
    Twice,
    /// The reply comes byte by byte.
    Trickle,
    /// The reply comes this much later. The handler has run before.
    Late(Duration),
    /// 503 with `Gearway-Not-Run`. The handler has not run.
    NotRun,
}

impl Fault {
    /// Whether the worker has the whole request and runs its handler.
    #[must_use]
    pub fn runs(self) -> bool {
        !matches!(self, Self::InRequest(..) | Self::NotRun)
    }
}

type CallPlan = Arc<dyn Fn() -> Fault + Send + Sync>;
type ConnectionPlan = Arc<dyn Fn() -> Option<End> + Send + Sync>;

/// The worker. It answers each call with the request's number in `X-Request-Number` and as the body.
pub struct FaultyWorker {
    port: ReservedPort,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinSet<()>>>,
}

struct Shared {
    calls_fail: Mutex<CallPlan>,
    connections_fail: Mutex<ConnectionPlan>,
    ledger: Ledger,
    calls: AtomicUsize,
}

impl std::fmt::Debug for FaultyWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyWorker").field("port", &self.port).finish_non_exhaustive()
    }
}

impl FaultyWorker {
    /// A worker without faults.
    #[must_use]
    pub fn start(ledger: &Ledger) -> Self {
        let shared = Shared {
            calls_fail: Mutex::new(Arc::new(|| Fault::None)),
            connections_fail: Mutex::new(Arc::new(|| None)),
            ledger: ledger.clone(),
            calls: AtomicUsize::new(0),
        };
        let worker =
            Self { port: ReservedPort::take(), shared: Arc::new(shared), accepting: Mutex::default() };
        worker.accept();
        worker
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/", self.address())
    }

    /// Calls go wrong from now on as `plan` says, which is asked when the first byte of one has come.
    pub fn fail(&self, plan: impl Fn() -> Fault + Send + Sync + 'static) {
        *self.shared.calls_fail.lock() = Arc::new(plan);
    }

    /// Connections end from now on as `plan` says, right after they were accepted.
    pub fn fail_connections(&self, plan: impl Fn() -> Option<End> + Send + Sync + 'static) {
        *self.shared.connections_fail.lock() = Arc::new(plan);
    }

    /// How many calls have begun.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// As a process that died: every connection ends, and new ones are refused.
    pub async fn refuse(&self) {
        let accepting = self.accepting.lock().take();
        if let Some(mut accepting) = accepting {
            accepting.shutdown().await;
        }
    }

    /// Takes connections (again).
    pub fn accept(&self) {
        let listener = self.port.listen();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&self.shared)));
        *self.accepting.lock() = Some(tasks);
    }
}

/// Its connections end with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    stream.set_nodelay(true).ok();
    let mut end = (shared.connections_fail.lock())();
    while end.is_none() {
        // What the other side did is its own business.
        let Ok(now) = exchange(&mut stream, &shared).await else { return };
        end = now;
    }
    match end {
        None | Some(End::Close) => {}
        Some(End::Reset) => drop(stream.set_zero_linger()),
        Some(End::Stall) => while let Ok(1..) = stream.read(&mut [0; 4096]).await {},
    }
}

/// One call and its reply; how the connection is to end if it is.
async fn exchange(stream: &mut TcpStream, shared: &Shared) -> io::Result<Option<End>> {
    if stream.peek(&mut [0]).await? == 0 {
        return Ok(Some(End::Close));
    }
    shared.calls.fetch_add(1, Ordering::SeqCst);
    let fault = (shared.calls_fail.lock())();
    if let Fault::InRequest(bytes, end) = fault {
        let mut some = vec![0; bytes];
        stream.read_exact(&mut some).await?;
        return Ok(Some(end));
    }
    let request = read_request(stream).await?;
    let number = request["param"]["header"][REQUEST_HEADER][0].as_str().unwrap_or_default().to_owned();
    if fault.runs() {
        shared.ledger.note(&number, fault);
    }
    let mut reply = reply(&number, fault);
    match fault {
        Fault::InReply(bytes, end) => {
            stream.write_all(&reply[..bytes.min(reply.len())]).await?;
            return Ok(Some(end));
        }
        Fault::Garbled(place) => {
            let place = place % reply.len();
            reply[place] ^= 0x15;
            stream.write_all(&reply).await?;
            // Its length may be wrong now: who knows what would be read as the next reply.
            return Ok(Some(End::Close));
        }
        Fault::Twice => stream.write_all(&[reply.as_slice(), &reply].concat()).await?,
        Fault::Trickle => {
            for byte in reply {
                stream.write_all(&[byte]).await?;
                tokio::task::yield_now().await;
            }
        }
        Fault::Late(delay) => {
            tokio::time::sleep(delay).await;
            stream.write_all(&reply).await?;
        }
        Fault::None | Fault::NotRun | Fault::InRequest(..) => stream.write_all(&reply).await?,
    }
    Ok(None)
}

/// The whole reply to a call, as it is without faults.
#[must_use]
pub fn reply(number: &str, fault: Fault) -> Vec<u8> {
    if fault == Fault::NotRun {
        return b"HTTP/1.1 503 Scripted\r\nGearway-Not-Run: 1\r\nContent-Length: 0\r\n\r\n".to_vec();
    }
    let body = gearway_protocol::Base64Body::encode(number.as_bytes());
    let header = json!({REQUEST_HEADER: [number]});
    let body =
        json!({"result": {"type": "response", "status": 200, "header": header, "body": body}}).to_string();
    format!(
        "HTTP/1.1 200 Scripted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The envelope of one call.
async fn read_request(stream: &mut TcpStream) -> io::Result<Value> {
    let mut read = Vec::new();
    loop {
        if let Some((head, length)) = head_and_length(&read)?
            && read.len() >= head + length
        {
            return Ok(serde_json::from_slice(&read[head..head + length])?);
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn head_and_length(read: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let httparse::Status::Complete(head) = request.parse(read).map_err(|error| invalid(error.to_string()))?
    else {
        return Ok(None);
    };
    let length = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |field| String::from_utf8_lossy(field.value).parse::<usize>());
    Ok(Some((head, length.map_err(|error| invalid(error.to_string()))?)))
}
