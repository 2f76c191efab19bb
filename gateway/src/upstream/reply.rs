//! A worker's reply, from bytes however they are cut. RFC 9112 sections 4 to 7.
//!
//! A reply passes only if it has one reading: what two clients could take for two different bodies, or for more than one
//! reply, is nonsense. Nothing here reads a socket.

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use memchr::memmem;

use super::reply_head::{Framing, ReplyHead};
use crate::framing::{ChunkScan, ChunkStep};

/// The longest head of a reply. Nothing that the gateway reads of one is longer than a line.
const MAX_HEAD: usize = 64 << 10;
/// How many interim replies may come before the one that counts: a worker that sends nothing else would hold its call until the
/// deadline.
const MAX_INTERIM: u8 = 16;
/// The least room for reading on.
const LEAST_ROOM: usize = 8 << 10;

/// A worker's reply as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    head: Bytes,
    pub body: Bytes,
}

/// Why bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("{0}")]
    Nonsense(&'static str),
    #[error("the reply is larger than it may be")]
    TooLarge,
    #[error("the connection ended within the reply")]
    Truncated,
}

/// Reads one reply. What it is given is read once, wherever it is cut.
#[derive(Debug)]
pub struct ReplyReader {
    max_body: u64,
    at: At,
    keeps_alive: bool,
}

#[derive(Debug)]
enum At {
    /// No head ends before `searched`.
    Head {
        searched: usize,
        interim: u8,
    },
    /// The input begins with the head, and ends with the body.
    Length {
        head: ReplyHead,
        length: usize,
    },
    Chunked {
        status: StatusCode,
        head: Bytes,
        scan: ChunkScan,
        body: BytesMut,
    },
    /// The input begins with the head, and the body is all that follows it.
    UntilEnd {
        head: ReplyHead,
    },
}

impl Answer {
    /// The value of the header's first field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        super::reply_head::field(&self.head, name)
    }
}

impl ReplyReader {
    #[must_use]
    pub fn new(max_body: u64) -> Self {
        Self { max_body, at: At::Head { searched: 0, interim: 0 }, keeps_alive: false }
    }

    /// Whether the connection may carry another call after this reply.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        self.keeps_alive
    }

    /// Reads on in `input`, which holds everything that was read and not taken out of it here. [`None`] while the reply is not
    /// whole; `input` then has room for more of it.
    ///
    /// # Errors
    /// When this is no reply, or too large a one. There is nothing to be read on that connection after that.
    pub fn advance(&mut self, input: &mut BytesMut) -> Result<Option<Answer>, ReplyError> {
        loop {
            match &mut self.at {
                At::Head { searched, interim } => {
                    let Some(len) = head_len(input, searched)? else {
                        input.reserve(LEAST_ROOM);
                        return Ok(None);
                    };
                    let head = ReplyHead::parse(&input[..len])?;
                    if head.status.is_informational() {
                        *interim += 1;
                        *searched = 0;
                        if *interim > MAX_INTERIM {
                            return Err(ReplyError::Nonsense("nothing but interim replies"));
                        }
                        input.advance(len);
                        continue;
                    }
                    self.keeps_alive = head.keeps_alive;
                    self.at = match head.framing {
                        Framing::Length(length) if length > self.max_body => {
                            return Err(ReplyError::TooLarge);
                        }
                        Framing::Length(length) => {
                            let length = usize::try_from(length).map_err(|_| ReplyError::TooLarge)?;
                            At::Length { head, length }
                        }
                        Framing::Chunked => At::Chunked {
                            status: head.status,
                            head: input.split_to(len).freeze(),
                            scan: ChunkScan::new(),
                            body: BytesMut::new(),
                        },
                        Framing::UntilEnd => At::UntilEnd { head },
                    };
                }
                At::Length { head, length } => {
                    let whole = head.len + *length;
                    if input.len() < whole {
                        input.reserve(whole - input.len());
                        return Ok(None);
                    }
                    if input.len() > whole {
                        return Err(ReplyError::Nonsense("bytes follow the reply"));
                    }
                    return Ok(Some(whole_answer(head, input)));
                }
                At::Chunked { status, head, scan, body } => {
                    let mut too_large = false;
                    let (used, step) = scan.decode(input, |data| {
                        too_large |= (body.len() + data.len()) as u64 > self.max_body;
                        if !too_large {
                            body.extend_from_slice(data);
                        }
                    });
                    if too_large {
                        return Err(ReplyError::TooLarge);
                    }
                    match step {
                        ChunkStep::Refused => {
                            return Err(ReplyError::Nonsense("the chunked body is malformed"));
                        }
                        ChunkStep::NeedMore => {
                            input.clear();
                            input.reserve(LEAST_ROOM);
                            return Ok(None);
                        }
                        ChunkStep::Done if used < input.len() => {
                            return Err(ReplyError::Nonsense("bytes follow the reply"));
                        }
                        ChunkStep::Done => {
                            input.clear();
                            let (head, body) = (std::mem::take(head), std::mem::take(body).freeze());
                            return Ok(Some(Answer { status: *status, head, body }));
                        }
                    }
                }
                At::UntilEnd { head } => {
                    if (input.len() - head.len) as u64 > self.max_body {
                        return Err(ReplyError::TooLarge);
                    }
                    input.reserve(LEAST_ROOM);
                    return Ok(None);
                }
            }
        }
    }

    /// Takes the end of the connection, which ends a reply only if nothing else says where it ends.
    ///
    /// # Errors
    /// When the reply is not whole.
    pub fn end(&mut self, input: &mut BytesMut) -> Result<Answer, ReplyError> {
        match &self.at {
            At::UntilEnd { head } => Ok(whole_answer(head, input)),
            At::Head { .. } | At::Length { .. } | At::Chunked { .. } => Err(ReplyError::Truncated),
        }
    }
}

fn whole_answer(head: &ReplyHead, input: &mut BytesMut) -> Answer {
    let mut body = input.split().freeze();
    let status = head.status;
    Answer { status, head: body.split_to(head.len), body }
}

/// The length of the head, its empty line included, once it is whole.
fn head_len(input: &[u8], searched: &mut usize) -> Result<Option<usize>, ReplyError> {
    const START: &[u8] = b"HTTP/1.";
    // What speaks something else may wait for us to go on, and never end a line.
    let begun = input.len().min(START.len());
    if input[..begun] != START[..begun] {
        return Err(ReplyError::Nonsense("it is not HTTP/1"));
    }
    let found = memmem::find(&input[*searched..], b"\r\n\r\n").map(|place| *searched + place + 4);
    *searched = input.len().saturating_sub(3);
    if found.unwrap_or(input.len()) > MAX_HEAD {
        return Err(ReplyError::Nonsense("its head is too large"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
