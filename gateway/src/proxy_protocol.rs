//! The PROXY protocol, version 2: the first bytes of a connection, in which a proxy says whom it speaks for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and the length of the rest.
const FIXED: usize = 16;
/// Addresses and the fields behind them. Those in use take a few hundred bytes.
const MAX_REST: usize = 4096;
/// The field that holds a checksum of the whole header.
const CRC32C: u8 = 0x03;

/// Why a connection's first bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("no PROXY protocol header of version 2")]
    Signature,
    #[error("an unknown PROXY protocol command")]
    Command,
    #[error("an unknown PROXY protocol address family")]
    Family,
    #[error("a PROXY protocol header that is too long")]
    TooLong,
    #[error("a PROXY protocol header that is too short for what it announces")]
    TooShort,
    #[error("a PROXY protocol header whose checksum is wrong")]
    Checksum,
}

/// Reads a header and not a byte more. [`None`] when the proxy speaks for itself, or for a peer without an address.
///
/// # Errors
/// When the connection does not begin with a header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let invalid = |malformed| io::Error::new(io::ErrorKind::InvalidData, malformed);
    let mut header = vec![0; FIXED];
    stream.read_exact(&mut header).await?;
    let rest = rest(&header).map_err(invalid)?;
    header.resize(FIXED + rest, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    source(&header).map_err(invalid)
}

/// How many bytes follow the fixed ones.
fn rest(fixed: &[u8]) -> Result<usize, Malformed> {
    if !fixed.starts_with(SIGNATURE) {
        return Err(Malformed::Signature);
    }
    let rest = match fixed.get(14..FIXED) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        Some(_) | None => return Err(Malformed::TooShort),
    };
    if rest > MAX_REST { Err(Malformed::TooLong) } else { Ok(rest) }
}

/// Whom a whole header says that the proxy speaks for.
///
/// # Errors
/// When the bytes are not exactly one header.
pub fn source(header: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    if header.len() != FIXED + rest(header)? {
        return Err(Malformed::TooShort);
    }
    let addresses = &header[FIXED..];
    let ends = |size: usize| addresses.get(..size).ok_or(Malformed::TooShort);
    let (source, fields) = match header[13] {
        // Unspecified: there is no address, and whatever follows the fixed bytes is skipped.
        0x00 => (None, None),
        0x11 | 0x12 => {
            let ends = ends(12)?;
            let address: [u8; 4] = ends[..4].try_into().map_err(|_| Malformed::TooShort)?;
            let port = u16::from_be_bytes([ends[8], ends[9]]);
            (Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), port)), addresses.get(12..))
        }
        0x21 | 0x22 => {
            let ends = ends(36)?;
            let address: [u8; 16] = ends[..16].try_into().map_err(|_| Malformed::TooShort)?;
            let port = u16::from_be_bytes([ends[32], ends[33]]);
            (Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)), port)), addresses.get(36..))
        }
        0x31 | 0x32 => {
            ends(216)?;
            (None, addresses.get(216..))
        }
        _ => return Err(Malformed::Family),
    };
    let speaks_for = match header[12] {
        // A health check of the proxy's own: what else it says does not count.
        0x20 => return Ok(None),
        0x21 => source,
        _ => return Err(Malformed::Command),
    };
    check_fields(header, fields.unwrap_or_default())?;
    Ok(speaks_for)
}

/// Goes through the fields behind the addresses. Only the checksum counts.
fn check_fields(header: &[u8], mut fields: &[u8]) -> Result<(), Malformed> {
    while let [kind, high, low, rest @ ..] = fields {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = rest.split_at_checked(length).ok_or(Malformed::TooShort)?;
        if *kind == CRC32C {
            let at = header.len() - rest.len();
            let sent: [u8; 4] = value.try_into().map_err(|_| Malformed::Checksum)?;
            if crc32c(header, at..at + 4) != u32::from_be_bytes(sent) {
                return Err(Malformed::Checksum);
            }
        }
        fields = next;
    }
    if fields.is_empty() { Ok(()) } else { Err(Malformed::TooShort) }
}

/// The checksum of the header with zeros in the place of the checksum.
fn crc32c(header: &[u8], place: std::ops::Range<usize>) -> u32 {
    let mut crc = u32::MAX;
    for (at, &byte) in header.iter().enumerate() {
        crc ^= u32::from(if place.contains(&at) { 0 } else { byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[test]
    fn addresses_are_read_and_fields_skipped() {
        let v4 = Ok(Some("203.0.113.9:12345".parse().unwrap()));
        assert_eq!(source(&header(0x21, 0x11, &V4)), v4);
        assert_eq!(source(&header(0x21, 0x11, &[&V4[..], &[0x04, 0, 2, 1, 1]].concat())), v4);
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[33] = 7;
        assert_eq!(source(&header(0x21, 0x21, &v6)), Ok(Some("[2001:db8::1]:7".parse().unwrap())));
        for (command, family, rest) in
            [(0x20, 0x11, &V4[..]), (0x20, 0, &[]), (0x21, 0, &[1, 2]), (0x21, 0x31, &[0; 216])]
        {
            assert_eq!(source(&header(command, family, rest)), Ok(None), "{command} {family}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for (bytes, malformed) in [
            (b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec(), Malformed::Signature),
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 1 2\r\n".to_vec(), Malformed::Signature),
            (header(0x22, 0x11, &V4), Malformed::Command),
            (header(0x11, 0x11, &V4), Malformed::Command),
            (header(0x21, 0x41, &V4), Malformed::Family),
            (header(0x21, 0x11, &V4[..11]), Malformed::TooShort),
            (header(0x21, 0x21, &V4), Malformed::TooShort),
            (header(0x21, 0x11, &[&V4[..], &[4, 0]].concat()), Malformed::TooShort),
            (header(0x21, 0x11, &[&V4[..], &[4, 0, 2, 1]].concat()), Malformed::TooShort),
            (header(0x21, 0x11, &[0; MAX_REST + 1]), Malformed::TooLong),
            (header(0x21, 0x11, &[&V4[..], &[CRC32C, 0, 4, 1, 2, 3, 4]].concat()), Malformed::Checksum),
            (header(0x21, 0x11, &[&V4[..], &[CRC32C, 0, 1, 1]].concat()), Malformed::Checksum),
            (header(0x21, 0x11, &V4)[..20].to_vec(), Malformed::TooShort),
            (Vec::new(), Malformed::Signature),
        ] {
            assert_eq!(source(&bytes), Err(malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_right_checksum_is_accepted() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789", 0..0), 0xe306_9283);
        let mut bytes = header(0x21, 0x11, &[&V4[..], &[CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        let at = bytes.len() - 4;
        let crc = crc32c(&bytes, at..at + 4);
        bytes[at..].copy_from_slice(&crc.to_be_bytes());
        assert!(source(&bytes).is_ok());
        bytes[17] ^= 1;
        assert_eq!(source(&bytes), Err(Malformed::Checksum));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(command in any::<u8>(), family in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let whole = header(command, family, &rest);
            for end in 0..whole.len() {
                prop_assert!(source(&whole[..end]).is_err());
            }
            if source(&whole).is_ok() {
                prop_assert!(matches!(command, 0x20 | 0x21));
            }
        }
    }

    #[tokio::test]
    async fn not_a_byte_more_is_read() {
        let bytes = [header(0x21, 0x11, &V4), b"GET".to_vec()].concat();
        let mut stream = bytes.as_slice();
        assert_eq!(read(&mut stream).await.unwrap(), Some("203.0.113.9:12345".parse().unwrap()));
        assert_eq!(stream, b"GET");
    }
}
