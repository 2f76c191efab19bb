//! HTTP/1 as a server: one connection's requests, one after the other. RFC 9112; contract section 7.
//!
//! Every head is read once, and passed on only if it has exactly one reading. Refused beyond RFC 9112's grammar, because parsers in
//! use differ about it: Transfer-Encoding next to Content-Length, a repeated Content-Length even when equal, any Transfer-Encoding
//! but one `chunked`, bare LF or CR, continuation lines, empty lines before a request line, `#` in a target, a body after CONNECT or
//! anything else after it. A missing or repeated Host is the service's to answer. What is refused gets a bare 400 or 431, and the
//! connection closes.
//!
//! A chunked body that breaks its framing after its head was passed on is an [`InvalidData`](io::ErrorKind) error of
//! [`RequestBody`], so the service answers it, and the connection closes behind that answer.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::activity::{Activity, InProgress};
pub(crate) use self::chunked::{ChunkScan, ChunkStep};
pub use self::head::MAX_FIELDS;
pub use self::pace::Pace;
use self::reply::{Closing, Unwritten};
use self::wire::{Next, Wire};
use crate::pieces::Pieces;

mod activity;
mod chunked;
mod head;
mod pace;
mod reply;
mod request;
mod wire;

/// What a connection's client may do.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// The longest head in bytes, its closing empty line included.
    pub max_header: usize,
    /// How long a head may take from its first byte to its last, and a new connection until its first head is whole.
    /// Then the connection is closed without an answer, as nginx does.
    pub header_timeout: Duration,
    /// How long a connection may be silent between requests, and how long its client may take no byte of a
    /// response. Then it is closed without an answer.
    pub idle_timeout: Duration,
}

/// The body of a request, which comes over its connection while it is read.
pub struct RequestBody {
    /// [`None`] if there is nothing to read.
    source: Option<Arc<dyn Source + Send + Sync>>,
    length: Option<u64>,
}

/// What bodies are read from.
trait Source {
    fn poll_read(&self, cx: &mut Context<'_>, into: &mut BytesMut, at_most: usize)
    -> Poll<io::Result<usize>>;

    fn take_whole(&self) -> Option<Bytes>;
}

impl RequestBody {
    /// Whether the head announces no byte of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.source.is_none()
    }

    /// Its length by Content-Length; [`None`] of a chunked one.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The whole of it, if that is here without waiting and without copying. Nothing is left to read then.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        let whole = self.source.as_ref()?.take_whole()?;
        self.source = None;
        Some(whole)
    }

    /// Reads what comes next behind what is in `into`, at most so many bytes; 0 at the end of the body. Waiting has no time limit
    /// here: that is the reader's to bound.
    ///
    /// # Errors
    /// [`InvalidData`](io::ErrorKind::InvalidData) for a chunked body without a reading,
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the connection ends within the body, and the connection's own.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        at_most: usize,
    ) -> Poll<io::Result<usize>> {
        let Some(source) = &self.source else { return Poll::Ready(Ok(0)) };
        let read = ready!(source.poll_read(cx, into, at_most));
        if let Ok(0) = read {
            self.source = None;
        }
        Poll::Ready(read)
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("length", &self.length).finish_non_exhaustive()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Source for Mutex<Wire<IO>> {
    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        at_most: usize,
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_body(cx, into, at_most)
    }

    fn take_whole(&self) -> Option<Bytes> {
        self.lock().take_whole_body()
    }
}

/// Serves a connection to its end; `B` is what the service takes bodies as. Reading has no time limit while `activity` counts a
/// request in progress. What a client does not take of a response at once is held with what `untaken` returns for its length. Must be
/// polled within a tokio runtime that has its timer enabled.
///
/// A service's future is dropped when its client goes away before it is ready. A body that outlives its response is the connection's last.
///
/// # Errors
/// When the connection breaks, or its client takes too little of a response for too long.
pub async fn serve<IO, S, B, F, A, U>(
    io: IO,
    limits: ConnectionLimits,
    activity: Activity,
    service: S,
    untaken: A,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<B>) -> F,
    B: From<RequestBody>,
    F: Future<Output = Response<Pieces>>,
    A: Fn(u64) -> U,
{
    let wire = Arc::new(Mutex::new(Wire::new(io, limits, activity)));
    loop {
        let mut parts = None;
        let next = poll_fn(|cx| wire.lock().poll_next(cx, &mut parts)).await?;
        let (length, has_body, closes) = match next {
            Next::Request { length, has_body, closes } => (length, has_body, closes),
            Next::Refused(status) => {
                refuse(&wire, status).await?;
                break;
            }
            Next::Gone => break,
        };
        let Some(parts) = parts else { break };
        let mut closing = Closing { closes, to_head: parts.method == Method::HEAD };
        let source = has_body.then(|| Arc::clone(&wire) as Arc<dyn Source + Send + Sync>);
        // In a box for as long as it takes, so that idle connections do not keep room for a request; and made there, for it is
        // kilobytes long.
        let answering = Box::new_uninit();
        let request = Request::from_parts(parts, RequestBody { source, length }.into());
        let mut answering = Box::into_pin(Box::write(answering, service(request)));
        let mut response = None;
        poll_fn(|cx| {
            if let Poll::Ready(ready) = answering.as_mut().poll(cx) {
                response = Some(ready);
                return Poll::Ready(());
            }
            wire.lock().poll_gone(cx)
        })
        .await;
        drop(answering);
        // Whoever still holds the body could read the next request's.
        closing.closes |= Arc::strong_count(&wire) > 1;
        if response.is_none() {
            return Ok(());
        }
        if send(&wire, &mut response, closing, &untaken).await? {
            break;
        }
    }
    poll_fn(|cx| wire.lock().poll_close(cx)).await
}

async fn refuse<IO>(wire: &Mutex<Wire<IO>>, status: StatusCode) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut response = Response::new(Pieces::default());
    *response.status_mut() = status;
    let closing = Closing { closes: true, to_head: false };
    send(wire, &mut Some(response), closing, &|_| ()).await?;
    Ok(())
}

/// Sends a response, and takes it away; whether the connection closes behind it.
async fn send<IO, A, U>(
    wire: &Mutex<Wire<IO>>,
    response: &mut Option<Response<Pieces>>,
    closing: Closing,
    untaken: &A,
) -> io::Result<bool>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    A: Fn(u64) -> U,
{
    let mut unwritten: VecDeque<Unwritten<U>> = VecDeque::new();
    let mut closes = false;
    poll_fn(|cx| {
        let wire = &mut *wire.lock();
        if let Some(response) = response.take() {
            // Behind a body that has not come whole, no other request is answered.
            let closing = Closing { closes: closing.closes | !wire.drop_body(cx), ..closing };
            closes = ready!(reply::poll_begin(cx, wire, response, closing, untaken, &mut unwritten))?;
        }
        wire.poll_write_all(cx, &mut unwritten)
    })
    .await?;
    Ok(closes)
}

#[cfg(test)]
mod tests;
