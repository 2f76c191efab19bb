//! A client's socket.

use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::http1::Activity;

/// A client's socket. It closes with a reset where the client has been given up, so that the system keeps nothing for somebody
/// who does not take it: a socket that closes in order lives on until its last byte was acknowledged.
#[derive(Debug)]
pub(super) struct ClientStream {
    socket: TcpStream,
    activity: Activity,
    /// What was read to find out what the client speaks.
    first: Option<Cursor<Vec<u8>>>,
}

impl ClientStream {
    pub(super) fn new(socket: TcpStream, activity: Activity) -> Self {
        Self { socket, activity, first: None }
    }

    /// Has these bytes read again before what follows them.
    pub(super) fn put_back(&mut self, first: Vec<u8>) {
        self.first = Some(Cursor::new(first));
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.activity.is_given_up() {
            // A socket that cannot be told so is broken already.
            self.socket.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(mut first) = this.first.take() {
            let before = buf.filled().len();
            let read = Pin::new(&mut first).poll_read(cx, buf);
            if buf.filled().len() > before {
                this.first = Some(first);
                return read;
            }
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
