use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Bytes that travel as standard, padded base64 (RFC 4648 section 4) in a JSON string; `""` when empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Body(pub Vec<u8>);

/// The string is not standard, padded base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyError;

impl Base64Body {
    /// The text that goes on the wire.
    #[must_use]
    pub fn encode(bytes: &[u8]) -> String {
        base64_simd::STANDARD.encode_to_string(bytes)
    }

    /// The bytes that `text` stands for.
    ///
    /// # Errors
    /// When `text` has a character outside the alphabet, or its padding is missing or wrong.
    pub fn decode(text: &str) -> Result<Vec<u8>, BodyError> {
        base64_simd::STANDARD.decode_to_vec(text).map_err(|_| BodyError)
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
