//! The bytes of a client's connection, and the time that it has for them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::chunked::{ChunkScan, ChunkStep};
use super::head::{Fields, Framing, Head, HeadError, HeadScan, HeadStep};
use super::reply::{Unwritten, WRITTEN_AT_ONCE};
use super::{Activity, ConnectionLimits, Pace, request};
use crate::alarm::Alarm;

/// So much is read at once where nobody gave memory for it: a head, most often with all of a small body behind it.
const READ_AT_ONCE: usize = 8 << 10;

/// How long a closing connection goes on reading what its client still sends. Closing a socket with unread bytes
/// resets it, and a reset takes the answer away from a client that is still writing.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);

/// The most that a closing connection reads and drops.
const LINGER_BYTES: usize = 16 << 20;

/// The most that is read and dropped of a body that nobody wanted, to keep its connection.
const DROPPED_BYTES: usize = 256 << 10;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_AT_ONCE].into());
}

/// A connection, and how far it has been read.
pub(super) struct Wire<IO> {
    io: IO,
    /// What was read and is not used yet.
    buffer: BytesMut,
    at: At,
    limits: ConnectionLimits,
    activity: Activity,
    /// Nothing comes any more: the peer's end, or a timeout.
    ended: bool,
    /// Whether the first head is still missing.
    fresh: bool,
    /// When the client began to owe us something: it connected, began a head, or got the end of a response.
    since: Instant,
    read_alarm: Alarm,
    /// What is left to write of a [`CONTINUE`] that is due when the body is read first.
    interim: &'static [u8],
    /// Whether the body was waited for.
    owes_body: bool,
    /// How the client takes what could not be written at once. [`None`] while it takes everything.
    pace: Option<Pace>,
    write_alarm: Alarm,
    linger: Option<Linger>,
}

/// What the next byte of the connection is.
#[derive(Debug)]
enum At {
    /// Of a head, perhaps one that has begun.
    Head(HeadScan),
    /// So many bytes of the body are still to come; never none.
    Body(u64),
    Chunked(ChunkScan),
    /// Nothing that can be read: a head or a chunked body has no reading from here on.
    Refused,
}

/// What a connection has to say next.
pub(super) enum Next {
    /// A request, whose head has been put where it was asked for.
    Request {
        /// The body's length, unless it is chunked.
        length: Option<u64>,
        has_body: bool,
        /// Whether no other request can follow.
        closes: bool,
    },
    /// A head that is answered with this status, and by nobody else.
    Refused(StatusCode),
    /// Nothing.
    Gone,
}

#[derive(Debug)]
struct Linger {
    until: Instant,
    dropped: usize,
}

