//! HTTP/1 heads and bodies checked before hyper sees them. Contract section 7.
//!
//! [`FramedIo`] stands between a client's connection and hyper's HTTP/1 server. It withholds a head until the head is
//! whole and has exactly one reading, and follows every body byte by byte to know where the next head begins. What is
//! refused never reaches hyper: in its place hyper reads bytes that it answers with a bare 400 or 431, and then the end
//! of the connection.
//!
//! What is refused beyond RFC 9112's grammar, because parsers in use differ about it: Transfer-Encoding next to
//! Content-Length, a repeated Content-Length even when equal, any Transfer-Encoding but one `chunked`, bare LF or CR,
//! continuation lines, empty lines before a request line, `#` in a target, a body after CONNECT or anything
//! else after it. A missing or repeated Host is the relay's to answer.
//!
//! A chunked body that breaks its framing after its head was passed on is an [`InvalidData`](io::ErrorKind) error of
//! hyper's body, so the service answers it, and the connection closes behind that answer.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

pub use self::activity::{Activity, InProgress};
pub(crate) use self::chunked::{ChunkScan, ChunkStep};
use self::messages::{Messages, Refusal};
pub use self::pace::Pace;
use crate::alarm::Alarm;

mod activity;
mod chunked;
mod head;
mod messages;
mod pace;

/// hyper answers 400 to the first byte, which no method may hold.
const BAD_REQUEST: &[u8] = b"@\r\n\r\n";

/// hyper answers 431 to the 101st field. The last line has no name, so a hyper that was told to take more fields
/// answers 400; no setting makes this a request.
static FIELDS_TOO_LARGE: [u8; FIELDS_TOO_LARGE_LEN] = {
    let mut bytes = [0; FIELDS_TOO_LARGE_LEN];
    let mut at = 0;
    while at < FIELDS_TOO_LARGE_LEN {
        bytes[at] = if at < 16 {
            b"GET / HTTP/1.1\r\n"[at]
        } else if at < FIELDS_TOO_LARGE_LEN - 5 {
            b"a:\r\n"[(at - 16) % 4]
        } else {
            b"@\r\n\r\n"[at + 5 - FIELDS_TOO_LARGE_LEN]
        };
        at += 1;
    }
    bytes
};
const FIELDS_TOO_LARGE_LEN: usize = 16 + 4 * (head::MAX_FIELDS as usize + 1) + 5;

/// Up to so many bytes of a head and its body are copied together: that costs less than what the kernel does for a write of several
/// pieces.
const JOINED: usize = 2048;

/// How long a closing connection goes on reading what its client still sends. Closing a socket with unread bytes
/// resets it, and a reset takes the answer away from a client that is still writing.
const LINGER: Duration = Duration::from_secs(5);

/// The most that a closing connection reads and drops.
const LINGER_BYTES: usize = 16 << 20;

/// What a connection's client may do.
#[derive(Clone, Copy, Debug)]
pub struct FramingLimits {
    /// The longest head in bytes, its closing empty line included. hyper's `max_buf_size` must not be smaller.
    pub max_header: usize,
    /// How long a head may take from its first byte to its last, and a new connection until its first head is whole.
    /// Then the connection is closed without an answer, as nginx does.
    pub header_timeout: Duration,
    /// How long a connection may be silent between requests, and how long its client may take no byte of a
    /// response. Then it is closed without an answer.
    pub idle_timeout: Duration,
}

/// A client's connection that delivers nothing but requests with one reading.
///
/// Reading has no time limit within a body, nor while [`Activity`] counts a request in progress: those are the
/// relay's to bound. Must be polled within a tokio runtime that has its timer enabled.
pub struct FramedIo<IO> {
    io: IO,
    messages: Messages,
    held: Held,
    /// How much of a refusal's stand-in was delivered.
    refusal_delivered: usize,
    /// Nothing is read any more: the peer's end, or a timeout.
    ended: bool,

