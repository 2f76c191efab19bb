use bytes::Bytes;
use gearway_protocol::Base64Body;

/// So many bytes of a body are encoded at once, which their text fits well into a processor's cache and a kept buffer. A multiple of
/// three, so that no padding comes before the end.
const PIECE: usize = 90 << 10;

/// A call on its way out: written whole where it is small. The base64 of a large body is made piece by piece as the connection takes
/// it, so that its text is never held.
#[derive(Debug)]
pub struct Outgoing {
    buffer: Vec<u8>,
    /// How much of the buffer is written, or was never to be.
    at: usize,
    rest: Bytes,
    /// What follows the body.
    tail: &'static [u8],
    written: bool,
}

impl Outgoing {
    /// The bytes of `buffer` from `start` on, then `body` in base64, then `tail`.
    #[must_use]
    pub fn new(buffer: Vec<u8>, start: usize, body: Bytes, tail: &'static [u8]) -> Self {
        Self { buffer, at: start, rest: body, tail, written: false }
    }

    /// Whether a byte of it was written.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.written
    }

    /// What is to be written next; empty when there is nothing more.
    pub fn unwritten(&mut self) -> &[u8] {
        if self.at == self.buffer.len() && !self.is_last() {
            self.buffer.clear();
            self.at = 0;
            let piece = self.rest.split_to(self.rest.len().min(PIECE));
            self.buffer.reserve(PIECE / 3 * 4 + self.tail.len());
            Base64Body::encode_to(&piece, &mut self.buffer);
            if self.rest.is_empty() {
                self.buffer.extend_from_slice(std::mem::take(&mut self.tail));
            }
        }
        &self.buffer[self.at..]
    }

    pub fn advance(&mut self, written: usize) {
        self.written |= written > 0;
        self.at += written;
    }

    /// Whether everything was written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.at == self.buffer.len() && self.is_last()
    }

    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    fn is_last(&self) -> bool {
        self.rest.is_empty() && self.tail.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_pieces_is_the_body_in_one() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 2] {
            let body: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
            let mut outgoing = Outgoing::new(b"unused{".to_vec(), 6, body.clone().into(), b"}");
            let mut written = Vec::new();
            while !outgoing.is_written() {
                let next = outgoing.unwritten();
                let some = next.len().min(10_000);
                written.extend_from_slice(&next[..some]);
                outgoing.advance(some);
            }
            assert!(outgoing.unwritten().is_empty());
            let text = Base64Body::encode(&body);
            assert_eq!(written, format!("{{{text}}}").into_bytes(), "{length} bytes");
            assert!(outgoing.into_buffer().capacity() <= super::super::buffers::MAX_KEPT_BYTES + 64);
        }
    }
}
