//! A client's body, read whole within its limits.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use gearway_protocol::Base64Body;
use hyper::body::Body as _;

use crate::admit::{self, Admission, Expected};
use crate::config::Limits;
use crate::error::Error;
use crate::http1::{Activity, RequestBody};
use crate::pieces::{Pieces, TextWriter};

/// Bodies from this size on become text while they arrive, and replies' are decoded so. Below it, memory for the whole costs less than
/// the pieces.
pub const LARGE: usize = 256 << 10;

/// So much of a body that becomes text is read at once: less means more reads, more leaves the processor's cache before it is used.
const READ_AT_ONCE: usize = 128 << 10;

/// A body has room for so much more than what has come of it, at least: as much as it announced up to the first, and up to the second
/// where it announced nothing.
const ANNOUNCED_ROOM: usize = 64 << 10;
const ROOM: usize = 8 << 10;

thread_local! {
    static READ: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(READ_AT_ONCE));
}

/// A body that the client is about to send, or has sent.
#[derive(Debug)]
pub enum Incoming {
    Http1(RequestBody),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    /// Whether there is nothing to read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_empty(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn declared_length(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.length(),
            Self::Http2(body) => body.size_hint().exact(),
        }
    }
}

impl From<RequestBody> for Incoming {
    fn from(body: RequestBody) -> Self {
        Self::Http1(body)
    }
}

impl From<hyper::body::Incoming> for Incoming {
    fn from(body: hyper::body::Incoming) -> Self {
        Self::Http2(body)
    }
}

/// A request's body, in the form in which it is passed on.
#[derive(Debug, Clone)]
pub enum Body {
    /// As it came.
    Plain(Bytes),
    /// The base64 of so many bytes.
    Text { length: u64, text: Pieces },
}

/// What a body is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// To be passed on, and nothing else: a large one becomes text at once.
    ToPassOn,
    /// Its bytes.
    Bytes,
}

impl Body {
    /// The text of bytes that came whole.
    #[must_use]
    pub fn text_of(bytes: &[u8]) -> Self {
        let mut text = TextWriter::default();
        text.push(bytes);
        Self::Text { length: bytes.len() as u64, text: text.finish() }
    }

    /// The length of the body as the client sent it.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Plain(bytes) => bytes.len() as u64,
            Self::Text { length, .. } => *length,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes as the client sent them.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Text { text, .. } => {
                let decoded = Base64Body::decode_bytes(&text.into_bytes());
                // No client's bytes are decoded here: `Arriving::encode` and `text_of` made every text.
                decoded.expect("text that was written here").into()
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Plain(bytes)
    }
}

/// Why there is no body.
#[derive(Debug)]
pub enum Unread {
    Failed(Error),
    /// Too many requests wait for theirs, and this one's came most slowly.
    GivenUp,
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Failed(error) => error,
            Unread::GivenUp => Self::NotRun {
                reason: "too many requests wait for the rest of their bodies".into(),
                retry_after: admit::RETRY_AFTER,
            },
        }
    }
}

/// Reads the body, taking its bytes from the admission's budget as they arrive. The `connection`, if it is given, learns when it is
/// the client's turn.
///
/// # Errors
/// When the body is longer than `limits.max_body`, slower than `limits.body_timeout`, ends early, or the gateway is full.
pub async fn read(
    mut body: Incoming,
    limits: &Limits,
    wanted: Wanted,
    admission: &Admission,
    connection: Option<&Activity>,
) -> Result<Body, Unread> {
    if body.is_empty() {
        return Ok(Bytes::new().into());
    }
    let declared = body.declared_length();
    if declared.is_some_and(|length| length > limits.max_body) {
        return Err(Error::BodyTooLarge { limit: limits.max_body }.into());
    }
    // As most do, it came with its head.
    if let Incoming::Http1(body) = &mut body
        && let Some(whole) = body.take_whole()
    {
        admission.reserve(whole.len() as u64)?;
        return Ok(Body::Plain(whole));
    }
    // In a box of its own, so that requests without a body do not pay for its size.
    Box::pin(arrive(body, declared, limits, wanted, admission, connection)).await
}

