//! Client connections: accepted in one place, handed to the relay thread that has the fewest, drained in the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::connection;
use crate::drain::{Drain, IDLE_GRACE};
use crate::framing::Activity;
use crate::relay::Relay;

use self::waiting::Waiting;

mod waiting;

/// Out of descriptors or memory: accepting again at once would only spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// How often a place is looked for while everybody has work in progress.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const MAX_HANDED_OVER: usize = 1024;
/// How often idle connections to workers are looked through.
const RETIRE_EVERY: Duration = Duration::from_secs(1);

/// A connection on its way from the acceptor to a relay thread.
#[derive(Debug)]
pub struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    waiting: Arc<Waiting>,
    _permit: OwnedSemaphorePermit,
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
pub async fn accept(listener: TcpListener, threads: Vec<RelayThread>, max_connections: usize, drain: Drain) {
    let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
    let waiting = Arc::new(Waiting::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.begun() => break,
        };
        match accepted {
            Ok((stream, peer)) => match make_room(&places, &waiting).await {
                Some(place) => hand_over(stream, peer, place, &waiting, &threads).await,
                None => break,
            },
            Err(error) => refused(&error).await,
        }
    }
    while !drain.is_for_successor()
        && let Ok(place) = Arc::clone(&places).try_acquire_owned()
        && let Some(Ok((stream, peer))) = listener.accept().now_or_never()
    {
        hand_over(stream, peer, place, &waiting, &threads).await;
    }
}

/// A place for one more connection. Where there is none, who has kept the gateway waiting for the longest gives up his: slow
/// clients are to keep nobody out, however many they are. When all are being worked for, newcomers wait.
async fn make_room(places: &Arc<Semaphore>, waiting: &Waiting) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        let let_go = waiting.let_go_of_the_longest();
        if let_go > 0 {
            debug!(let_go, "limits.max_connections is reached; those who waited longest are let go");
        }
        match tokio::time::timeout(LOOK_AGAIN, Arc::clone(places).acquire_owned()).await {
            Ok(place) => return place.ok(),
            Err(_) => continue,
        }
    }
}

async fn hand_over(
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    waiting: &Arc<Waiting>,
    threads: &[RelayThread],
) {
    let Some(thread) = threads.iter().min_by_key(|thread| thread.open.load(Ordering::Relaxed)) else {
        return;
    };
    // The stream leaves this thread's reactor for that of the thread that will serve it.
    let stream = stream.set_nodelay(true).and_then(|()| stream.into_std());
    match stream {
        Ok(stream) => {
            let waiting = Arc::clone(waiting);
            let accepted = Accepted { stream, peer, waiting, _permit: permit, _open: thread.open() };
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
        let waiting = Arc::clone(&accepted.waiting);
        let grace = IDLE_GRACE.min(drain_timeout / 2);
        let task = open.spawn(connection(accepted, Arc::clone(&relay), grace, activity.clone()));
        waiting.add(activity, task.abort_handle());
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
    let Accepted { stream, peer, waiting: _, _permit, _open } = accepted;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    connection::serve(stream, peer, relay, grace, activity).await;
}
