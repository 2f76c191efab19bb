use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::RecvFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// A worker's end of a connection, however it is reached.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Whether nothing has come that was not read, the end included. Asks the system itself: the reactor may not know yet.
    pub(super) fn is_silent(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => nothing_came(stream),
            Self::Unix(stream) => nothing_came(stream),
            Self::Tls(stream) => {
                let (stream, session) = stream.get_mut();
                let read = session.process_new_packets();
                nothing_came(&*stream)
                    && read
                        .is_ok_and(|state| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed())
            }
        }
    }

    /// As [`is_silent`](Self::is_silent), as far as the reactor had heard when it last looked. Asks the system only if it has heard of
    /// something: a call of the kernel is most of what looking costs.
    pub(super) fn is_silent_so_far(&mut self) -> bool {
        match self {
            Self::Tcp(stream) => nothing_was_heard(stream.try_io(Interest::READABLE, || look(&*stream))),
            Self::Unix(stream) => nothing_was_heard(stream.try_io(Interest::READABLE, || look(&*stream))),
            Self::Tls(_) => self.is_silent(),
        }
    }
}

fn look(socket: impl AsFd) -> io::Result<usize> {
    let looked = rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    looked.map(|(_, length)| length).map_err(Into::into)
}

fn nothing_came(socket: impl AsFd) -> bool {
    nothing_was_heard(look(socket))
}

fn nothing_was_heard(looked: io::Result<usize>) -> bool {
    looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
