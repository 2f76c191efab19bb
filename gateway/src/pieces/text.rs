use gearway_protocol::Base64Body;

use super::{PieceWriter, Pieces};

/// Writes the base64 of bytes that come one after another.
#[derive(Debug, Default)]
pub struct TextWriter {
    text: PieceWriter,
    /// Bytes that are not three yet.
    rest: [u8; 3],
    rest_len: usize,
}

impl TextWriter {
    /// Takes the bytes that come next.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if self.rest_len > 0 {
            let missing = (3 - self.rest_len).min(bytes.len());
            self.rest[self.rest_len..self.rest_len + missing].copy_from_slice(&bytes[..missing]);
            self.rest_len += missing;
            bytes = &bytes[missing..];
            if self.rest_len < 3 {
                return;
            }
            self.write(&{ self.rest });
        }
        let threes = bytes.len() / 3 * 3;
        self.write(&bytes[..threes]);
        self.rest_len = bytes.len() - threes;
        self.rest[..self.rest_len].copy_from_slice(&bytes[threes..]);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> Pieces {
        self.write(&{ self.rest }[..self.rest_len]);
        self.text.finish()
    }

    /// Groups of four characters never lie across two pieces.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.text.room();
            let (now, later) = bytes.split_at(bytes.len().min(room.len() / 4 * 3));
            let written = Base64Body::encode_slice(now, room);
            self.text.advance(written);
            bytes = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::PIECE;
    use super::*;

    fn text(bytes: &[u8], size: usize) -> Pieces {
        let mut writer = TextWriter::default();
        bytes.chunks(size).for_each(|part| writer.push(part));
        writer.finish()
    }

    proptest! {
        #[test]
        fn parts_come_to_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), size in 1_usize..40) {
            prop_assert_eq!(text(&bytes, size).into_bytes(), Base64Body::encode(&bytes));
        }
    }

    #[test]
    fn texts_longer_than_a_piece_come_whole() {
        for length in [PIECE / 4 * 3 - 1, PIECE / 4 * 3, PIECE / 4 * 3 + 1, 2 * PIECE + 2] {
            let bytes: Vec<u8> = (0..length).map(|place| (place * 7) as u8).collect();
            for size in [1000, length] {
                let text = text(&bytes, size);
                assert_eq!(text.iter().count(), length.div_ceil(3).div_ceil(PIECE / 4));
                assert_eq!(text.into_bytes(), Base64Body::encode(&bytes), "{length} bytes");
            }
        }
    }
}
