//! A client's body, read whole within its limits.

use std::pin::pin;
use std::sync::OnceLock;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::admit::{self, Admission, Expected};
use crate::config::Limits;
use crate::error::Error;
use crate::framing::Activity;

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
    admission: &Admission,
    connection: Option<&Activity>,
) -> Result<Bytes, Unread> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let expected = OnceLock::new();
    let mut reading = pin!(collect(body, limits.max_body, admission, &expected));
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

async fn collect(
    mut body: Incoming,
    limit: u64,
    admission: &Admission,
    expected: &OnceLock<Expected<'_>>,
) -> Result<Bytes, Error> {
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit) {
        return Err(Error::BodyTooLarge { limit });
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Error::bad_request("the body is malformed or ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() as u64 + data.len() as u64 > limit {
            return Err(Error::BodyTooLarge { limit });
        }
        // Neither budget nor memory is taken before: a declared length alone costs the client nothing.
        admission.reserve(data.len() as u64)?;
        if let Some(expected) = expected.get() {
            expected.came(data.len());
        }
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