    activity: Activity,
    header_timeout: Duration,
    idle_timeout: Duration,
    /// Whether the first head is still missing.
    fresh: bool,
    /// When the client began to owe us something: it connected, began a head, or got the end of a response.
    since: Instant,
    read_alarm: Alarm,

    /// Bytes were written that are not known to be flushed.
    unflushed: bool,
    /// How the client takes what could not be written at once. None while it takes everything.
    pace: Option<Pace>,
    write_alarm: Alarm,

    linger: Option<Linger>,
}

impl<IO> FramedIo<IO> {
    /// Takes over a connection that was just accepted: the clock for its first head starts now.
    pub fn new(io: IO, limits: FramingLimits) -> Self {
        Self::with_activity(io, limits, Activity::new())
    }

    /// As [`new`](Self::new), for a connection whose activity somebody watches already.
    pub fn with_activity(io: IO, limits: FramingLimits, activity: Activity) -> Self {
        Self {
            io,
            messages: Messages::new(limits.max_header),
            held: Held::default(),
            refusal_delivered: 0,
            ended: false,
            activity,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            fresh: true,
            since: Instant::now(),
            read_alarm: Alarm::default(),
            unflushed: false,
            pace: None,
            write_alarm: Alarm::default(),
            linger: None,
        }
    }

    /// The count of requests in progress, for the service to keep.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Ready if the client has been silent for too long where it owes bytes.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.messages.in_body() || self.pace.is_some() || !self.activity.is_idle() {
            return Poll::Pending;
        }
        let in_head = self.fresh || !self.held.is_empty();
        let timeout = if in_head { self.header_timeout } else { self.idle_timeout };
        let mut deadline = self.since + timeout;
        if self.held.is_empty()
            && let Some(closes_at) = self.activity.closes_at()
        {
            deadline = deadline.min(closes_at);
        }
        self.read_alarm.poll_until(cx, deadline)
    }

    /// Delivers what makes hyper answer a refusal, and then the end.
    fn deliver_refusal(&mut self, refusal: Refusal, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let stand_in = match refusal {
            Refusal::Head => BAD_REQUEST,
            Refusal::HeadTooLarge => &FIELDS_TOO_LARGE,
            Refusal::Body => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed chunked body"));
            }
        };
        let rest = &stand_in[self.refusal_delivered..];
        let delivered = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..delivered]);
        self.refusal_delivered += delivered;
        Ok(())
    }

    /// Takes the bytes of `buf` from `before` on, which were just read, and leaves those that may be delivered.
    fn sift(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let read = &buf.filled()[before..];
        let delivered = if self.held.is_empty() {
            let admitted = self.messages.admit(read);
            if admitted < read.len() && self.messages.refusal().is_none() {
                self.held.hold(&read[admitted..]);
                self.since = Instant::now();
            }
            admitted
        } else {
            self.held.hold(read);
            let admitted = self.messages.admit(self.held.bytes());
            let withheld = self.held.admit(admitted, self.messages.refusal().is_none());
            if admitted > 0 && withheld {
                self.since = Instant::now();
            }
            0
        };
        buf.set_filled(before + delivered);
    }

    /// Notes the outcome of a write; an error if the client has taken nothing for too long.
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.unflushed = true;
            if let (Some(pace), Ok(bytes)) = (&mut self.pace, &written) {
                pace.taken(Instant::now(), *bytes);
            }
            return Poll::Ready(written);
        }
        self.poll_stalled(cx).map(Err)
    }

    /// Ready with an error if the client has taken too little for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let pace = *self.pace.get_or_insert_with(|| Pace::new(Instant::now(), self.idle_timeout));
        ready!(self.write_alarm.poll_until(cx, pace.due()));
        self.activity.give_up();
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes, or hardly any"))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FramedIo<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 {
            if this.held.deliver(buf) {
                this.fresh = false;
                return Poll::Ready(Ok(()));
            }
            if let Some(refusal) = this.messages.refusal() {
                return Poll::Ready(this.deliver_refusal(refusal, buf));
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }

            let before = buf.filled().len();
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    if this.messages.in_body() {
                        this.activity.client_owes();
                    }
                    ready!(this.poll_overdue(cx));
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
            }
            if buf.filled().len() == before {
                this.ended = true;
                if !this.held.is_empty() {
                    this.held = Held::default();
                    this.messages.refuse_truncated();
                }
                continue;
            }
            let was_in_body = this.messages.in_body();
            this.sift(buf, before);
            if this.messages.in_body() != was_in_body {
                this.activity.set_in_body(!was_in_body);
            }
            if was_in_body && !this.messages.in_body() && !this.activity.client_has_paid() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            if buf.filled().len() > before {
                this.fresh = false;
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for FramedIo<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.after_write(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let written = if total <= JOINED {
            let mut joined: SmallVec<[u8; JOINED]> = SmallVec::new();
            bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
            Pin::new(&mut this.io).poll_write(cx, &joined)
        } else {
            Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
        };
        this.after_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Starts the idle timer too: hyper does not read again between the end of a response and the client's next byte.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Below TLS there is a buffer that takes a whole response; what the client has not taken of it shows here only.
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Ready(flushed) => flushed?,
            Poll::Pending => return this.poll_stalled(cx).map(Err),
        }
        // hyper flushes once it has written everything.
        this.pace = None;
        if this.unflushed {
            this.unflushed = false;
            this.since = Instant::now();
            if !this.activity.is_idle() {
                this.activity.wake_when_idle(cx.waker());
            }
            if this.poll_overdue(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends our side, then reads and drops what a refused client still sends, for a short while, so that it gets its
    /// answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let linger = match &mut this.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                let unread = this.messages.in_body() || this.messages.refusal().is_some();
                if this.ended || !unread {
                    return Poll::Ready(Ok(()));
                }
                this.linger.insert(Linger { until: Instant::now() + LINGER, dropped: 0 })
            }
        };
        let mut scratch = [0; 4096];
        while linger.dropped < LINGER_BYTES {
            let mut sink = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut sink) {
                Poll::Ready(Ok(())) if !sink.filled().is_empty() => linger.dropped += sink.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(this.read_alarm.poll_until(cx, linger.until));
                    break;
                }
            }
        }
        this.ended = true;
        this.linger = None;
        Poll::Ready(Ok(()))
    }
}

