//! The way to a worker: its address, connections to it, and one call at a time on each.
//!
//! The HTTP/1.1 client is the gateway's own: whether a byte of a call was written decides whether it may be sent again, a call
//! goes out in one write from the buffer that its envelope was written into, and a reply is held to one reading.

mod address;
mod base64_text;
mod buffers;
mod call_head;
mod connection;
mod outgoing;
mod pool;
mod reply;
mod reply_head;
mod stream;

pub use self::address::{AddressError, WorkerUrl, resolve};
pub use self::buffers::Buffers;
pub use self::call_head::CallHead;
pub use self::connection::{Connection, Exchange, TooLate};
pub use self::outgoing::Outgoing;
pub use self::pool::Pool;
pub use self::reply::{Answer, OpensBody, ReplyError, ReplyReader};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use rustix::io::Errno;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use self::address::Destination;
use self::stream::Stream;
use crate::config::Workers;

/// A worker on the same machine or network answers a SYN in well under a second, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection: nothing of a call was written.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("cannot connect to {to}: {source}")]
    Io { to: String, source: io::Error },
    #[error("no connection within {} ms", CONNECT_TIMEOUT.as_millis())]
    TimedOut,
}

impl ConnectError {
    /// Whether this gateway lacks what a connection takes, so that it says nothing of the worker.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        const OURS: [Errno; 5] =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
        match self {
            Self::Io { source, .. } => {
                OURS.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::Address(_) | Self::TimedOut => false,
        }
    }
}

/// Connects to the worker, at an address that was checked after it was resolved.
///
/// # Errors
/// When the url leads to nothing allowed, nobody accepts there, or the worker does not show the certificate that it should.
pub async fn connect(url: &WorkerUrl, workers: &Workers) -> Result<Connection, ConnectError> {
    let attempt = async {
        match resolve(url, workers).await? {
            Destination::Socket(path) => {
                let connected = UnixStream::connect(&path).await;
                let stream = connected.map_err(failed(url))?;
                Ok(Connection::new(Stream::Unix(stream), None))
            }
            Destination::Network(addresses) => {
                let stream = connect_to_any(&addresses).await?;
                let (Some(name), Some(tls)) = (url.certified_name(), &workers.tls) else {
                    return Ok(Connection::new(Stream::Tcp(stream), None));
                };
                let connector = TlsConnector::from(Arc::clone(&tls.client));
                let shaken = connector.connect(name.clone(), stream).await.map_err(failed(url))?;
                Ok(Connection::new(Stream::Tls(Box::new(shaken)), Some(Arc::clone(&tls.client))))
            }
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempt).await.unwrap_or(Err(ConnectError::TimedOut))
}

async fn connect_to_any(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut failure = ConnectError::TimedOut;
    for address in addresses {
        let connected = TcpStream::connect(address).await;
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = failed(address)(error),
        }
    }
    Err(failure)
}

fn failed(to: &impl fmt::Debug) -> impl FnOnce(io::Error) -> ConnectError {
    move |source| ConnectError::Io { to: format!("{to:?}"), source }
}
