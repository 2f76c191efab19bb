//! A chunked body, counted byte by byte outside its data. RFC 9112 section 7.1.
//!
//! Stricter than parsers in use: what passes here, they decode to the same bytes.

use super::head::{MAX_FIELDS, is_control, is_token};

/// A size of sixteen hexadecimal digits fits a `u64`; longer ones overflow some parser or other.
const MAX_SIZE_DIGITS: u8 = 16;

/// Bytes of chunk extensions in one body. Nobody is known to send any, and each is thrown away.
const MAX_EXTENSION_BYTES: u16 = 4096;

/// Bytes of trailer fields in one body.
const MAX_TRAILER_BYTES: u16 = 8192;

/// Fields that say where a message ends, whom it is for or what becomes of the connection. RFC 9110 section 6.5.1
/// forbids them in trailers; llhttp and whoever merges trailers into the head would obey them.
const FORBIDDEN_TRAILERS: [&[u8]; 9] = [
    b"connection",
    b"content-length",
    b"host",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];

/// As many bytes of a trailer's name as tell whether it is forbidden.
const NAME_PREFIX: usize = "transfer-encoding".len();

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChunkStep {
    NeedMore,
    Done,
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct ChunkScan {
    at: At,
    size: u64,
    extension_bytes: u16,
    trailer_bytes: u16,
    trailers: u8,
    name: [u8; NAME_PREFIX],
    name_len: u16,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// In the size, after so many digits.
    Size(u8),
    /// In an extension's name; whether it has begun.
    ExtensionName(bool),
    /// In an extension's value; whether it has begun.
    ExtensionValue(bool),
    ExtensionQuoted,
    ExtensionEscaped,
    ExtensionQuotedEnd,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer field or the last CRLF begins.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

impl ChunkScan {
    pub(crate) fn new() -> Self {
        Self {
            at: At::Size(0),
            size: 0,
            extension_bytes: 0,
            trailer_bytes: 0,
            trailers: 0,
            name: [0; NAME_PREFIX],
            name_len: 0,
        }
    }

    /// Reads on, and hands over the data, piece by piece. The count says how many of `bytes` belong to the body and are good; with
    /// `Refused` the byte after them is the bad one.
    pub(crate) fn decode(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> (usize, ChunkStep) {
        let mut used = 0;
        while used < bytes.len() {
            if let At::Data = self.at {
                let available = (bytes.len() - used) as u64;
                let taken = self.size.min(available);
                self.size -= taken;
                data(&bytes[used..used + taken as usize]);
                used += taken as usize;
                if self.size == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let done = matches!((self.at, bytes[used]), (At::EndLf, b'\n'));
            if done {
                return (used + 1, ChunkStep::Done);
            }
            match self.after(bytes[used]) {
                Some(next) => self.at = next,
                None => return (used, ChunkStep::Refused),
            }
            used += 1;
        }
        (used, ChunkStep::NeedMore)
    }

    /// The place after one byte of framing, or nothing if the byte may not stand here.
    fn after(&mut self, byte: u8) -> Option<At> {
        match (self.at, byte) {
            (At::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16)?;
                self.size = (self.size << 4) | u64::from(digit);
                (digits < MAX_SIZE_DIGITS).then_some(At::Size(digits + 1))
            }
            (
                At::Size(1..) | At::ExtensionName(true) | At::ExtensionValue(true) | At::ExtensionQuotedEnd,
                b'\r',
            ) => Some(At::SizeLf),
            (
                At::Size(1..) | At::ExtensionName(true) | At::ExtensionValue(true) | At::ExtensionQuotedEnd,
                b';',
            ) => self.extension(At::ExtensionName(false)),
            (At::Size(_) | At::ExtensionQuotedEnd, _) => None,

            (At::ExtensionName(true), b'=') => self.extension(At::ExtensionValue(false)),
            (At::ExtensionName(_), _) if is_token(byte) => self.extension(At::ExtensionName(true)),
            (At::ExtensionName(_), _) => None,
            (At::ExtensionValue(false), b'"') => self.extension(At::ExtensionQuoted),
            (At::ExtensionValue(_), _) if is_token(byte) => self.extension(At::ExtensionValue(true)),
            (At::ExtensionValue(_), _) => None,
            (At::ExtensionQuoted, b'"') => self.extension(At::ExtensionQuotedEnd),
            (At::ExtensionQuoted, b'\\') => self.extension(At::ExtensionEscaped),
            (At::ExtensionQuoted | At::ExtensionEscaped, _) if is_control(byte) => None,
            (At::ExtensionQuoted | At::ExtensionEscaped, _) => self.extension(At::ExtensionQuoted),

            (At::SizeLf, b'\n') if self.size == 0 => Some(At::TrailerStart),
            (At::SizeLf, b'\n') => Some(At::Data),
            (At::DataCr, b'\r') => Some(At::DataLf),
            (At::DataLf, b'\n') => Some(At::Size(0)),
            (At::SizeLf | At::Data | At::DataCr | At::DataLf | At::EndLf, _) => None,

            (At::TrailerStart, b'\r') => Some(At::EndLf),
            (At::TrailerStart, _) if is_token(byte) && self.trailers < MAX_FIELDS => {
                self.trailers += 1;
                self.name_len = 0;
                self.trailer_name(byte)
            }
            (At::TrailerStart, _) => None,
            (At::TrailerName, b':') => {
                // A name that is longer than what is kept of it is none of the forbidden.
                let name = self.name.get(..usize::from(self.name_len)).unwrap_or_default();
                let forbidden = FORBIDDEN_TRAILERS.iter().any(|other| other.eq_ignore_ascii_case(name));
                if forbidden { None } else { self.trailer(At::TrailerValue) }
            }
            (At::TrailerName, _) if is_token(byte) => self.trailer_name(byte),
            (At::TrailerName, _) => None,
            (At::TrailerValue, b'\r') => self.trailer(At::TrailerLf),
            (At::TrailerValue, _) if is_control(byte) => None,
            (At::TrailerValue, _) => self.trailer(At::TrailerValue),
            (At::TrailerLf, b'\n') => self.trailer(At::TrailerStart),
            (At::TrailerLf, _) => None,
        }
    }

    fn extension(&mut self, next: At) -> Option<At> {
        self.extension_bytes += 1;
        (self.extension_bytes <= MAX_EXTENSION_BYTES).then_some(next)
    }

    fn trailer(&mut self, next: At) -> Option<At> {
        self.trailer_bytes += 1;
        (self.trailer_bytes <= MAX_TRAILER_BYTES).then_some(next)
    }

    fn trailer_name(&mut self, byte: u8) -> Option<At> {
        if let Some(slot) = self.name.get_mut(usize::from(self.name_len)) {
            *slot = byte;
        }
        self.name_len += 1;
        self.trailer(At::TrailerName)
    }
}
