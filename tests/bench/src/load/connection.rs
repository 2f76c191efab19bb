//! One connection of the load.

use std::io::{self, IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;

use super::Request;
use super::response::{Expected, Response};

pub(super) struct Connection {
    stream: TcpStream,
    heads: Arc<[Box<[u8]>]>,
    /// The head that is being sent, or was last.
    head: usize,
    body: Arc<[u8]>,
    written: usize,
    sent: Option<Instant>,
    response: Response,
}

impl Connection {
    /// Its first request has the head after `head`.
    pub(super) fn new(stream: TcpStream, request: &Request, head: usize) -> Self {
        let (heads, body) = (Arc::clone(&request.heads), Arc::clone(&request.body));
        let written = heads[head].len() + body.len();
        Self { stream, heads, head, body, written, sent: None, response: Response::default() }
    }

    /// Whether an answer is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.sent.is_some()
    }

    /// Begins the next request.
    pub(super) fn send(&mut self, now: Instant) -> io::Result<()> {
        self.sent = Some(now);
        self.written = 0;
        self.head = (self.head + 1) % self.heads.len();
        self.write()
    }

    /// Goes on as far as the socket lets it. Says when the request was sent whose answer is complete now.
    pub(super) fn turn(
        &mut self,
        event: &Event,
        buffer: &mut [u8],
        expected: Expected,
    ) -> io::Result<Option<Instant>> {
        if event.is_writable() {
            self.write()?;
        }
        if !(event.is_readable() || event.is_read_closed()) {
            return Ok(None);
        }
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the proxy closed")),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            if self.response.take(&buffer[..read], expected)? {
                self.response = Response::default();
                return Ok(self.sent.take());
            }
            // The socket is empty: what comes later is an event of its own.
            if read < buffer.len() {
                return Ok(None);
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let head = &self.heads[self.head];
        while self.written < head.len() + self.body.len() {
            let in_head = self.written.min(head.len());
            let in_body = self.written - in_head;
            let rest = [IoSlice::new(&head[in_head..]), IoSlice::new(&self.body[in_body..])];
            match self.stream.write_vectored(&rest) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
