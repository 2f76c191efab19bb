//! A response's body, whose bytes count as in flight until the client has taken them.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use crate::admit::Untaken;

/// The body, in one piece.
#[derive(Debug)]
pub(super) struct ReplyBody(Option<Held>);

/// Its bytes, which are given back to the budget once whoever writes them drops them.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Bytes,
    _untaken: Untaken,
}

impl ReplyBody {
    pub(super) fn new(bytes: Bytes, untaken: impl FnOnce(u64) -> Untaken) -> Self {
        Self((!bytes.is_empty()).then(|| Held { _untaken: untaken(bytes.len() as u64), bytes }))
    }
}

impl Body for ReplyBody {
    type Data = Held;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Held>, Infallible>>> {
        Poll::Ready(self.get_mut().0.take().map(|held| Ok(Frame::data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |held| held.bytes.len() as u64))
    }
}

impl Buf for Held {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
