//! Bodies in pieces of memory that their thread uses again.
//!
//! A large body that lies in one stretch takes memory from the system for each request and gives it back right after, a page fault for
//! every four kilobytes both ways. Pieces are kept between requests, so they are there already, and often still in the cache.

mod text;
mod writer;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};
use gearway_protocol::{Base64Body, BodyError};

pub use self::text::TextWriter;
pub use self::writer::PieceWriter;

/// So many bytes are in a piece: the text of 64 KiB fits into one. Four characters of base64 and the three bytes that they stand for
/// divide it.
pub const PIECE: usize = 96 << 10;

/// From this length on a piece is better than memory of one's own, which is cleared first; a shorter body would waste most of it.
pub const WORTH_A_PIECE: usize = PIECE / 3;

/// The bytes that a text in base64 stands for, in a piece if that is worth it.
///
/// # Errors
/// As [`Base64Body::decode_bytes`].
pub fn decode(text: &[u8]) -> Result<Bytes, BodyError> {
    if !(WORTH_A_PIECE..=PIECE).contains(&(text.len().div_ceil(4) * 3)) {
        return Base64Body::decode_bytes(text).map(Bytes::from);
    }
    let mut memory = Memory::take();
    memory.filled = Base64Body::decode_slice(text, &mut memory.room)?;
    Ok(memory.freeze())
}

/// Bytes that lie in one piece after another.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds bytes behind the others.
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Takes the first piece out.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.length -= piece.len();
        Some(piece)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// The same bytes in one stretch; copied unless there is one piece at most.
    #[must_use]
    pub fn into_bytes(mut self) -> Bytes {
        if self.pieces.len() <= 1 {
            return self.pop().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.length);
        self.pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }
}

impl From<Bytes> for Pieces {
    fn from(bytes: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(bytes);
        pieces
    }
}

impl IntoIterator for Pieces {
    type Item = Bytes;
    type IntoIter = std::collections::vec_deque::IntoIter<Bytes>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter()
    }
}

thread_local! {
    static FREE: RefCell<Free> = RefCell::new(Free::default());
}

/// Pieces that nobody uses now.
#[derive(Default)]
struct Free {
    pieces: Vec<Box<[u8]>>,
    /// The fewest that were free at once since the last look: nobody needed those.
    idle: usize,
}

/// Memory for one piece. It goes to those that are free on the thread that drops it.
struct Memory {
    room: Box<[u8]>,
    filled: usize,
}

impl Memory {
    fn take() -> Self {
        let kept = FREE.with_borrow_mut(|free| {
            let kept = free.pieces.pop();
            free.idle = free.idle.min(free.pieces.len());
            kept
        });
        Self { room: kept.unwrap_or_else(|| vec![0; PIECE].into()), filled: 0 }
    }

    fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.room[..self.filled]
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let room = mem::take(&mut self.room);
        // At the end of a thread there is nothing to keep it in.
        FREE.try_with(|free| free.borrow_mut().pieces.push(room)).ok();
    }
}

/// Gives back to the system what this thread has not needed since this was last called.
pub fn trim() {
    FREE.with_borrow_mut(|free| {
        let unneeded = free.idle.min(free.pieces.len());
        free.pieces.drain(..unneeded);
        free.pieces.shrink_to(64);
        free.idle = free.pieces.len();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_and_given_back_when_nobody_needs_it() {
        let free = || FREE.with_borrow(|free| free.pieces.len());
        let three: Vec<_> = (0..3).map(|_| Memory::take().freeze()).collect();
        assert_eq!(free(), 0);
        drop(three);
        trim();
        assert_eq!(free(), 3, "they were needed since the last look");
        drop(Memory::take());
        assert_eq!(free(), 3);
        trim();
        assert_eq!(free(), 1, "one was enough");
        trim();
        assert_eq!(free(), 0);
    }

    #[test]
    fn texts_are_decoded_whether_or_not_they_fill_a_piece() {
        for length in [0, 1, WORTH_A_PIECE - 1, WORTH_A_PIECE, PIECE - 2, PIECE - 1, PIECE, PIECE + 1] {
            let bytes: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
            let mut text = Base64Body::encode(&bytes).into_bytes();
            assert_eq!(decode(&text).unwrap(), bytes, "{length} bytes");
            text.push(b'%');
            assert_eq!(decode(&text), Err(BodyError), "{length} bytes");
        }
    }

    #[test]
    fn pieces_are_the_bytes_that_were_put_in() {
        let mut pieces = Pieces::default();
        assert!(pieces.is_empty());
        for part in ["one", "", "two"] {
            pieces.push(Bytes::from_static(part.as_bytes()));
        }
        assert_eq!((pieces.len(), pieces.iter().count()), (6, 2));
        assert_eq!(pieces.clone().into_bytes(), "onetwo");
        assert_eq!(pieces.pop().as_deref(), Some(b"one".as_slice()));
        assert_eq!(pieces.len(), 3);
    }
}