/// Reads a body that did not come with its head.
async fn arrive(
    body: Incoming,
    declared: Option<u64>,
    limits: &Limits,
    wanted: Wanted,
    admission: &Admission,
    connection: Option<&Activity>,
) -> Result<Body, Unread> {
    let expected = OnceLock::new();
    let mut reading = pin!(async {
        let mut incoming = Arriving { body, read: 0, limit: limits.max_body, admission, expected: &expected };
        if wanted == Wanted::ToPassOn && declared.is_some_and(|length| length >= LARGE as u64) {
            incoming.encode().await
        } else {
            incoming.collect(declared).await.map(Body::Plain)
        }
    });
    if let Poll::Ready(read) = futures_util::poll!(reading.as_mut()) {
        return Ok(read?);
    }
    let awaited = connection.map(Activity::await_client);
    let read = tokio::select! {
        read = tokio::time::timeout(limits.body_timeout, reading) => match read {
            Ok(read) => read.map_err(Unread::Failed),
            Err(_) => Err(Error::BodyTooSlow.into()),
        },
        () = expected.get_or_init(|| admission.expect_body(limits)).given_up() => Err(Unread::GivenUp),
    };
    drop(awaited);
    if let Some(connection) = connection {
        connection.unless_let_go().await;
    }
    read
}

/// A body on its way.
struct Arriving<'a, 'e> {
    body: Incoming,
    /// So many bytes have come.
    read: u64,
    limit: u64,
    admission: &'a Admission,
    expected: &'e OnceLock<Expected<'a>>,
}

impl Arriving<'_, '_> {
    /// Counts bytes that have come. Neither budget nor memory is taken before: a declared length alone costs the client nothing.
    fn came(&mut self, bytes: usize) -> Result<(), Error> {
        self.read += bytes as u64;
        if self.read > self.limit {
            return Err(Error::BodyTooLarge { limit: self.limit });
        }
        self.admission.reserve(bytes as u64)?;
        if let Some(expected) = self.expected.get() {
            expected.came(bytes);
        }
        Ok(())
    }

    /// What comes next, behind what is in `into`; 0 at the end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
        at_most: usize,
    ) -> Poll<Result<usize, Error>> {
        let came = match &mut self.body {
            Incoming::Http1(body) => ready!(body.poll_read(cx, into, at_most)).map_err(|_| ended_early())?,
            Incoming::Http2(body) => loop {
                let frame = ready!(pin!(&mut *body).poll_frame(cx)).transpose().map_err(|_| ended_early())?;
                let Some(frame) = frame else { break 0 };
                if let Some(data) = frame.data_ref().filter(|data| !data.is_empty()) {
                    into.extend_from_slice(data);
                    break data.len();
                }
            },
        };
        self.came(came)?;
        Poll::Ready(Ok(came))
    }

    async fn encode(&mut self) -> Result<Body, Error> {
        let mut text = TextWriter::default();
        poll_fn(|cx| {
            READ.with_borrow_mut(|memory| {
                loop {
                    memory.clear();
                    if ready!(self.poll_read(cx, memory, READ_AT_ONCE))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    text.push(memory);
                }
            })
        })
        .await
        .map(|()| Body::Text { length: self.read, text: text.finish() })
    }

    async fn collect(&mut self, declared: Option<u64>) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        poll_fn(|cx| {
            loop {
                let missing = declared.map_or(u64::MAX, |length| length.saturating_sub(self.read));
                let least = if declared.is_some() { ANNOUNCED_ROOM } else { ROOM };
                let room = (whole.len() * 3).max(least);
                let room = usize::try_from(missing).unwrap_or(usize::MAX).min(room);
                // None for the end that follows what was announced: room for it would move the whole body.
                if whole.capacity() - whole.len() < room {
                    whole.reserve(room);
                }
                if ready!(self.poll_read(cx, &mut whole, room))? == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
        .map(|()| whole.freeze())
    }
}

fn ended_early() -> Error {
    Error::bad_request("the body is malformed or ended early")
}
