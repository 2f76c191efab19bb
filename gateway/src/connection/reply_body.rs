//! A response's body, whose bytes count as in flight until the client has taken them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use crate::admit::Untaken;
use crate::pieces::Pieces;

/// The body, piece by piece.
#[derive(Debug)]
pub(super) struct ReplyBody {
    pieces: VecDeque<Held>,
    length: u64,
}

/// A piece of it, which is given back to the budget once whoever writes it drops it.
#[derive(Debug)]
pub(super) struct Held {
    bytes: Bytes,
    _untaken: Untaken,
}

impl ReplyBody {
    pub(super) fn new(body: Pieces, untaken: impl Fn(u64) -> Untaken) -> Self {
        let length = body.len() as u64;
        let held = |bytes: Bytes| Held { _untaken: untaken(bytes.len() as u64), bytes };
        Self { pieces: body.into_iter().map(held).collect(), length }
    }
}

impl Body for ReplyBody {
    type Data = Held;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Held>, Infallible>>> {
        let this = self.get_mut();
        Poll::Ready(this.pieces.pop_front().map(|held| {
            this.length -= held.bytes.len() as u64;
            Ok(Frame::data(held))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
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
