//! Codes over a request, compared in constant time.

use gearway_protocol::{HmacAlgorithm, SignatureEncoding};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};

use super::Rejected;

/// Whether one of the signatures is that of `parts` by one of the keys. Signatures are compared as they are written: there is one
/// way to write each, and no other is taken.
pub(super) fn matches<'k>(
    keys: impl IntoIterator<Item = &'k [u8]>,
    algorithm: HmacAlgorithm,
    encoding: SignatureEncoding,
    parts: &[&[u8]],
    signatures: &[&str],
) -> Result<(), Rejected> {
    let mut found = Choice::from(0);
    for key in keys {
        let expected = signature(key, algorithm, encoding, parts);
        found |= written_alike(&expected, signatures);
    }
    if found.into() { Ok(()) } else { Err(Rejected::Mismatch) }
}

/// The signature of `parts`, one after the other, as it is written in a header.
pub(super) fn signature(
    key: &[u8],
    algorithm: HmacAlgorithm,
    encoding: SignatureEncoding,
    parts: &[&[u8]],
) -> String {
    let code = match algorithm {
        HmacAlgorithm::Sha1 => code::<Hmac<Sha1>>(key, parts),
        HmacAlgorithm::Sha256 => code::<Hmac<Sha256>>(key, parts),
        HmacAlgorithm::Sha512 => code::<Hmac<Sha512>>(key, parts),
    };
    match encoding {
        SignatureEncoding::Hex => base16ct::lower::encode_string(&code),
        SignatureEncoding::Base64 => base64_turbo::STANDARD.encode(&code),
    }
}

/// Looks at every one, however early one was found.
pub(super) fn written_alike(expected: &str, signatures: &[&str]) -> Choice {
    signatures
        .iter()
        .fold(Choice::from(0), |found, given| found | expected.as_bytes().ct_eq(given.as_bytes()))
}

fn code<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("an HMAC's key may have any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}
