//! A response on its way to the client.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode};
use httpdate::HttpDate;
use tokio::io::{AsyncRead, AsyncWrite};

use super::head::names_close;
use super::wire::Wire;
use crate::clock;
use crate::pieces::Pieces;

/// Up to so many bytes of a head and its body are copied together: that costs less than what the kernel does for a write of several
/// pieces.
const JOINED: usize = 4096;

/// So many pieces are written at once.
pub(super) const WRITTEN_AT_ONCE: usize = 16;

thread_local! {
    /// Heads are written here, and small bodies behind them.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static TODAY: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// What the request says about how its response ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Whether the connection closes whatever the response says.
    pub(super) closes: bool,
    /// Whether the request's method is HEAD.
    pub(super) to_head: bool,
}

/// A piece of a response that the client has not taken yet.
#[derive(Debug)]
pub(super) struct Unwritten<U> {
    pub(super) bytes: Bytes,
    /// Goes with the piece.
    _held: U,
}

/// Writes a response as far as its client takes it at once, and leaves the rest in `unwritten`. Returns whether the connection closes
/// behind it.
pub(super) fn poll_begin<IO, A, U>(
    cx: &mut Context<'_>,
    wire: &mut Wire<IO>,
    response: Response<Pieces>,
    closing: Closing,
    untaken: &A,
    unwritten: &mut VecDeque<Unwritten<U>>,
) -> Poll<io::Result<bool>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    A: Fn(u64) -> U,
{
    let (parts, body) = response.into_parts();
    let closes = closing.closes || asks_to_close(&parts.headers);
    let has_body = !closing.to_head && may_have_body(parts.status);
    OUT.with_borrow_mut(|out| {
        out.clear();
        write_head(out, parts.status, &parts.headers, body.len(), closing.to_head, closes);
        let head = out.len();
        let joined = has_body && head + body.len() <= JOINED;
        if joined {
            body.iter().for_each(|piece| out.extend_from_slice(piece));
        }
        let body = if has_body && !joined { body } else { Pieces::default() };
        let mut slices = [IoSlice::new(&[]); WRITTEN_AT_ONCE];
        let mut used = 0;
        for (slice, piece) in
            slices.iter_mut().zip(std::iter::once(&**out).chain(body.iter().map(|piece| &**piece)))
        {
            *slice = IoSlice::new(piece);
            used += 1;
        }
        let mut written = match wire.poll_write(cx, &slices[..used]) {
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        if written < out.len() + body.len() {
            let mut leave = |bytes: Bytes| {
                let length = bytes.len();
                let rest = bytes.slice(written.min(length)..);
                written = written.saturating_sub(length);
                if !rest.is_empty() {
                    // The memory of a piece goes with its last byte.
                    unwritten.push_back(Unwritten { _held: untaken(length as u64), bytes: rest });
                }
            };
            leave(Bytes::copy_from_slice(out));
            body.into_iter().for_each(leave);
        }
        Poll::Ready(Ok(closes))
    })
}

/// RFC 9112 section 6.3: what has no body whatever its fields say. A response with a 1xx status is no final one, and no service's.
fn may_have_body(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

fn asks_to_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| names_close(value.as_bytes()))
}

/// Writes a head whose body has so many bytes. The length of what answers HEAD is that of the body that GET would get; none is not
/// known to be the answer to GET (RFC 9110 section 9.3.2).
fn write_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
    length: usize,
    to_head: bool,
    closes: bool,
) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        // The reason may be empty (RFC 9112 section 4).
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    for (name, value) in headers {
        // How the message is framed is said below.
        if name != CONTENT_LENGTH && name != TRANSFER_ENCODING && name != CONNECTION {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    if closes {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if may_have_body(status) && !(to_head && length == 0) {
        write_field(out, "content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    if !headers.contains_key(DATE) {
        TODAY.with_borrow_mut(|(second, date)| {
            let now = clock::coarse_time();
            let this_second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            if *second != this_second {
                *second = this_second;
                *date = HttpDate::from(now).to_string();
            }
            write_field(out, "date", date.as_bytes());
        });
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
