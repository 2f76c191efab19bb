//! A request as the log keeps it: its parts, never an envelope.

use std::fmt;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use gearway_protocol::{AccessKeyType, Verification};
use http::header::HeaderMap;
use http::{HeaderName, HeaderValue, Method};

/// Names a delivery. Ids grow in the order in which deliveries were accepted, and so do their texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub(super) i64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Id {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        i64::from_str_radix(text, 16).map(Self)
    }
}

/// The pattern and method that a request matched when it came. A label: where it goes is decided anew for each attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteName {
    pub path: Arc<str>,
    pub method: Method,
}

impl RouteName {
    /// Whether requests for different paths match it.
    pub(super) fn has_many_paths(&self) -> bool {
        self.path.ends_with('/') || self.path.contains('{')
    }
}

/// A request that was accepted, free of the connection that it came over.
#[derive(Debug)]
pub struct Delivery {
    pub route: RouteName,
    /// Milliseconds since 1970.
    pub received_at: i64,
    pub request_id: String,
    pub traceparent: String,
    pub host: String,
    pub raw_path: String,
    /// Without credentials.
    pub query: String,
    pub headers: HeaderBlock,
    pub body: Bytes,
    pub remote_addr: IpAddr,
    pub user_id: Option<String>,
    pub access_key: Option<AccessKeyType>,
    pub verification: Option<Verification>,
    pub dedup: Option<DedupKey>,
    pub replay_of: Option<Id>,
}

/// What the same event is known by, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupKey {
    /// A hash of the route and the event's id, so that a sender's choice of ids takes no room.
    pub hash: [u8; 16],
    /// Milliseconds since 1970.
    pub until: i64,
}

/// Headers as lines of `name: value`, which neither names nor values can break out of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderBlock(pub(super) Vec<u8>);

impl HeaderBlock {
    /// The headers of `map` that `keep` wants, in order.
    #[must_use]
    pub fn of(map: &HeaderMap, keep: impl Fn(&HeaderName) -> bool) -> Self {
        let mut block = Vec::with_capacity(512);
        for (name, value) in map.iter().filter(|(name, _)| keep(name)) {
            block.extend_from_slice(name.as_str().as_bytes());
            block.extend_from_slice(b": ");
            block.extend_from_slice(value.as_bytes());
            block.push(b'\n');
        }
        Self(block)
    }

    /// What cannot be read, of a block that somebody else wrote, is left out.
    #[must_use]
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for line in self.0.split(|byte| *byte == b'\n') {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let value = line.get(colon + 2..).unwrap_or_default();
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value))
            {
                map.append(name, value);
            }
        }
        map
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

/// As the database counts time.
#[must_use]
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// RFC 3339, in UTC, with milliseconds.
#[must_use]
pub fn rfc3339(ms: i64) -> String {
    // Other years than these the format cannot express.
    let since = u64::try_from(ms.clamp(0, 253_402_300_799_999)).unwrap_or(0);
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(since)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_and_sort_as_they_grow() {
        let (one, two) = (Id(0x19a_0000_0000_1234), Id(0x19a_0000_0000_1235));
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(one.to_string() < two.to_string());
        assert!("".parse::<Id>().is_err() && "x".parse::<Id>().is_err());
    }

    #[test]
    fn headers_read_back_byte_for_byte() {
        let mut map = HeaderMap::new();
        for (name, value) in
            [("x-a", b"1".as_slice()), ("x-b", b""), ("x-a", b" 2: 3"), ("x-c", b"caf\xe9"), ("no", b"no")]
        {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        }
        let read = HeaderBlock::of(&map, |name| name != "no").to_map();
        map.remove("no");
        assert_eq!(read, map);
        assert!(HeaderBlock(b"nonsense\n: \nx y: 1\nx\n".to_vec()).to_map().is_empty());
    }
}
