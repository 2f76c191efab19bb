//! The base64 of a large body, decoded out of the reply's JSON while it arrives, so that its text is never held.

use gearway_protocol::Base64Body;
use memchr::memchr2;

use crate::pieces::{PieceWriter, Pieces};

/// The inside of a JSON string that holds standard, padded base64.
#[derive(Debug, Default)]
pub(super) struct Base64Text {
    decoded: PieceWriter,
    /// Characters that are not four yet.
    rest: Vec<u8>,
    /// A JSON escape that is not whole yet.
    escape: Vec<u8>,
    /// Padding was seen: nothing may follow it.
    is_padded: bool,
    is_bad: bool,
}

impl Base64Text {
    /// Takes text up to the quote that ends the string. Returns where in `text` that quote is, if it is there.
    pub(super) fn push(&mut self, text: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < text.len() {
            if !self.escape.is_empty() {
                self.escape.push(text[at]);
                at += 1;
                self.unescape();
                continue;
            }
            let plain = memchr2(b'"', b'\\', &text[at..]).unwrap_or(text.len() - at);
            self.decode(&text[at..at + plain]);
            at += plain;
            match text.get(at) {
                Some(b'"') => return Some(at),
                Some(_) => {
                    self.escape.push(b'\\');
                    at += 1;
                }
                None => {}
            }
        }
        None
    }

    /// The bytes that the whole text stands for; [`None`] when it is not base64.
    pub(super) fn finish(self) -> Option<Pieces> {
        (!self.is_bad && self.rest.is_empty()).then(|| self.decoded.finish())
    }

    fn decode(&mut self, mut text: &[u8]) {
        if !self.rest.is_empty() {
            let missing = (4 - self.rest.len()).min(text.len());
            self.rest.extend_from_slice(&text[..missing]);
            text = &text[missing..];
            if self.rest.len() < 4 {
                return;
            }
            let rest = std::mem::take(&mut self.rest);
            self.decode_fours(&rest);
        }
        let fours = text.len() / 4 * 4;
        self.decode_fours(&text[..fours]);
        self.rest.extend_from_slice(&text[fours..]);
    }

    /// What four characters stand for never lies across two pieces: only the last four are padded.
    fn decode_fours(&mut self, mut text: &[u8]) {
        while !text.is_empty() && !self.is_bad {
            let room = self.decoded.room();
            let (now, later) = text.split_at(text.len().min(room.len() / 3 * 4));
            match Base64Body::decode_slice(now, room) {
                Ok(written) if !self.is_padded => self.decoded.advance(written),
                Ok(_) | Err(_) => self.is_bad = true,
            }
            self.is_padded = now.ends_with(b"=");
            text = later;
        }
    }

    /// Reads the escape once it is whole. Few characters of base64 can be escaped, and `\/` is the only one that anybody writes.
    fn unescape(&mut self) {
        let character = match self.escape[..] {
            [_, b'/'] => Some(b'/'),
            [_, b'u', ..] if self.escape.len() < 6 => return,
            [_, b'u', ref digits @ ..] => std::str::from_utf8(digits)
                .ok()
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            _ => None,
        };
        self.escape.clear();
        match character {
            Some(character) => self.decode(&[character]),
            None => self.is_bad = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(text: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut decoding = Base64Text::default();
        for piece in text.chunks(size) {
            assert_eq!(decoding.push(piece), None);
        }
        assert_eq!(decoding.push(b"\"}}"), Some(0));
        decoding.finish().map(|decoded| decoded.into_bytes().to_vec())
    }

    #[test]
    fn escapes_are_read_wherever_they_are_cut() {
        for (text, decoded) in [
            (r"\/\/\/\/", Some(b"\xff\xff\xff".to_vec())),
            (r"YQ\u003D\u003d", Some(b"a".to_vec())),
            (r"Y\u0051==", Some(b"a".to_vec())),
            (r"YQ==\n", None),
            (r"Y\\Q=", None),
            (r"YQ=\u013d", None),
            (r"YQ=\u+03d", None),
            ("YQ", None),
            ("YQ==YQ==", None),
            ("YR==", None),
            ("Y Q=", None),
            ("", Some(Vec::new())),
        ] {
            for size in 1..8 {
                assert_eq!(in_pieces(text.as_bytes(), size), decoded, "{text} in pieces of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_decode_as_the_whole_does(text in "[A-Za-z0-9+/=]{0,40}={0,2}", size in 1_usize..9) {
            prop_assert_eq!(in_pieces(text.as_bytes(), size), Base64Body::decode(&text).ok());
        }

        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..50) {
            let text = Base64Body::encode(&bytes);
            prop_assert_eq!(in_pieces(text.as_bytes(), size), Some(bytes));
        }
    }
}
