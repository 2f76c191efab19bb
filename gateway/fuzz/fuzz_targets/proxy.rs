//! PROXY protocol headers, against a reading by offsets. The input is a header and what follows it on the connection.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use futures_util::FutureExt;
use gearway::proxy_protocol::{Malformed, read, source};
use libfuzzer_sys::fuzz_target;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|data: &[u8]| {
    let end = match data.get(14..16) {
        Some(length) => 16 + usize::from(u16::from_be_bytes([length[0], length[1]])),
        None => usize::MAX,
    };
    let mut stream = data;
    let streamed = read(&mut stream).now_or_never().expect("everything has come");
    match data.get(..end) {
        Some(header) => {
            let found = source(header);
            assert_eq!(found.ok(), naive(header), "{found:?}: {}", header.escape_ascii());
            assert_eq!(found.ok(), streamed.ok());
            // Not a byte more is read than belongs to it.
            assert!(found.is_err() || stream == &data[end..]);
            // Nor is a header whole without its last byte, or with one more.
            assert!(source(&header[..header.len() - 1]).is_err());
            assert!(source(&[header, b"x"].concat()).is_err());
        }
        None => {
            assert!(streamed.is_err());
            assert!(matches!(
                source(data),
                Err(Malformed::Signature | Malformed::TooLong | Malformed::TooShort)
            ));
        }
    }
});

/// Whom a header of the announced length speaks for.
fn naive(header: &[u8]) -> Option<Option<SocketAddr>> {
    if header[..12] != SIGNATURE[..] || header.len() > 16 + 4096 {
        return None;
    }
    let (size, stands) = match header[13] {
        0x00 => (header.len() - 16, false),
        0x11 | 0x12 => (12, true),
        0x21 | 0x22 => (36, true),
        0x31 | 0x32 => (216, false),
        _ => return None,
    };
    let addresses = header[16..].get(..size)?;
    match header[12] {
        0x20 => return Some(None),
        0x21 => {}
        _ => return None,
    }
    let mut rest = 16 + size;
    while header.len() - rest >= 3 {
        let length = usize::from(u16::from_be_bytes([header[rest + 1], header[rest + 2]]));
        let value = header.get(rest + 3..rest + 3 + length)?;
        if header[rest] == 3 {
            let mut blank = header.to_vec();
            blank.get_mut(rest + 3..rest + 7)?.fill(0);
            if length != 4 || value != crc32c(&blank).to_be_bytes() {
                return None;
            }
        }
        rest += 3 + length;
    }
    if rest != header.len() {
        return None;
    }
    let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    Some(stands.then(|| match size {
        12 => {
            let octets: [u8; 4] = addresses[..4].try_into().expect("four bytes");
            (Ipv4Addr::from(octets), port(8)).into()
        }
        _ => {
            let octets: [u8; 16] = addresses[..16].try_into().expect("sixteen bytes");
            (Ipv6Addr::from(octets), port(32)).into()
        }
    }))
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
