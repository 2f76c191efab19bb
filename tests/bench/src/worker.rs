//! The tiny worker behind every proxy: one thread, one epoll loop, and as little work for each request as there can be, so that it is
//! not what is measured.
//!
//! A request to `/envelope` is a gateway's call: the base64 of `param.body` goes back as it came, in a `response` result. Any other is
//! answered plainly: its body goes back. Without a body, both answer 198 bytes.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;

use anyhow::Context;
use memchr::memmem::Finder;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Where the gateway's calls go.
pub(crate) const ENVELOPE_PATH: &str = "/envelope";
/// What a request without a body gets.
pub(crate) const SMALL: [u8; 198] = [b'x'; 198];
const BEFORE_BODY: &[u8] = br#"{"result":{"type":"response","status":200,"header":{"Content-Type":["application/octet-stream"]},"body":""#;
const AFTER_BODY: &[u8] = br#""}}"#;
/// A request's head is much smaller.
const MAX_HEAD: usize = 64 * 1024;

/// Serves on as many ports as asked for, says on standard output which, and ends with its standard input.
pub(crate) fn run(ports: usize) -> anyhow::Result<()> {
    let poll = Poll::new()?;
    let mut listeners = Vec::with_capacity(ports);
    for _ in 0..ports {
        let mut listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        poll.registry().register(&mut listener, Token(listeners.len()), Interest::READABLE)?;
        println!("{}", listener.local_addr()?.port());
        listeners.push(listener);
    }
    println!("ready");
    std::thread::spawn(|| {
        let end = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(i32::from(end.is_err()));
    });
    Server { poll, listeners, connections: Vec::new(), free: Vec::new(), replies: Replies::new() }.serve()
}

struct Server {
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    replies: Replies,
}

/// What is the same in every answer.
struct Replies {
    body_key: Finder<'static>,
    small: Vec<u8>,
    small_envelope: Vec<u8>,
}

impl Replies {
    fn new() -> Self {
        let small_body = base64_simd::STANDARD.encode_to_string(SMALL);
        let envelope = [BEFORE_BODY, small_body.as_bytes(), AFTER_BODY].concat();
        Self {
            body_key: Finder::new(br#""body":""#),
            small: [&head("application/octet-stream", SMALL.len()), &SMALL[..]].concat(),
            small_envelope: [&head("application/json", envelope.len()), &envelope[..]].concat(),
        }
    }
}

impl Server {
    fn serve(mut self) -> anyhow::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome.context("epoll")?,
            }
            for event in &events {
                match event.token().0.checked_sub(self.listeners.len()) {
                    None => self.accept(event.token().0)?,
                    Some(place) => self.turn(place, event),
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> anyhow::Result<()> {
        loop {
            let mut stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("cannot accept"),
            };
            stream.set_nodelay(true)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            let token = Token(self.listeners.len() + place);
            self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            self.connections[place] = Some(Connection::new(stream));
        }
    }

    fn turn(&mut self, place: usize, event: &Event) {
        let Some(connection) = self.connections.get_mut(place).and_then(Option::as_mut) else { return };
        if connection.turn(event.is_readable() || event.is_read_closed(), &self.replies).is_err() {
            self.connections[place] = None;
            self.free.push(place);
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// What was read of the request.
    input: Vec<u8>,
    filled: usize,
    request: Option<Request>,
    answer: Option<Answer>,
}

#[derive(Clone, Copy)]
struct Request {
    is_envelope: bool,
    head: usize,
    /// With the head.
    length: usize,
}

struct Answer {
    before: Vec<u8>,
    /// Of the input, which goes out as it came in.
    echoed: std::ops::Range<usize>,
    after: &'static [u8],
    written: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, input: vec![0; 16 * 1024], filled: 0, request: None, answer: None }
    }

    /// Reads, and writes, as far as the socket lets it. The connection ends with an error, the peer's going away included.
    fn turn(&mut self, readable: bool, replies: &Replies) -> io::Result<()> {
        if self.answer.is_some() && !self.write()? {
            return Ok(());
        }
        if !readable {
            return Ok(());
        }
        loop {
            let space = self.input.len() - self.filled;
            let read = match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.filled += read;
            if self.complete()? {
                self.answer = Some(self.answer_with(replies)?);
                if !self.write()? {
                    return Ok(());
                }
            }
            // The socket is empty: what comes later is an event of its own.
            if read < space {
                return Ok(());
            }
        }
    }

    /// Whether the request is there as a whole.
    fn complete(&mut self) -> io::Result<bool> {
        if self.request.is_none() {
            self.request = read_head(&self.input[..self.filled])?;
            let wanted = self.request.map_or(MAX_HEAD, |request| request.length);
            if wanted > self.input.len() {
                self.input.resize(wanted, 0);
            }
        }
        Ok(self.request.is_some_and(|request| self.filled >= request.length))
    }

    fn answer_with(&mut self, replies: &Replies) -> io::Result<Answer> {
        let request = self.request.take().ok_or(io::ErrorKind::InvalidData)?;
        if self.filled > request.length {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a pipelined request"));
        }
        self.filled = 0;
        let body = request.head..request.length;
        if !request.is_envelope {
            return Ok(if body.is_empty() {
                Answer { before: replies.small.clone(), echoed: 0..0, after: b"", written: 0 }
            } else {
                Answer {
                    before: head("application/octet-stream", body.len()),
                    echoed: body,
                    after: b"",
                    written: 0,
                }
            });
        }
        let envelope = &self.input[body.clone()];
        // Quotes within JSON's strings are escaped, so this can be nothing but a key.
        let key = replies.body_key.find(envelope).ok_or(io::ErrorKind::InvalidData)?;
        let start = key + replies.body_key.needle().len();
        let end = memchr::memchr(b'"', &envelope[start..]).ok_or(io::ErrorKind::InvalidData)? + start;
        if start == end {
            return Ok(Answer {
                before: replies.small_envelope.clone(),
                echoed: 0..0,
                after: b"",
                written: 0,
            });
        }
        let mut before = head("application/json", BEFORE_BODY.len() + (end - start) + AFTER_BODY.len());
        before.extend_from_slice(BEFORE_BODY);
        let echoed = body.start + start..body.start + end;
        Ok(Answer { before, echoed, after: AFTER_BODY, written: 0 })
    }

    /// Whether all of the answer is written.
    fn write(&mut self) -> io::Result<bool> {
        let Some(answer) = &mut self.answer else { return Ok(true) };
        let parts = [&answer.before[..], &self.input[answer.echoed.clone()], answer.after];
        let length: usize = parts.iter().map(|part| part.len()).sum();
        while answer.written < length {
            let mut skip = answer.written;
            let rest = parts.map(|part| {
                let skipped = skip.min(part.len());
                skip -= skipped;
                IoSlice::new(&part[skipped..])
            });
            match self.stream.write_vectored(&rest) {
                Ok(written) => answer.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.answer = None;
        Ok(true)
    }
}

fn head(content_type: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}

fn read_head(bytes: &[u8]) -> io::Result<Option<Request>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let status = request.parse(bytes).map_err(|error| invalid(error.to_string()))?;
    let httparse::Status::Complete(head) = status else {
        return if bytes.len() < MAX_HEAD { Ok(None) } else { Err(invalid("a head too long".into())) };
    };
    let is_envelope = request.path == Some(ENVELOPE_PATH);
    let mut length = 0;
    for header in request.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).ok();
            length = text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a bad length".into()))?;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("a body without a length".into()));
        }
    }
    Ok(Some(Request { is_envelope, head, length: head + length }))
}
