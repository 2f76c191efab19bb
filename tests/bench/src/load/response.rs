//! Reading a response as it comes, without keeping it: its status, and how long its body is.

use std::io;

/// What a response has to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    pub(crate) status: u16,
    pub(crate) length: usize,
}

#[derive(Debug, Default)]
pub(super) struct Response {
    /// Of a head that did not come in one piece.
    head: Vec<u8>,
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Counted { left: usize },
    Chunked { seen: usize, at: Chunk },
}

/// Where in a chunked body the next byte is.
#[derive(Debug)]
enum Chunk {
    Size(Vec<u8>),
    Data {
        left: usize,
    },
    /// The line's end after the data.
    End,
    /// After the last chunk; whether the line so far is empty.
    Trailer {
        empty: bool,
    },
}

impl Response {
    /// Takes bytes as they come. Whether the response is complete, and as expected.
    pub(super) fn take(&mut self, bytes: &[u8], expected: Expected) -> io::Result<bool> {
        if let Some(body) = &mut self.body {
            return body.take(bytes, expected);
        }
        if self.head.is_empty() {
            if let Some((mut body, length)) = read_head(bytes, expected)? {
                let done = body.take(&bytes[length..], expected);
                self.body = Some(body);
                return done;
            }
            self.head.extend_from_slice(bytes);
            return Ok(false);
        }
        let had = self.head.len();
        self.head.extend_from_slice(bytes);
        let Some((mut body, length)) = read_head(&self.head, expected)? else { return Ok(false) };
        let done = body.take(&bytes[length - had..], expected);
        self.body = Some(body);
        done
    }
}

impl Body {
    fn take(&mut self, bytes: &[u8], expected: Expected) -> io::Result<bool> {
        match self {
            Self::Counted { left } => {
                *left = left.checked_sub(bytes.len()).ok_or_else(|| wrong("more than one response"))?;
                Ok(*left == 0)
            }
            Self::Chunked { seen, at } => take_chunks(bytes, seen, at, expected),
        }
    }
}

fn take_chunks(mut bytes: &[u8], seen: &mut usize, at: &mut Chunk, expected: Expected) -> io::Result<bool> {
    while let [first, rest @ ..] = bytes {
        match at {
            Chunk::Size(digits) if *first == b'\n' => {
                let text = std::str::from_utf8(digits).unwrap_or_default();
                let size = text.trim_end().split(';').next().unwrap_or_default();
                let size =
                    usize::from_str_radix(size, 16).map_err(|_| wrong(format!("a chunk of {text:?}")))?;
                *at = if size == 0 { Chunk::Trailer { empty: true } } else { Chunk::Data { left: size } };
            }
            Chunk::Size(digits) => digits.push(*first),
            Chunk::Data { left } => {
                let here = (*left).min(bytes.len());
                *seen += here;
                *left -= here;
                bytes = &bytes[here..];
                if *left == 0 {
                    *at = Chunk::End;
                }
                continue;
            }
            Chunk::End if *first == b'\n' => *at = Chunk::Size(Vec::new()),
            Chunk::End => {}
            Chunk::Trailer { empty: true } if *first == b'\n' => {
                if !rest.is_empty() {
                    return Err(wrong("more than one response"));
                }
                return if *seen == expected.length {
                    Ok(true)
                } else {
                    Err(wrong(format!("a body of {seen} bytes instead of {}", expected.length)))
                };
            }
            Chunk::Trailer { empty } => *empty = *first == b'\n' || (*empty && *first == b'\r'),
        }
        bytes = rest;
    }
    Ok(false)
}

/// The body that follows, and how long the head is.
fn read_head(bytes: &[u8], expected: Expected) -> io::Result<Option<(Body, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(bytes).map_err(|error| wrong(error.to_string()))?;
    let httparse::Status::Complete(length) = status else { return Ok(None) };
    if response.code != Some(expected.status) {
        let text = String::from_utf8_lossy(bytes);
        return Err(wrong(format!("another status than {}: {text}", expected.status)));
    }
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    if value("transfer-encoding").is_some() {
        return Ok(Some((Body::Chunked { seen: 0, at: Chunk::Size(Vec::new()) }, length)));
    }
    let body = value("content-length").and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
    match body {
        Some(left) if left == expected.length => Ok(Some((Body::Counted { left }, length))),
        other => Err(wrong(format!("a body of {other:?} bytes instead of {}", expected.length))),
    }
}

fn wrong(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the proxy answered {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(text: &str, piece: usize, length: usize) -> io::Result<bool> {
        let mut response = Response::default();
        let expected = Expected { status: 200, length };
        let mut done = false;
        for bytes in text.as_bytes().chunks(piece) {
            assert!(!done, "complete before its end");
            done = response.take(bytes, expected)?;
        }
        Ok(done)
    }

    #[test]
    fn responses_are_complete_at_their_end_whatever_the_pieces() {
        let counted = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n";
        for text in [counted, chunked] {
            for piece in 1..=text.len() {
                assert!(in_pieces(text, piece, 5).unwrap(), "{text:?} in pieces of {piece}");
            }
            assert!(!in_pieces(&text[..text.len() - 1], 7, 5).unwrap());
            assert!(in_pieces(text, text.len(), 6).is_err());
        }
    }

    #[test]
    fn another_status_or_more_than_was_asked_for_is_an_error() {
        assert!(in_pieces("HTTP/1.1 503 Busy\r\ncontent-length: 5\r\n\r\nhello", 99, 5).is_err());
        assert!(in_pieces("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!", 99, 5).is_err());
    }
}
