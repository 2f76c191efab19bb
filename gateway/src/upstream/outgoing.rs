use std::io::IoSlice;

use bytes::{Buf, Bytes};
use gearway_protocol::Base64Body;

use crate::body::Body;

/// So many bytes of a body that is not text yet are encoded at once, which their text fits well into a processor's cache and a kept
/// buffer. A multiple of three, so that no padding comes before the end.
const PIECE: usize = 90 << 10;

/// A call on its way out: written whole where it is small. The base64 of a large body follows piece by piece as the connection takes
/// it.
#[derive(Debug)]
pub struct Outgoing {
    buffer: Vec<u8>,
    /// How much of the buffer is written, or was never to be.
    at: usize,
    /// What of a text is being written.
    piece: Bytes,
    rest: Body,
    /// What follows the body.
    tail: &'static [u8],
    written: bool,
}

impl Outgoing {
    /// The bytes of `buffer` from `start` on, then `body` in base64, then `tail`.
    #[must_use]
    pub fn new(buffer: Vec<u8>, start: usize, body: Body, tail: &'static [u8]) -> Self {
        Self { buffer, at: start, piece: Bytes::new(), rest: body, tail, written: false }
    }

    /// Whether a byte of it was written.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.written
    }

    /// What is to be written next, one after the other; all are empty when there is nothing more.
    pub fn unwritten(&mut self) -> [IoSlice<'_>; 3] {
        if self.piece.is_empty() {
            match &mut self.rest {
                Body::Text { text, .. } => self.piece = text.pop().unwrap_or_default(),
                Body::Plain(bytes) if self.at == self.buffer.len() && !bytes.is_empty() => {
                    self.buffer.clear();
                    self.at = 0;
                    let piece = bytes.split_to(bytes.len().min(PIECE));
                    self.buffer.reserve(PIECE / 3 * 4);
                    Base64Body::encode_to(&piece, &mut self.buffer);
                }
                Body::Plain(_) => {}
            }
        }
        let tail = if self.has_more() { &[] } else { self.tail };
        [&self.buffer[self.at..], &self.piece, tail].map(IoSlice::new)
    }

    pub fn advance(&mut self, written: usize) {
        self.written |= written > 0;
        let of_buffer = written.min(self.buffer.len() - self.at);
        self.at += of_buffer;
        let of_piece = (written - of_buffer).min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = &self.tail[written - of_buffer - of_piece..];
    }

    /// Whether everything was written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.at == self.buffer.len() && self.piece.is_empty() && !self.has_more() && self.tail.is_empty()
    }

    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Whether there is more of the body.
    fn has_more(&self) -> bool {
        match &self.rest {
            Body::Plain(bytes) => !bytes.is_empty(),
            Body::Text { text, .. } => !text.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mut outgoing: Outgoing, at_once: usize) -> Vec<u8> {
        let mut written = Vec::new();
        while !outgoing.is_written() {
            let next = outgoing.unwritten().map(|slice| slice.to_vec()).concat();
            let some = next.len().min(at_once);
            assert!(some > 0);
            written.extend_from_slice(&next[..some]);
            outgoing.advance(some);
        }
        assert!(outgoing.unwritten().iter().all(|slice| slice.is_empty()));
        assert!(outgoing.into_buffer().capacity() <= super::super::buffers::MAX_KEPT_BYTES + 64);
        written
    }

    #[test]
    fn a_body_in_pieces_is_the_body_in_one() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2] {
            let plain: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
            let text = Body::text_of(&plain);
            let whole = format!("{{{}}}", Base64Body::encode(&plain));
            for body in [text, Body::Plain(plain.into())] {
                for at_once in [10_000, usize::MAX] {
                    let outgoing = Outgoing::new(b"unused{".to_vec(), 6, body.clone(), b"}");
                    assert_eq!(written(outgoing, at_once), whole.as_bytes(), "{length} bytes");
                }
            }
        }
    }
}
