//! The requests of one connection, one after the other.

use super::chunked::{ChunkScan, ChunkStep};
use super::head::{Framing, HeadError, HeadScan, HeadStep};

/// Why a connection's bytes are no longer passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A head with no reading, or with several: 400.
    Head,
    /// A head over the limits: 431.
    HeadTooLarge,
    /// A chunked body that breaks off its own framing. Its head has been passed on, so the answer is the service's.
    Body,
}

/// What the next byte of the connection is.
#[derive(Debug)]
enum At {
    Head(HeadScan),
    /// So many bytes of the body are still to come; never none.
    Body(u64),
    Chunked(ChunkScan),
    /// Nothing: a byte after CONNECT is refused.
    End,
    Refused(Refusal),
}

#[derive(Debug)]
pub(super) struct Messages {
    max_header: usize,
    at: At,
}

impl Messages {
    pub(super) fn new(max_header: usize) -> Self {
        Self { max_header, at: At::Head(HeadScan::default()) }
    }

    /// How many of `bytes` have exactly one reading and may be passed on. What is left is either the beginning of a
    /// head, to be shown again with more bytes behind it, or refused for good.
    pub(super) fn admit(&mut self, bytes: &[u8]) -> usize {
        let mut admitted = 0;
        while admitted < bytes.len() {
            let rest = &bytes[admitted..];
            match &mut self.at {
                At::Head(scan) => match scan.advance(rest, self.max_header) {
                    HeadStep::NeedMore => return admitted,
                    HeadStep::Complete { len, framing } => {
                        admitted += len;
                        self.at = match framing {
                            Framing::Length(0) => At::Head(HeadScan::default()),
                            Framing::Length(length) => At::Body(length),
                            Framing::Chunked => At::Chunked(ChunkScan::new()),
                            Framing::Nothing => At::End,
                        };
                    }
                    HeadStep::Refused(HeadError::Malformed) => self.at = At::Refused(Refusal::Head),
                    HeadStep::Refused(HeadError::TooLarge) => self.at = At::Refused(Refusal::HeadTooLarge),
                },
                At::Body(remaining) => {
                    let taken = (*remaining).min(rest.len() as u64);
                    admitted += taken as usize;
                    *remaining -= taken;
                    if *remaining == 0 {
                        self.at = At::Head(HeadScan::default());
                    }
                }
                At::Chunked(scan) => {
                    let (used, step) = scan.advance(rest);
                    admitted += used;
                    match step {
                        ChunkStep::NeedMore => {}
                        ChunkStep::Done => self.at = At::Head(HeadScan::default()),
                        ChunkStep::Refused => self.at = At::Refused(Refusal::Body),
                    }
                }
                At::End => self.at = At::Refused(Refusal::Head),
                At::Refused(_) => return admitted,
            }
        }
        admitted
    }

    /// A head broke off: nothing more will come.
    pub(super) fn refuse_truncated(&mut self) {
        self.at = At::Refused(Refusal::Head);
    }

    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self.at {
            At::Refused(refusal) => Some(refusal),
            At::Head(_) | At::Body(_) | At::Chunked(_) | At::End => None,
        }
    }

    /// Whether the next byte would be part of a body.
    pub(super) fn in_body(&self) -> bool {
        match self.at {
            At::Body(_) | At::Chunked(_) => true,
            At::Head(_) | At::End | At::Refused(_) => false,
        }
    }
}