/// Shows no bytes: heads carry credentials.
impl<IO> fmt::Debug for FramedIo<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramedIo")
            .field("messages", &self.messages)
            .field("held", &self.held.bytes.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Linger {
    until: Instant,
    dropped: usize,
}

/// Bytes that were read and not delivered: the beginning of a head, and what was admitted once it was whole but found
/// no room in the reader's buffer. Empty on all connections but the slow ones.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    delivered: usize,
    /// The end of what may be delivered.
    admitted: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes that are not admitted yet.
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.admitted..]
    }

    fn hold(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Lets `len` more bytes go, and drops the rest unless it is to be kept. Tells whether any are withheld.
    fn admit(&mut self, len: usize, keep_rest: bool) -> bool {
        self.admitted += len;
        if !keep_rest {
            self.bytes.truncate(self.admitted);
        }
        if self.bytes.is_empty() {
            *self = Self::default();
        }
        self.admitted < self.bytes.len()
    }

    /// Moves admitted bytes into `buf`; false if there are none.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let ready = &self.bytes[self.delivered..self.admitted];
        if ready.is_empty() {
            return false;
        }
        let len = ready.len().min(buf.remaining());
        buf.put_slice(&ready[..len]);
        self.delivered += len;
        if self.delivered == self.admitted {
            // The buffer itself goes: an idle connection shall not keep what a slow head once needed.
            self.bytes = self.bytes[self.admitted..].to_vec();
            self.delivered = 0;
            self.admitted = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests;
