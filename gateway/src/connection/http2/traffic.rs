//! What one HTTP/2 connection is busy with, as far as its client's patience with it must be bounded.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::super::IDLE_TIMEOUT;
use super::super::reply_body::Held;
use crate::http1::{Activity, InProgress, Pace};

/// How often a busy connection's responses are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A client may give up so many requests at once, and one more each [`GIVEN_UP_EVERY`]. Each has cost a place among the
/// requests in flight, and maybe a call to a worker; a browser that leaves a page gives up those of one page.
const GIVEN_UP_AT_ONCE: u32 = 200;
const GIVEN_UP_EVERY: Duration = Duration::from_millis(100);

/// Why a connection ends that its client keeps open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Connected and asked nothing.
    NoRequest,
    Idle,
    /// A response was ready, and the client did not take it.
    NotTaken,
    /// Requests were reset faster than any honest client does.
    Flood,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRequest => "no request within limits.header_timeout",
            Self::Idle => "no request for too long",
            Self::NotTaken => "the client takes no bytes of a response",
            Self::Flood => "the client resets requests too fast",
        })
    }
}

#[derive(Debug)]
pub(super) struct Traffic {
    state: Mutex<State>,
    flood: Notify,
    activity: Activity,
}

#[derive(Debug)]
struct State {
    /// Requests whose responses have not been taken to the end.
    open: usize,
    begun: bool,
    idle_since: Instant,
    /// How long the connection may be without a request.
    patience: Duration,
    responses: Vec<Weak<Mutex<Pace>>>,
    /// When the requests that were given up so far are forgotten.
    forgiven_at: Instant,
}

/// A request that is being answered; given up, if it is dropped as it is.
#[derive(Debug)]
pub(super) struct Unanswered {
    open: Open,
    _working: InProgress,
    given_up: GivenUp,
}

/// Says that a request was given up when it is dropped, unless it has been answered.
#[derive(Debug)]
struct GivenUp {
    traffic: Arc<Traffic>,
    answered: bool,
}

/// Counts one request until its response was taken, or cannot be any more.
#[derive(Debug)]
struct Open {
    traffic: Arc<Traffic>,
}

/// A response on its way to the client. Its body and each piece of it that waits inside h2 hold it.
#[derive(Debug)]
pub(super) struct Taking {
    _open: Open,
    pace: Arc<Mutex<Pace>>,
}

/// A response's body whose taking is watched.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    taking: Arc<Taking>,
}

/// A piece of such a body; h2 takes bytes off it as the socket takes them.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Held,
    taking: Arc<Taking>,
}

impl Traffic {
    pub(super) fn new(header_timeout: Duration, activity: Activity) -> Self {
        let now = Instant::now();
        let state = State {
            open: 0,
            begun: false,
            idle_since: now,
            patience: header_timeout,
            responses: Vec::new(),
            forgiven_at: now,
        };
        Self { state: Mutex::new(state), flood: Notify::new(), activity }
    }

    pub(super) fn begin(self: &Arc<Self>) -> Unanswered {
        let mut state = self.state.lock();
        if !state.begun {
            state.begun = true;
            state.patience = IDLE_TIMEOUT;
        }
        state.open += 1;
        let given_up = GivenUp { traffic: Arc::clone(self), answered: false };
        Unanswered { open: Open { traffic: Arc::clone(self) }, _working: self.activity.begin(), given_up }
    }

    /// From now on the connection ends soon after it has nothing to do.
    pub(super) fn leave_within(&self, patience: Duration) {
        let mut state = self.state.lock();
        state.patience = patience;
        if state.open == 0 {
            state.idle_since = Instant::now();
        }
    }

    /// Returns when the connection should end.
    pub(super) async fn watch(&self) -> Verdict {
        loop {
            let look_again = match self.state.lock().look(Instant::now()) {
                Ok(at) => at,
                Err(verdict) => return verdict,
            };
            tokio::select! {
                () = sleep_until(look_again) => {}
                () = self.flood.notified() => return Verdict::Flood,
            }
        }
    }

    fn given_up(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.forgiven_at = state.forgiven_at.max(now) + GIVEN_UP_EVERY;
        if state.forgiven_at.duration_since(now) > GIVEN_UP_EVERY * GIVEN_UP_AT_ONCE {
            self.flood.notify_one();
        }
    }
}

impl State {
    /// When to look again, unless it is over.
    fn look(&mut self, now: Instant) -> Result<Instant, Verdict> {
        if self.open == 0 {
            let until = self.idle_since + self.patience;
            return match (until > now, self.begun) {
                (true, _) => Ok(until),
                (false, true) => Err(Verdict::Idle),
                (false, false) => Err(Verdict::NoRequest),
            };
        }
        self.responses.retain(|response| response.strong_count() > 0);
        if self.responses.iter().filter_map(Weak::upgrade).any(|pace| pace.lock().is_late(now)) {
            return Err(Verdict::NotTaken);
        }
        Ok(now + LOOK_EVERY)
    }
}

impl Unanswered {
    /// There is a response; from now on the client has to take it.
    pub(super) fn answered(self) -> Arc<Taking> {
        let Self { open, mut given_up, _working } = self;
        given_up.answered = true;
        let pace = Arc::new(Mutex::new(Pace::new(Instant::now(), IDLE_TIMEOUT)));
        open.traffic.state.lock().responses.push(Arc::downgrade(&pace));
        Arc::new(Taking { _open: open, pace })
    }
}

impl Taking {
    pub(super) fn body<B>(self: Arc<Self>, body: B) -> Watched<B> {
        Watched { body, taking: self }
    }
}

impl<B: Body<Data = Held> + Unpin> Body for Watched<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        let watched = |bytes| Piece { bytes, taking: Arc::clone(&this.taking) };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(watched))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.taking.pace.lock().taken(Instant::now(), count);
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if !self.answered {
            self.traffic.given_up();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.traffic.state.lock();
        state.open -= 1;
        if state.open == 0 {
            state.idle_since = Instant::now();
            state.responses = Vec::new();
        }
    }
}
