//! The golden messages that every SDK has to agree with, compiled in.

use serde_json::Value;

/// A file of `plugin-protocol/vectors`, by its name without the extension.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vector {
    pub(super) name: &'static str,
    text: &'static str,
}

impl Vector {
    /// # Errors
    /// Never for a file that the tests have seen.
    pub(super) fn read(&self) -> Result<Value, String> {
        serde_json::from_str(self.text).map_err(|error| format!("{}: {error}", self.name))
    }
}

macro_rules! vectors {
    ($folder:literal: $($name:literal)*) => {
        &[$(Vector {
            name: $name,
            text: include_str!(concat!("../../../../plugin-protocol/vectors/", $folder, "/", $name, ".json")),
        }),*]
    };
}

pub(super) const REQUESTS: &[Vector] = vectors!["requests":
    "chunked" "colon-name" "foreign-authorization" "form" "json" "param" "percent-encoded-path" "plain-get" "subtree"];
pub(super) const UNICODE: &[Vector] = vectors!["requests": "unicode"];
pub(super) const LATIN1: &[Vector] = vectors!["requests": "latin1-header"];
pub(super) const REPEATED: &[Vector] = vectors!["requests": "repeated-headers"];
pub(super) const BYTES: &[Vector] = vectors!["requests": "binary-body" "empty-body"];
pub(super) const IDENTITIES: &[Vector] = vectors!["requests":
    "client-key" "master-key" "master-key-user" "no-identity" "spoofed-identity" "user" "user-bearer"];

pub(super) const TEXTS: &[Vector] = vectors!["replies": "text-empty" "text-plain" "text-unicode"];
/// Without those that some languages cannot write: numbers that no double holds, and a text that is no `text`.
pub(super) const JSONS: &[Vector] =
    vectors!["replies": "json-bool" "json-int" "json-list" "json-null" "json-object" "json-unicode"];
pub(super) const RESPONSES: &[Vector] = vectors!["replies":
    "response-599" "response-binary" "response-created" "response-least" "response-no-content" "response-not-found"
    "response-redirect"];
pub(super) const COOKIES: &[Vector] = vectors!["replies": "response-repeated-headers"];
pub(super) const RESPONSE_LATIN1: &[Vector] = vectors!["replies": "response-latin1-header"];

/// A list of error replies.
pub(super) const ERRORS: Vector =
    Vector { name: "errors", text: include_str!("../../../../plugin-protocol/vectors/errors.json") };

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn files(folder: &str) -> BTreeSet<String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-protocol/vectors").join(folder);
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    fn names(groups: &[&[Vector]]) -> BTreeSet<String> {
        groups.iter().flat_map(|group| group.iter()).map(|vector| vector.name.to_owned()).collect()
    }

    #[test]
    fn every_vector_is_used_but_those_that_no_worker_has_to_write() {
        assert_eq!(names(&[REQUESTS, UNICODE, LATIN1, REPEATED, BYTES, IDENTITIES]), files("requests"));
        let used = names(&[TEXTS, JSONS, RESPONSES, COOKIES, RESPONSE_LATIN1]);
        let unused: Vec<_> = files("replies").difference(&used).cloned().collect();
        assert_eq!(unused, ["json-big-numbers", "json-string", "response-framing-headers", "unknown-fields"]);
    }
}
