//! A worker's reply, from bytes however they are cut. RFC 9112 sections 4 to 7.
//!
//! A reply passes only if it has one reading: what two clients could take for two different bodies, or for more than one
//! reply, is nonsense. Nothing here reads a socket.

use std::sync::LazyLock;

use bytes::{Buf, Bytes, BytesMut};
use gearway_protocol::BodyError;
use http::StatusCode;
use memchr::memmem;

use super::base64_text::Base64Text;
use super::reply_head::{Framing, ReplyHead};
use crate::body::LARGE;
use crate::http1::{ChunkScan, ChunkStep};
use crate::pieces::Pieces;

/// The longest head of a reply. Nothing that the gateway reads of one is longer than a line.
const MAX_HEAD: usize = 64 << 10;
/// How many interim replies may come before the one that counts: a worker that sends nothing else would hold its call until the
/// deadline.
const MAX_INTERIM: u8 = 16;
/// The least room for reading on.
const LEAST_ROOM: usize = 8 << 10;

/// Room for reading a large body, piece by piece.
const PIECE: usize = 64 << 10;
/// A large body's text begins within so many bytes of its reply, or is not decoded as it comes.
const LOOKED_THROUGH: usize = 16 << 10;

/// A worker's reply as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    head: Bytes,
    /// JSON, mostly.
    pub body: Bytes,
    /// What the result's own body decodes to, where it is large: then `body` has an empty text in its place.
    pub large_body: Option<Result<Pieces, BodyError>>,
}

/// Tells of a reply's JSON up to and with a quote whether that quote opens the text of the result's own body.
pub type OpensBody = fn(&[u8]) -> bool;

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
    opens_body: OpensBody,
    /// From which length on a reply may hold a large body.
    large: usize,
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
        /// It holds no large body, as far as can be seen.
        is_plain: bool,
    },
    /// The input is what comes next of the reply's JSON, of which `missing` bytes have not come. What does not belong to the
    /// large text goes into `json`.
    Large {
        status: StatusCode,
        head: Bytes,
        json: Vec<u8>,
        text: Base64Text,
        is_text: bool,
        missing: usize,
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
        let at = At::Head { searched: 0, interim: 0 };
        Self { max_body, opens_body: |_| false, large: LARGE, at, keeps_alive: false }
    }

    /// Has large bodies decoded as they come.
    #[must_use]
    pub fn decoding(self, opens_body: OpensBody) -> Self {
        Self { opens_body, ..self }
    }

    /// Takes replies for large ones from so many bytes on, for tests that cannot read [`LARGE`] ones all day.
    #[must_use]
    pub fn large_from(self, large: usize) -> Self {
        Self { large, ..self }
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
                            At::Length { head, length, is_plain: length < self.large }
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
                At::Length { head, length, is_plain } => {
                    let whole = head.len + *length;
                    if !*is_plain && input.len() < whole {
                        let json = &input[head.len..];
                        match find_body(json) {
                            Some(start) if (self.opens_body)(&json[..start]) => {
                                let large = At::Large {
                                    status: head.status,
                                    head: Bytes::copy_from_slice(&input[..head.len]),
                                    json: json[..start].to_vec(),
                                    text: Base64Text::default(),
                                    is_text: true,
                                    missing: *length - start,
                                };
                                input.advance(head.len + start);
                                self.at = large;
                                continue;
                            }
                            Some(_) => *is_plain = true,
                            None => *is_plain = json.len() >= LOOKED_THROUGH,
                        }
                    }
                    if input.len() < whole {
                        input.reserve(if *is_plain { whole - input.len() } else { LEAST_ROOM });
                        return Ok(None);
                    }
                    if input.len() > whole {
                        return Err(ReplyError::Nonsense("bytes follow the reply"));
                    }
                    return Ok(Some(whole_answer(head, input)));
                }
                At::Large { status, head, json, text, is_text, missing } => {
                    let Some(still_missing) = missing.checked_sub(input.len()) else {
                        return Err(ReplyError::Nonsense("bytes follow the reply"));
                    };
                    *missing = still_missing;
                    let end = if *is_text { text.push(input) } else { Some(0) };
                    if let Some(end) = end {
                        *is_text = false;
                        json.extend_from_slice(&input[end..]);
                    }
                    input.clear();
                    if *missing > 0 {
                        input.reserve(PIECE);
                        return Ok(None);
                    }
                    let text = std::mem::take(text);
                    return Ok(Some(Answer {
                        status: *status,
                        head: std::mem::take(head),
                        body: std::mem::take(json).into(),
                        large_body: Some(text.finish().ok_or(BodyError)),
                    }));
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
                            return Ok(Some(Answer { status: *status, head, body, large_body: None }));
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
            At::Head { .. } | At::Length { .. } | At::Large { .. } | At::Chunked { .. } => {
                Err(ReplyError::Truncated)
            }
        }
    }
}

fn whole_answer(head: &ReplyHead, input: &mut BytesMut) -> Answer {
    let mut body = input.split().freeze();
    let status = head.status;
    Answer { status, head: body.split_to(head.len), body, large_body: None }
}

static HEAD_END: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"\r\n\r\n"));

/// The length of the head, its empty line included, once it is whole.
fn head_len(input: &[u8], searched: &mut usize) -> Result<Option<usize>, ReplyError> {
    const START: &[u8] = b"HTTP/1.";
    // What speaks something else may wait for us to go on, and never end a line.
    let begun = input.len().min(START.len());
    if input[..begun] != START[..begun] {
        return Err(ReplyError::Nonsense("it is not HTTP/1"));
    }
    let found = HEAD_END.find(&input[*searched..]).map(|place| *searched + place + 4);
    *searched = input.len().saturating_sub(3);
    if found.unwrap_or(input.len()) > MAX_HEAD {
        return Err(ReplyError::Nonsense("its head is too large"));
    }
    Ok(found)
}

/// Where the text of the first member named `body` begins: right after its quote. Within a string of JSON no quote stands
/// right after a comma, a brace or a space unless it ends that string, and then no colon follows.
fn find_body(json: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"\"body\"";
    memmem::find_iter(json, NAME).find_map(|place| {
        let begins = json[..place]
            .last()
            .is_some_and(|byte| matches!(byte, b'{' | b',') || byte.is_ascii_whitespace());
        let value = json[place + NAME.len()..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        let text = value.strip_prefix(b"\"")?;
        begins.then(|| json.len() - text.len())
    })
}

#[cfg(test)]
mod tests;
