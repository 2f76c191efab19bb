//! The bare loop behind the smallest HTTP there is: one thread reads requests and hands their rows over, the other one commits what waits, and
//! each is answered after its commit. No routes, no credentials, no limits: what HTTP and the hand-over cost by themselves.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::{Context, ensure};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rusqlite::{Connection, params};

use super::open;
use crate::load::Expected;

const LISTENER: Token = Token(usize::MAX);
const COMMITTED: Token = Token(usize::MAX - 1);
/// More than clients there are, each of which waits for one answer.
const WAITING: usize = 1024;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// What the load finds in an answer.
pub(super) const EXPECTED: Expected = Expected { status: 200, length: 2 };

/// Where the acceptor listens. It ends with the bench.
#[derive(Debug)]
pub(super) struct Acceptor {
    pub(super) address: SocketAddr,
}

impl Acceptor {
    pub(super) fn start(folder: &Path) -> anyhow::Result<Self> {
        let connection = open(&folder.join("acceptor.sqlite"))?;
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), COMMITTED)?);
        let (rows, to_commit) = sync_channel(WAITING);
        let (committed, answers) = sync_channel(WAITING);
        thread::Builder::new()
            .name("commits".into())
            .spawn(move || end_of("commits", commit(connection, &to_commit, &committed, &waker)))?;
        let clients = Clients { poll, listener, open: HashMap::new(), next: 0, rows, answers };
        thread::Builder::new().name("accepts".into()).spawn(move || end_of("accepts", clients.serve()))?;
        Ok(Self { address })
    }
}

/// The load notices too: nobody answers it any more.
fn end_of(what: &str, outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("the acceptor's thread that {what}: {error:#}");
    }
}

/// Who asks, and the row.
type Asked = (Token, Vec<u8>);

/// Commits everything that waits at once.
fn commit(
    mut connection: Connection,
    rows: &Receiver<Asked>,
    committed: &SyncSender<Vec<Token>>,
    waker: &Waker,
) -> anyhow::Result<()> {
    let mut id = 0;
    while let Ok(first) = rows.recv() {
        let transaction = connection.transaction()?;
        let mut answered = Vec::new();
        {
            let mut insert = transaction.prepare_cached("INSERT INTO deliveries VALUES (?1, ?2)")?;
            for (token, row) in std::iter::once(first).chain(rows.try_iter()) {
                id += 1;
                insert.execute(params![id, row])?;
                answered.push(token);
            }
        }
        transaction.commit()?;
        if committed.send(answered).is_err() {
            break;
        }
        waker.wake()?;
    }
    Ok(())
}

/// The thread that reads and answers.
struct Clients {
    poll: Poll,
    listener: TcpListener,
    open: HashMap<Token, Client>,
    next: usize,
    rows: SyncSender<Asked>,
    answers: Receiver<Vec<Token>>,
}

struct Client {
    stream: TcpStream,
    /// What came of the next request.
    request: Vec<u8>,
}

impl Clients {
    fn serve(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    COMMITTED => self.answer()?,
                    token => self.read(token)?,
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let token = Token(self.next);
            self.next += 1;
            self.poll.registry().register(&mut stream, token, Interest::READABLE)?;
            self.open.insert(token, Client { stream, request: Vec::new() });
        }
    }

    fn read(&mut self, token: Token) -> anyhow::Result<()> {
        let Some(client) = self.open.get_mut(&token) else { return Ok(()) };
        let mut buffer = [0; 16 * 1024];
        loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => {
                    self.open.remove(&token);
                    return Ok(());
                }
                Ok(read) => {
                    client.request.extend_from_slice(&buffer[..read]);
                    if read < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.open.remove(&token);
                    return Ok(());
                }
            }
        }
        if is_whole(&client.request)? {
            self.rows.send((token, std::mem::take(&mut client.request))).context("nobody commits")?;
        }
        Ok(())
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        for token in self.answers.try_iter().flatten() {
            if let Some(client) = self.open.get_mut(&token) {
                // It fits into the socket: a client asks for nothing before it has read the last answer.
                let written = client.stream.write(ANSWER).context("an answer")?;
                ensure!(written == ANSWER.len(), "an answer does not fit into a socket");
            }
        }
        Ok(())
    }
}

/// Whether a request with its body is there.
fn is_whole(bytes: &[u8]) -> anyhow::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(false) };
    let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length: usize = match length {
        Some(length) => std::str::from_utf8(length.value)?.parse()?,
        None => 0,
    };
    Ok(bytes.len() >= head + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_whole_with_its_body() {
        let request = b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        for length in 0..request.len() {
            assert!(!is_whole(&request[..length]).unwrap(), "{length}");
        }
        assert!(is_whole(request).unwrap());
    }

    #[test]
    fn what_is_answered_is_committed() {
        let folder = tempfile::tempdir().unwrap();
        let acceptor = Acceptor::start(folder.path()).unwrap();
        let head = b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
        for _ in 0..3 {
            let (status, body) = crate::call::exchange(acceptor.address, head, b"hello").unwrap();
            assert_eq!((status, body.len()), (EXPECTED.status, EXPECTED.length));
        }
        let rows = Connection::open(folder.path().join("acceptor.sqlite")).unwrap();
        let count = "SELECT count(*) FROM deliveries WHERE request LIKE '%hello'";
        assert_eq!(rows.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap(), 3);
    }
}
