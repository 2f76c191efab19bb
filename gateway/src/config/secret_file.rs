//! The files that `x_file` keys name.

use std::fs::File;
use std::io::{self, Read};

use super::given::quote;

/// More than any list of secrets needs; keeps a wrong path, as that of a device, from filling the memory.
const MOST_BYTES: u64 = 64 << 10;

/// The file's secrets, one a line; blank lines do not count. The error is a sentence that names the path.
pub(super) fn read(path: &str) -> Result<Vec<String>, String> {
    let content = content(path).map_err(|error| format!("{} cannot be read: {error}", quote(path)))?;
    if content.len() as u64 > MOST_BYTES {
        return Err(format!("{} is too large to be a file of secrets", quote(path)));
    }
    let text = String::from_utf8(content).map_err(|_| format!("{} is not UTF-8", quote(path)))?;
    let secrets: Vec<String> =
        text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if secrets.is_empty() {
        return Err(format!("{} holds no secret", quote(path)));
    }
    Ok(secrets)
}

/// One byte past the limit at most, to tell a file that is too large.
fn content(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut content)?;
    Ok(content)
}
