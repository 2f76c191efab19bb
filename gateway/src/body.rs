//! A client's body, read whole within its limits.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use gearway_protocol::Base64Body;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::admit::{self, Admission, Expected};
use crate::config::Limits;
use crate::error::Error;
use crate::framing::Activity;
use crate::pieces::{Pieces, TextWriter};

/// Bodies from this size on become text while they arrive, and replies' are decoded so. Below it, memory for the whole costs less than
/// the pieces.
pub const LARGE: usize = 256 << 10;

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
    body: Incoming,
    limits: &Limits,
    wanted: Wanted,
    admission: &Admission,
    connection: Option<&Activity>,
) -> Result<Body, Unread> {
    if body.is_end_stream() {
        return Ok(Bytes::new().into());
    }
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limits.max_body) {
        return Err(Error::BodyTooLarge { limit: limits.max_body }.into());
    }
    let expected = OnceLock::new();
    let mut reading = pin!(async {
        let mut incoming = Arriving { body, read: 0, limit: limits.max_body, admission, expected: &expected };
        if wanted == Wanted::ToPassOn && declared.is_some_and(|length| length >= LARGE as u64) {
            incoming.encode().await
        } else {
            incoming.collect(declared).await.map(Body::Plain)
        }
    });
    // What came with the head, as most do, is not waited for.
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
    /// What comes next. Neither budget nor memory is taken before: a declared length alone costs the client nothing.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_| Error::bad_request("the body is malformed or ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            self.read += data.len() as u64;
            if self.read > self.limit {
                return Err(Error::BodyTooLarge { limit: self.limit });
            }
            self.admission.reserve(data.len() as u64)?;
            if let Some(expected) = self.expected.get() {
                expected.came(data.len());
            }
            return Ok(Some(data));
        }
        Ok(None)
    }

    async fn encode(&mut self) -> Result<Body, Error> {
        let mut text = TextWriter::default();
        while let Some(data) = self.next().await? {
            text.push(&data);
        }
        Ok(Body::Text { length: self.read, text: text.finish() })
    }

    async fn collect(&mut self, declared: Option<u64>) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(data) = self.next().await? {
            if Some(data.len() as u64) == declared {
                return Ok(data);
            }
            if whole.capacity() - whole.len() < data.len() {
                let missing = declared.unwrap_or(0).saturating_sub(whole.len() as u64);
                let some = (whole.len() as u64 * 4).max(data.len() as u64);
                whole.reserve(usize::try_from(missing.min(some)).unwrap_or(0).max(data.len()));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
}
