//! The API keys that are known, as hashes.

use gearway_protocol::AccessKeyType;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::AuthSetupError;
use crate::config::Secret;

/// Keys are hashed first, so that comparing them takes the same time whatever their length.
pub(super) struct AccessKeys {
    client: Vec<[u8; 32]>,
    master: Vec<[u8; 32]>,
}

/// A key that was presented and is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KnownKey {
    pub(super) kind: AccessKeyType,
    /// Tells keys apart without being one.
    pub(super) fingerprint: u64,
}

impl AccessKeys {
    pub(super) fn new(client: &[Secret], master: &[Secret]) -> Result<Self, AuthSetupError> {
        let hashes = |keys: &[Secret]| -> Vec<[u8; 32]> {
            keys.iter().map(|key| Sha256::digest(key.expose()).into()).collect()
        };
        let keys = Self { client: hashes(client), master: hashes(master) };
        if keys.client.iter().any(|key| keys.master.contains(key)) {
            return Err(AuthSetupError::KeyOfTwoKinds);
        }
        Ok(keys)
    }

    /// Every known key is compared, so that the time tells nothing about which one came close.
    pub(super) fn find(&self, key: &[u8]) -> Option<KnownKey> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let is_client = any_equal(&self.client, &hash);
        let is_master = any_equal(&self.master, &hash);
        let kind = if bool::from(is_master) {
            AccessKeyType::Master
        } else if bool::from(is_client) {
            AccessKeyType::Client
        } else {
            return None;
        };
        let [a, b, c, d, e, f, g, h, ..] = hash;
        Some(KnownKey { kind, fingerprint: u64::from_be_bytes([a, b, c, d, e, f, g, h]) })
    }
}

/// Compared word by word, for there are four words and thirty-two bytes.
fn any_equal(known: &[[u8; 32]], hash: &[u8; 32]) -> Choice {
    let hash = words(hash);
    known.iter().fold(Choice::from(0), |found, key| {
        let pairs = words(key).into_iter().zip(hash);
        found | u64::ct_eq(&pairs.fold(0, |differ, (a, b)| differ | (a ^ b)), &0)
    })
}

fn words(hash: &[u8; 32]) -> [u64; 4] {
    let (words, _) = hash.as_chunks();
    [0, 1, 2, 3].map(|place| u64::from_ne_bytes(words[place]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(keys: &[&str]) -> Vec<Secret> {
        keys.iter().map(|key| Secret::new(key)).collect()
    }

    #[test]
    fn a_key_is_known_by_all_of_its_bytes() {
        let keys = AccessKeys::new(&secrets(&["c1", "c2"]), &secrets(&["m1", "m2"])).unwrap();
        for (key, kind) in [
            ("c1", Some(AccessKeyType::Client)),
            ("c2", Some(AccessKeyType::Client)),
            ("m1", Some(AccessKeyType::Master)),
            ("m2", Some(AccessKeyType::Master)),
            ("", None),
            ("c", None),
            ("c11", None),
            ("C1", None),
            ("c1\0", None),
        ] {
            assert_eq!(keys.find(key.as_bytes()).map(|known| known.kind), kind, "{key:?}");
        }
    }

    #[test]
    fn a_key_cannot_be_of_both_kinds() {
        let shared = AccessKeys::new(&secrets(&["a", "same"]), &secrets(&["same"]));
        assert!(matches!(shared, Err(AuthSetupError::KeyOfTwoKinds)));
    }
}
