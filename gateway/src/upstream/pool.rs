use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::ConnectError;
use crate::dialect::Dialect;
use crate::registry::{Replica, Rotation};

/// Idle connections of one relay thread, by replica. Connections stay on the thread that opened them.
#[derive(Debug, Default)]
pub struct Pool {
    idle: Mutex<HashMap<Arc<str>, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
    retire_after: Duration,
}

/// A connection that no other call uses.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
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
}

/// A worker's reply as it came.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// How long a connection may be idle: shorter than its worker keeps it, so that no call is written into a connection that the worker
/// is closing. Contract section 5.
fn retire_after(dialect: Dialect) -> Duration {
    match dialect {
        Dialect::GearwayV1 => Duration::from_secs(30),
        Dialect::SkygearV1 => Duration::from_secs(4),
    }
}

impl Pool {
    /// An idle connection to the replica, or else a new one.
    ///
    /// # Errors
    /// When there is no idle one and the replica cannot be connected to.
    pub async fn checkout(&self, replica: &Replica, allowed: &[IpNet]) -> Result<Connection, ConnectError> {
        while let Some(mut connection) = self.pop(replica) {
            // Lets the reactor look first: a worker that died while the connection was idle has closed it, and a call that is
            // written into it now could not be told from one that was lost on the way.
            tokio::task::yield_now().await;
            if connection.sender.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        Connection::open(replica, allowed).await
    }

    fn pop(&self, replica: &Replica) -> Option<Connection> {
        let mut pool = self.idle.lock();
        let idle = pool.get_mut(&replica.id)?.pop()?;
        (idle.since.elapsed() < idle.retire_after).then_some(idle.connection)
    }

    /// Keeps a connection for the next call, unless its replica is gone.
    pub fn checkin(&self, replica: &Replica, connection: Connection) {
        if connection.sender.is_closed() || replica.rotation() == Rotation::Left {
            return;
        }
        let idle = Idle { connection, since: Instant::now(), retire_after: retire_after(replica.dialect) };
        self.idle.lock().entry(Arc::clone(&replica.id)).or_default().push(idle);
    }

    /// Closes what has been idle for too long, and what belongs to replicas that `is_known` does not know. To be called
    /// every second or so.
    pub fn retire(&self, is_known: impl Fn(&str) -> bool) {
        self.idle.lock().retain(|id, connections| {
            connections.retain(|idle| {
                idle.since.elapsed() < idle.retire_after && !idle.connection.sender.is_closed()
            });
            !connections.is_empty() && is_known(id)
        });
    }
}

impl Connection {
    async fn open(replica: &Replica, allowed: &[IpNet]) -> Result<Self, ConnectError> {
        let stream = super::connect(&replica.url, allowed).await?;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(ConnectError::Handshake)?;
        tokio::spawn(async move {
            // How a connection ended shows in the call that was on it; an idle one has nobody to tell.
            connection.await.ok();
        });
        Ok(Self { sender })
    }

    /// Sends one call and reads its whole reply, of `max_reply` bytes at most.
    pub async fn exchange(&mut self, request: Request<Full<Bytes>>, max_reply: u64) -> Exchange {
        let response = match self.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                return match error.take_message() {
                    Some(_) => Exchange::NotWritten,
                    None => Exchange::Lost(error.error().to_string()),
                };
            }
        };
        let (head, body) = response.into_parts();
        match collect(body, max_reply).await {
            Ok(Some(body)) => Exchange::Answered(Answer { status: head.status, headers: head.headers, body }),
            Ok(None) => Exchange::TooLarge,
            Err(error) => Exchange::Lost(error.to_string()),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_closed", &self.sender.is_closed()).finish()
    }
}

/// [`None`] when the body is longer than `limit`.
async fn collect(mut body: Incoming, limit: u64) -> Result<Option<Bytes>, hyper::Error> {
    let expected = body.size_hint().lower();
    if expected > limit {
        return Ok(None);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.len() as u64 + rest.len() as u64 + data.len() as u64 > limit {
            return Ok(None);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.reserve(usize::try_from(expected).unwrap_or(0).max(first.len() + data.len()));
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(Some(if rest.is_empty() { first } else { rest.freeze() }))
}
