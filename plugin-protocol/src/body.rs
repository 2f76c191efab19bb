use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes that travel as standard, padded base64 (RFC 4648 section 4) in a JSON string; `""` when empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Body(pub Vec<u8>);

/// A multiple of three, so that only the last piece is padded.
const PIECE: usize = 12 * 1024;

/// The string is not standard, padded base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError;

impl Base64Body {
    /// The text that goes on the wire.
    #[must_use]
    pub fn encode(bytes: &[u8]) -> String {
        base64_turbo::STANDARD.encode(bytes)
    }

    /// Appends the text that goes on the wire.
    pub fn encode_to(bytes: &[u8], out: &mut Vec<u8>) {
        out.reserve(base64_turbo::STANDARD.encoded_len(bytes.len()));
        // In pieces, so that what is made room for is still in the cache when it is written.
        for piece in bytes.chunks(PIECE) {
            let start = out.len();
            out.resize(start + base64_turbo::STANDARD.encoded_len(piece.len()), 0);
            let written = base64_turbo::STANDARD.encode_slice(piece, &mut out[start..]);
            debug_assert_eq!(written, Ok(out.len() - start));
        }
    }

    /// Writes the text that goes on the wire to the beginning of `out`, and returns its length: four for each three bytes, begun or whole.
    ///
    /// # Panics
    /// When `out` is shorter than that.
    #[must_use]
    pub fn encode_slice(bytes: &[u8], out: &mut [u8]) -> usize {
        base64_turbo::STANDARD.encode_slice(bytes, out).expect("room for the text")
    }

    /// Writes the bytes that `text` stands for to the beginning of `out`, and returns how many they are.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), or when `out` has no room for three bytes for each four characters; `out` may have changed all the same.
    pub fn decode_slice(text: &[u8], out: &mut [u8]) -> Result<usize, BodyError> {
        base64_turbo::STANDARD.decode_slice(text, out).map_err(|_| BodyError)
    }

    /// The bytes that `text` stands for.
    ///
    /// # Errors
    /// When `text` has a character outside the alphabet, or its padding is missing or wrong.
    pub fn decode(text: &str) -> Result<Vec<u8>, BodyError> {
        Self::decode_bytes(text.as_bytes())
    }

    /// As [`decode`](Self::decode), from what is not known to be text.
    ///
    /// # Errors
    /// As there.
    pub fn decode_bytes(text: &[u8]) -> Result<Vec<u8>, BodyError> {
        base64_turbo::STANDARD.decode(text).map_err(|_| BodyError)
    }
}

impl fmt::Debug for Base64Body {
    /// Bodies hold other people's data: only the length is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64Body({} bytes)", self.0.len())
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not standard base64 with padding")
    }
}

impl std::error::Error for BodyError {}

impl From<Vec<u8>> for Base64Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Base64Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Self::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(DecodingVisitor)
    }
}

/// Decodes straight from the JSON text: base64 needs no escapes, and the text may be megabytes.
struct DecodingVisitor;

impl de::Visitor<'_> for DecodingVisitor {
    type Value = Base64Body;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of base64")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64Body, E> {
        Base64Body::decode(text).map(Base64Body).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_byte_string_survives(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = serde_json::to_string(&Base64Body(bytes.clone())).unwrap();
            prop_assert_eq!(serde_json::from_str::<Base64Body>(&text).unwrap().0, bytes);
        }

        #[test]
        fn pieces_come_to_the_whole(length in 0..2 * PIECE + 5, seed in any::<u8>()) {
            let bytes: Vec<u8> = (0..length).map(|n| (n as u8).wrapping_mul(31) ^ seed).collect();
            let mut text = b"before".to_vec();
            Base64Body::encode_to(&bytes, &mut text);
            let whole = Base64Body::encode(&bytes);
            prop_assert_eq!(&text[6..], whole.as_bytes());
        }

        /// The vector code looks at 64 characters at once, so texts are spoiled at every place in texts longer than that.
        #[test]
        fn another_decoder_accepts_and_refuses_the_same(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            place in any::<prop::sample::Index>(),
            spoiled in proptest::option::of(any::<u8>()),
            cut in 0..4_usize,
        ) {
            let mut text = Base64Body::encode(&bytes).into_bytes();
            if let (Some(spoiled), false) = (spoiled, text.is_empty()) {
                let place = place.index(text.len());
                text[place] = spoiled;
            }
            text.truncate(text.len().saturating_sub(cut));
            prop_assert_eq!(Base64Body::decode_bytes(&text).ok(), base64_simd::STANDARD.decode_to_vec(&text).ok());
        }

        #[test]
        fn garbage_is_refused_and_never_panics(text in ".{0,40}") {
            if let Ok(bytes) = Base64Body::decode(&text) {
                prop_assert_eq!(Base64Body::encode(&bytes), text);
            }
        }
    }

    #[test]
    fn padding_is_required() {
        assert_eq!(Base64Body::decode("YQ"), Err(BodyError));
        assert_eq!(Base64Body::decode("YQ=="), Ok(b"a".to_vec()));
    }
}