impl<IO> Wire<IO> {
    /// The clock for the first head starts now.
    pub(super) fn new(io: IO, limits: ConnectionLimits, activity: Activity) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            at: At::Head(HeadScan::default()),
            limits,
            activity,
            ended: false,
            fresh: true,
            since: Instant::now(),
            read_alarm: Alarm::default(),
            interim: &[],
            owes_body: false,
            pace: None,
            write_alarm: Alarm::default(),
            linger: None,
        }
    }

    fn in_body(&self) -> bool {
        matches!(self.at, At::Body(_) | At::Chunked(_))
    }

    /// Ready if the client has been silent for too long where it owes a head.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_idle() {
            self.activity.wake_when_idle(cx.waker());
            // Its last guard may have gone before the waker was there.
            if !self.activity.is_idle() {
                return Poll::Pending;
            }
        }
        let in_head = self.fresh || !self.buffer.is_empty();
        let timeout = if in_head { self.limits.header_timeout } else { self.limits.idle_timeout };
        let mut deadline = self.since + timeout;
        if self.buffer.is_empty()
            && let Some(closes_at) = self.activity.closes_at()
        {
            deadline = deadline.min(closes_at);
        }
        self.read_alarm.poll_until(cx, deadline)
    }

    /// Ready with an error if the client has taken too little for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let pace = *self.pace.get_or_insert_with(|| Pace::new(Instant::now(), self.limits.idle_timeout));
        ready!(self.write_alarm.poll_until(cx, pace.due()));
        self.activity.give_up();
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes, or hardly any"))
    }

    /// Takes bytes from the front of the buffer, whose memory goes with the last of them: idle connections keep none.
    fn take(&mut self, length: usize) -> BytesMut {
        let taken = self.buffer.split_to(length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        taken
    }

    fn begin(&mut self, head: &Head, bytes: &Bytes, fields: &Fields, parts: &mut Option<Parts>) -> Next {
        self.fresh = false;
        if !request::of_head(bytes, head, fields, parts) {
            self.at = At::Refused;
            return Next::Refused(StatusCode::BAD_REQUEST);
        }
        let (at, length) = match head.framing {
            Framing::Length(0) | Framing::Nothing => (At::Head(HeadScan::default()), Some(0)),
            Framing::Length(length) => (At::Body(length), Some(length)),
            Framing::Chunked => (At::Chunked(ChunkScan::new()), None),
        };
        self.at = at;
        let has_body = self.in_body();
        self.owes_body = false;
        self.interim = if has_body && head.expects_continue { CONTINUE } else { &[] };
        // RFC 9112 section 9.3 lets no proxy keep an HTTP/1.0 client's connection.
        let closes = head.asks_to_close || !head.http_11 || head.framing == Framing::Nothing;
        Next::Request { length, has_body, closes }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire<IO> {
    /// Waits for the next request, whose head goes to `parts`.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        parts: &mut Option<Parts>,
    ) -> Poll<io::Result<Next>> {
        // What is there already may be a request.
        let mut looked = false;
        loop {
            if let At::Head(scan) = &mut self.at
                && !looked
                && !self.buffer.is_empty()
            {
                looked = true;
                let mut fields = Fields::new();
                let has_begun = scan.has_begun();
                match scan.advance(&self.buffer, self.limits.max_header, &mut fields) {
                    HeadStep::Complete { len, head } => {
                        let bytes = self.take(len).freeze();
                        return Poll::Ready(Ok(self.begin(&head, &bytes, &fields, parts)));
                    }
                    HeadStep::NeedMore if !has_begun => self.since = Instant::now(),
                    HeadStep::NeedMore => {}
                    HeadStep::Refused(error) => {
                        self.at = At::Refused;
                        return Poll::Ready(Ok(Next::Refused(match error {
                            HeadError::Malformed => StatusCode::BAD_REQUEST,
                            HeadError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        })));
                    }
                }
            }
            if self.ended {
                return Poll::Ready(Ok(if self.buffer.is_empty() {
                    Next::Gone
                } else {
                    // A head broke off: nothing more will come.
                    Next::Refused(StatusCode::BAD_REQUEST)
                }));
            }
            match poll_read_once(Pin::new(&mut self.io), cx, &mut self.buffer) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(_)) => looked = false,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(self.poll_overdue(cx));
                    self.ended = true;
                    self.buffer = BytesMut::new();
                }
            }
        }
    }

    /// Ready once the client has gone, while its request is being answered. Looks only where the next byte is that of another head:
    /// a body is its reader's.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.at, At::Head(_)) || !self.buffer.is_empty() {
            return Poll::Pending;
        }
        match ready!(poll_read_once(Pin::new(&mut self.io), cx, &mut self.buffer)) {
            Ok(0) | Err(_) => Poll::Ready(()),
            Ok(_) => Poll::Pending,
        }
    }

    /// Reads on in the body: [`RequestBody::poll_read`](super::RequestBody::poll_read).
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        at_most: usize,
    ) -> Poll<io::Result<usize>> {
        let before = into.len();
        while into.len() == before {
            let is_over = match &mut self.at {
                At::Head(_) => return Poll::Ready(Ok(0)),
                At::Refused => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                At::Body(remaining) => {
                    let remaining = *remaining;
                    let most = usize::try_from(remaining).unwrap_or(usize::MAX).min(at_most);
                    let read = if self.buffer.is_empty() {
                        ready!(self.poll_come(cx, |io, cx| poll_read_buf(io, cx, &mut into.limit(most))))?
                    } else {
                        let read = most.min(self.buffer.len());
                        into.extend_from_slice(&self.take(read));
                        read
                    };
                    let remaining = remaining - read as u64;
                    self.at = At::Body(remaining);
                    remaining == 0
                }
                At::Chunked(_) if self.buffer.is_empty() => {
                    let mut came = BytesMut::new();
                    ready!(self.poll_come(cx, |io, cx| poll_read_once(io, cx, &mut came)))?;
                    self.buffer = came;
                    continue;
                }
                At::Chunked(scan) => {
                    let shown = &self.buffer[..self.buffer.len().min(at_most)];
                    let (used, step) = scan.decode(shown, |data| into.extend_from_slice(data));
                    if step == ChunkStep::Refused {
                        self.at = At::Refused;
                        continue;
                    }
                    self.take(used);
                    step == ChunkStep::Done
                }
            };
            if is_over {
                self.at = At::Head(HeadScan::default());
                if mem::take(&mut self.owes_body) && !self.activity.client_has_paid() {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
            }
        }
        Poll::Ready(Ok(into.len() - before))
    }

    /// Reads what comes of a body by `read`.
    fn poll_come(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(Pin<&mut IO>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        while !self.interim.is_empty() {
            let written = ready!(self.poll_write(cx, &[IoSlice::new(self.interim)]))?;
            self.interim = &self.interim[written..];
            if self.interim.is_empty() {
                ready!(self.poll_flush(cx))?;
            }
        }
        if self.ended {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        match read(Pin::new(&mut self.io), cx) {
            Poll::Ready(Ok(0)) => {
                self.ended = true;
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            Poll::Pending => {
                self.owes_body = true;
                self.activity.client_owes();
                Poll::Pending
            }
            read @ Poll::Ready(_) => read,
        }
    }

    /// The whole body, if it came with its head.
    pub(super) fn take_whole_body(&mut self) -> Option<Bytes> {
        let At::Body(length) = self.at else { return None };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.buffer.len())?;
        self.at = At::Head(HeadScan::default());
        Some(self.take(length).freeze())
    }

    /// Drops what has come of a body that nobody has read. Whether its end was among it, so that another request can follow.
    pub(super) fn drop_body(&mut self, cx: &mut Context<'_>) -> bool {
        self.interim = &[];
        let mut dropped = 0;
        let mut memory = BytesMut::new();
        while self.in_body() && dropped < DROPPED_BYTES {
            memory.clear();
            memory.reserve(READ_AT_ONCE);
            match self.poll_body(cx, &mut memory, READ_AT_ONCE) {
                Poll::Ready(Ok(bytes)) => dropped += bytes,
                Poll::Ready(Err(_)) | Poll::Pending => return false,
            }
        }
        matches!(self.at, At::Head(_))
    }

    /// Writes some of these bytes; an error if the client has taken too little for too long.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match bytes {
            [bytes] => Pin::new(&mut self.io).poll_write(cx, bytes),
            bytes => Pin::new(&mut self.io).poll_write_vectored(cx, bytes),
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => {
                if let (Some(pace), Ok(bytes)) = (&mut self.pace, &written) {
                    pace.taken(Instant::now(), *bytes);
                }
                Poll::Ready(written)
            }
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    /// Below TLS there is a buffer that takes a whole response; what the client has not taken of it shows here only.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed),
            Poll::Pending => self.poll_stalled(cx).map(Err),
        }
    }

    /// Writes all that is left of a response. From its end on the client owes the next request.
    pub(super) fn poll_write_all<U>(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut VecDeque<Unwritten<U>>,
    ) -> Poll<io::Result<()>> {
        while !pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITTEN_AT_ONCE];
            let mut used = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces.iter()) {
                *slice = IoSlice::new(&piece.bytes);
                used += 1;
            }
            let mut written = ready!(self.poll_write(cx, &slices[..used]))?;
            while let Some(piece) = pieces.front_mut() {
                if written < piece.bytes.len() {
                    piece.bytes.advance(written);
                    break;
                }
                written -= piece.bytes.len();
                pieces.pop_front();
            }
        }
        ready!(self.poll_flush(cx))?;
        self.pace = None;
        self.since = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Ends our side, then reads and drops what a refused client still sends, for a short while, so that it gets its
    /// answer.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = match &mut self.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
                let is_unread = !matches!(self.at, At::Head(_)) || !self.buffer.is_empty();
                if self.ended || !is_unread {
                    return Poll::Ready(Ok(()));
                }
                self.buffer = BytesMut::new();
                self.linger.insert(Linger { until: Instant::now() + LINGER, dropped: 0 })
            }
        };
        let mut scratch = [0; 4096];
        while linger.dropped < LINGER_BYTES {
            let mut sink = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut sink) {
                Poll::Ready(Ok(())) if !sink.filled().is_empty() => linger.dropped += sink.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(self.read_alarm.poll_until(cx, linger.until));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads what has come behind what is in the buffer.
fn poll_read_once<IO: AsyncRead>(
    io: Pin<&mut IO>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    READ.with_borrow_mut(|memory| {
        let mut read = ReadBuf::new(memory);
        ready!(io.poll_read(cx, &mut read))?;
        buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    })
}

/// Shows no bytes: heads carry credentials.
impl<IO> fmt::Debug for Wire<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("at", &self.at)
            .field("buffered", &self.buffer.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
