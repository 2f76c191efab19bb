//! Client connections: accepted in one place, handed to the relay thread that has the fewest, drained in the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::connection;
use crate::drain::{Drain, IDLE_GRACE};
use crate::http1::Activity;
use crate::relay::{Relay, Shared};

use self::room::{Place, Room};

mod room;
mod waiting;

/// Out of descriptors or memory: accepting again at once would only spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const MAX_HANDED_OVER: usize = 1024;
/// How often idle connections to workers are looked through.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// A connection on its way from the acceptor to a relay thread.
#[derive(Debug)]
pub struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    room: Arc<Room>,
    place: Place,
    _open: OpenConnection,
}

/// The acceptor's end of a relay thread, which ends when this is dropped.
#[derive(Debug)]
pub struct RelayThread {
    connections: mpsc::Sender<Accepted>,
    open: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
struct OpenConnection(Arc<AtomicUsize>);

impl RelayThread {
    /// The acceptor's end, and the end for [`serve`].
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Accepted>) {
        let (connections, receiver) = mpsc::channel(MAX_HANDED_OVER);
        (Self { connections, open: Arc::default() }, receiver)
    }

    /// How many connections the thread has, for whoever wants to know it for longer than the acceptor lives.
    #[must_use]
    pub fn open_connections(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    fn open(&self) -> OpenConnection {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenConnection(Arc::clone(&self.open))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until `drain` begins, then takes what has already been connected: closing a listener resets what waits in it. That is not so
/// when a successor has the same listener: then what waits is the successor's.
pub async fn accept(listener: TcpListener, threads: Vec<RelayThread>, shared: Arc<Shared>, drain: Drain) {
    let room = Arc::new(Room::new(shared));
    let recovering = tokio::spawn({
        let room = Arc::clone(&room);
        async move { room.recover_bytes().await }
    });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.begun() => break,
        };
        match accepted {
            Ok((stream, peer)) => match room.place(peer.ip()).await {
                Some(place) => hand_over(stream, peer, place, &room, &threads).await,
                None => debug!(%peer, "closed at once: limits.max_connections_per_address"),
            },
            Err(error) => refused(&error).await,
        }
    }
    recovering.abort();
    while !drain.is_for_successor()
        && let Some(place) = room.free_place()
        && let Some(Ok((stream, peer))) = listener.accept().now_or_never()
    {
        hand_over(stream, peer, place, &room, &threads).await;
    }
}

async fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    room: &Arc<Room>,
    threads: &[RelayThread],
) {
    let Some(thread) = threads.iter().min_by_key(|thread| thread.open.load(Ordering::Relaxed)) else {
        return;
    };
    // The stream leaves this thread's reactor for that of the thread that will serve it.
    let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
    match stream {
        Ok(stream) => {
            let accepted = Accepted { stream, peer, room: Arc::clone(room), place, _open: thread.open() };
            if thread.connections.send(accepted).await.is_err() {
                warn!("a relay thread has ended; its connection is closed");
            }
        }
        Err(error) => debug!(%error, %peer, "a connection ended before it was served"),
    }
}

async fn refused(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
        _ => {
            warn!(%error, "cannot accept connections");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
        }
    }
}

/// A relay thread's life: serves what it is handed until the acceptor ends, then waits for connections and calls to finish, for
/// `drain_timeout` at most.
pub async fn serve(mut connections: mpsc::Receiver<Accepted>, relay: Arc<Relay>, drain_timeout: Duration) {
    let open = TaskTracker::new();
    let retirement = tokio::spawn(retire_idle(Arc::clone(&relay)));
    while let Some(accepted) = connections.recv().await {
        let activity = Activity::new();
        let (room, reception) = (Arc::clone(&accepted.room), accepted.place.reception);
        let grace = IDLE_GRACE.min(drain_timeout / 2);
        let task = open.spawn(connection(accepted, Arc::clone(&relay), grace, activity.clone()));
        room.add(reception, activity, task.abort_handle());
    }
    open.close();
    let calls = relay.dispatcher.calls.clone();
    calls.close();
    let drained = async {
        open.wait().await;
        calls.wait().await;
    };
    if tokio::time::timeout(drain_timeout, drained).await.is_err() {
        warn!(
            connections = open.len(),
            calls = calls.len(),
            "public.drain_timeout is over; what still runs is cut off"
        );
    }
    retirement.abort();
}

async fn retire_idle(relay: Arc<Relay>) {
    loop {
        tokio::time::sleep(RETIRE_EVERY).await;
        relay.dispatcher.pool.retire(|id| relay.shared.registry.name_of(id).is_ok());
    }
}

async fn connection(accepted: Accepted, relay: Arc<Relay>, grace: Duration, activity: Activity) {
    let Accepted { stream, peer, room: _, place, _open } = accepted;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    connection::serve(stream, peer, relay, grace, activity, place.reception).await;
}
