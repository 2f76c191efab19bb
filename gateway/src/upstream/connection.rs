use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio_rustls::rustls::ClientConfig;
use tokio_util::io::poll_read_buf;

use super::buffers::MAX_KEPT_BYTES;
use super::outgoing::Outgoing;
use super::reply::{Answer, OpensBody, ReplyError, ReplyReader};
use super::stream::Stream;
use crate::alarm::Alarm;
use crate::config::Workers;

/// The first room for a reply: enough for most.
const FIRST_ROOM: usize = 8 << 10;

/// A connection that no other call uses.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// How the worker's certificate was checked.
    tls: Option<Arc<ClientConfig>>,
    /// Rings when the call on it is over its deadline. The next call's is later, mostly, so that the timer can stay where it is.
    alarm: Alarm,
    /// Whether it may carry another call: the last one was answered whole, and left nothing behind.
    is_reusable: bool,
    /// The replica's epoch when it was made.
    epoch: u32,
}

/// What became of a call.
#[derive(Debug)]
pub enum Exchange {
    Answered(Answer),
    /// Nothing of it was written: another connection may take it.
    NotWritten,
    /// It may have run.
    Lost(String),
    /// The reply is larger than the limit.
    TooLarge,
    /// What came back is no reply.
    Nonsense(&'static str),
}

/// The deadline has passed.
#[derive(Debug)]
pub struct TooLate;

/// One call and its reply on a connection.
struct Exchanging<'a> {
    stream: &'a mut Stream,
    call: &'a mut Outgoing,
    /// Why writing ended early. The worker may have answered before that.
    write_error: Option<io::Error>,
    reader: ReplyReader,
    input: &'a mut BytesMut,
    /// The most memory that `input` has had.
    capacity: usize,
}

impl Connection {
    pub(super) fn new(stream: Stream, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { stream, tls, alarm: Alarm::default(), is_reusable: true, epoch: 0 }
    }

    pub(super) fn of_epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    #[must_use]
    pub fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    /// Whether nothing has happened to the connection while it was idle: an end, or bytes that nobody asked for, would be taken for
    /// an answer to the next call.
    pub(super) fn is_untouched(&mut self) -> bool {
        self.stream.is_silent()
    }

    /// As [`is_untouched`](Self::is_untouched), as far as is known without asking the system: for a connection that was of use a moment
    /// ago.
    pub(super) fn is_untouched_so_far(&mut self) -> bool {
        self.stream.is_silent_so_far()
    }

    /// Whether it would be made in the same way today: the authority that certifies workers may be another since.
    pub(super) fn is_trusted(&self, workers: &Workers) -> bool {
        match (&self.tls, &workers.tls) {
            (None, _) => true,
            (Some(then), Some(now)) => Arc::ptr_eq(then, &now.client),
            (Some(_), None) => false,
        }
    }

    /// As [`exchange`](Self::exchange), until the deadline.
    ///
    /// # Errors
    /// When that has passed.
    pub async fn exchange_until(
        &mut self,
        deadline: Instant,
        call: &mut Outgoing,
        input: &mut BytesMut,
        max_reply: u64,
        opens_body: OpensBody,
    ) -> Result<Exchange, TooLate> {
        let mut alarm = std::mem::take(&mut self.alarm);
        let ended = {
            let mut exchange = std::pin::pin!(self.exchange(call, input, max_reply, opens_body));
            let ended = std::future::poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Ready(ended) => Poll::Ready(Ok(ended)),
                Poll::Pending => alarm.poll_until(cx, deadline.into()).map(|()| Err(TooLate)),
            });
            ended.await
        };
        self.alarm = alarm;
        ended
    }

    /// Sends one call, head and body, and reads its whole reply into `input`, of `max_reply` bytes at most. `input` keeps no
    /// more memory than may be kept for later.
    pub async fn exchange(
        &mut self,
        call: &mut Outgoing,
        input: &mut BytesMut,
        max_reply: u64,
        opens_body: OpensBody,
    ) -> Exchange {
        self.is_reusable = false;
        input.reserve(FIRST_ROOM);
        let mut exchanging = Exchanging {
            stream: &mut self.stream,
            call,
            write_error: None,
            reader: ReplyReader::new(max_reply).decoding(opens_body),
            capacity: 0,
            input,
        };
        let result = std::future::poll_fn(|cx| exchanging.poll(cx)).await;
        let whole = exchanging.call.is_written();
        self.is_reusable = result.is_ok() && whole && exchanging.reader.keeps_alive();
        if exchanging.capacity > MAX_KEPT_BYTES {
            // Even empty it would hold on to the memory that its reply is in.
            *input = BytesMut::new();
        }
        result.map_or_else(|failure| failure, Exchange::Answered)
    }
}

impl Exchanging<'_> {
    /// Writes and reads at once: a worker may answer before it has read the whole call, and stop reading.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, Exchange>> {
        if self.poll_write(cx).is_ready() && !self.call.is_begun() {
            return Poll::Ready(Err(Exchange::NotWritten));
        }
        loop {
            let read = ready!(poll_read_buf(Pin::new(&mut *self.stream), cx, self.input));
            if !self.call.is_begun() {
                return Poll::Ready(Err(Exchange::NotWritten));
            }
            let read = match read {
                Ok(read) => read,
                Err(error) => return Poll::Ready(Err(self.lost(&error))),
            };
            self.capacity = self.capacity.max(self.input.capacity());
            let answer = match read {
                0 => self.reader.end(self.input).map(Some),
                _ => self.reader.advance(self.input),
            };
            self.capacity = self.capacity.max(self.input.capacity());
            match answer {
                Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                Ok(None) => {}
                Err(ReplyError::Nonsense(reason)) => return Poll::Ready(Err(Exchange::Nonsense(reason))),
                Err(ReplyError::TooLarge) => return Poll::Ready(Err(Exchange::TooLarge)),
                Err(error @ ReplyError::Truncated) => {
                    return Poll::Ready(Err(self.lost(&io::Error::other(error))));
                }
            }
        }
    }

    /// Ready when there is nothing more to be written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.write_error.is_none() {
            let unwritten = self.call.unwritten();
            let stream = Pin::new(&mut *self.stream);
            let written = match &unwritten[..] {
                [only, others @ ..] if others.iter().all(|slice| slice.is_empty()) => {
                    if only.is_empty() {
                        break;
                    }
                    stream.poll_write(cx, only)
                }
                several => stream.poll_write_vectored(cx, several),
            };
            match ready!(written) {
                Ok(0) => self.write_error = Some(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.call.advance(written),
                Err(error) => self.write_error = Some(error),
            }
        }
        if self.write_error.is_none() {
            self.write_error = ready!(Pin::new(&mut *self.stream).poll_flush(cx)).err();
        }
        Poll::Ready(())
    }

    fn lost(&self, error: &io::Error) -> Exchange {
        Exchange::Lost(self.write_error.as_ref().unwrap_or(error).to_string())
    }
}

#[cfg(test)]
mod tests;
