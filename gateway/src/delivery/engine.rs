//! Runs deliveries: whose turn it is, and how many at once.
//!
//! One task on a thread of its own decides; attempts are tasks beside it. What is pending is in the log, by route and by the time
//! at which it is due. Here is only a window of each route's next ids, and a bounded number of deliveries that were just kept and so
//! need not be read, so that a backlog of millions takes no memory, and a route whose worker is slow or away holds up no other.

mod clock;
mod queue;
mod turns;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tracing::{error, info};

use self::queue::{Calls, Queue};
use self::turns::probe;
use super::attempt::{Courier, Event};
use super::inbox::{Arrival, Inbox};
use super::log::Record;
use super::record::{Delivery, Id, millis, now_ms};
use super::rows::RouteId;
use super::waiting::Waiting;
use crate::admit::InFlight;
use crate::drain::Drain;

const EVENTS: usize = 1024;
/// What may be at hand of deliveries whose turn has not come, in KiB and for one route. The rest is read from the log in time.
const AT_HAND: u32 = 8 << 10;
const AT_HAND_OF_A_ROUTE: usize = 1024;

/// What the engine is told from outside.
#[derive(Debug)]
pub(super) enum Command {
    /// Begin nothing, and let another process see what is under way as due only after `until` (milliseconds since 1970).
    Pause {
        until: i64,
        done: oneshot::Sender<()>,
    },
    Resume,
}

pub(super) struct Engine {
    pub(super) courier: Arc<Courier>,
    pub(super) reader: Connection,
    pub(super) inbox: Arc<Inbox>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) waiting: Arc<Waiting>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) paused: bool,
}

/// The engine at work.
struct Running {
    engine: Engine,
    events: mpsc::Sender<Event>,
    queues: HashMap<RouteId, Queue>,
    /// KiB of [`AT_HAND`] that are left.
    at_hand: Arc<Semaphore>,
    /// Routes that may have something to begin, in turn.
    turns: VecDeque<RouteId>,
    /// Routes whose workers are away or full, to be looked at again.
    blocked: Vec<RouteId>,
    look_again: Option<Instant>,
    /// Routes that have their share of their group's workers, or for whom there is no room at all.
    held: HashMap<Arc<str>, VecDeque<RouteId>>,
    held_by_all: VecDeque<RouteId>,
    /// When routes have something that is due later.
    timers: BinaryHeap<Reverse<(i64, RouteId)>>,
    /// Deliveries that a group's workers have.
    groups: Calls,
    calls: u32,
    unrecorded: usize,
    next_survey: Instant,
}

impl Engine {
    /// Runs until `drain` begins, then lets what is under way finish for `patience` at most.
    pub(super) async fn run(self, drain: Drain, patience: Duration) {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let mut running = Running::new(self, sender);
        let inbox = Arc::clone(&running.engine.inbox);
        let mut last_moment: Option<Instant> = None;
        loop {
            if last_moment.is_none() && drain.has_begun() {
                last_moment = Some(Instant::now() + patience);
                running.engine.paused = true;
            }
            if let Some(last_moment) = last_moment
                && (running.unrecorded == 0 || last_moment <= Instant::now())
            {
                return;
            }
            running.begin_what_can();
            let wake = running.next_wake().min(last_moment.unwrap_or(running.next_survey));
            tokio::select! {
                Some(event) = events.recv() => {
                    // The inbox first: what was recorded meanwhile was put there before.
                    running.take_arrivals();
                    running.hear(event);
                    while let Ok(event) = events.try_recv() {
                        running.hear(event);
                    }
                }
                Some(command) = running.engine.commands.recv() => running.obey(command),
                () = inbox.filled() => running.take_arrivals(),
                () = tokio::time::sleep_until(wake.into()) => running.pass_time(),
                () = drain.begun(), if last_moment.is_none() => {}
            }
        }
    }
}

impl Running {
    fn new(engine: Engine, events: mpsc::Sender<Event>) -> Self {
        Self {
            engine,
            events,
            queues: HashMap::new(),
            at_hand: Arc::new(Semaphore::new(AT_HAND as usize)),
            turns: VecDeque::new(),
            blocked: Vec::new(),
            look_again: None,
            held: HashMap::new(),
            held_by_all: VecDeque::new(),
            timers: BinaryHeap::new(),
            groups: Calls::default(),
            calls: 0,
            unrecorded: 0,
            next_survey: Instant::now(),
        }
    }

    fn take_arrivals(&mut self) {
        let content = self.engine.inbox.take();
        for arrival in content.arrivals {
            self.arrive(arrival);
        }
        for route in content.routes {
            self.expect_more(route);
        }
        for id in content.removed {
            self.queues.values_mut().for_each(|queue| queue.arrived.retain(|arrival| arrival.id != id));
        }
    }

    fn arrive(&mut self, mut arrival: Arrival) {
        let caller = arrival.caller.take();
        let wanted = caller.is_some();
        if let Some(caller) = caller {
            self.engine.waiting.keep(arrival.id, caller);
        }
        let route = arrival.route;
        let queue = self.queues.entry(route).or_default();
        // The window may have shown it already.
        if queue.has_begun_or_shows(arrival.id) {
            return;
        }
        if !wanted && !queue.is_idle() {
            // Its request was answered: what waits here is to keep no other out.
            arrival.admission = None;
        }
        // Somebody else may take it up while this engine is paused.
        let is_room = !self.engine.paused && !queue.more && queue.arrived.len() < AT_HAND_OF_A_ROUTE;
        let size = is_room.then(|| size_at_hand(&arrival.delivery));
        arrival.share = size.and_then(|size| Arc::clone(&self.at_hand).try_acquire_many_owned(size).ok());
        if wanted || arrival.share.is_some() {
            queue.arrived.push_back(arrival);
        } else {
            queue.more = true;
        }
        self.give_turn(route);
    }

    /// Has the log asked for what the route has that is due.
    fn expect_more(&mut self, route: RouteId) {
        self.queues.entry(route).or_default().more = true;
        self.give_turn(route);
    }

    fn give_turn(&mut self, route: RouteId) {
        let Some(queue) = self.queues.get_mut(&route) else { return };
        if !queue.waits_elsewhere {
            queue.waits_elsewhere = true;
            self.turns.push_back(route);
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Free { route, group } => {
                self.calls = self.calls.saturating_sub(1);
                self.groups.end(&group);
                if let Some(queue) = self.queues.get_mut(&route) {
                    queue.calls.end(&group);
                }
                self.let_go(&group);
            }
            Event::Recorded { route, id, due_at } => {
                self.unrecorded = self.unrecorded.saturating_sub(1);
                if let Some(queue) = self.queues.get_mut(&route) {
                    queue.taken.remove(&id);
                }
                if let Some(at) = due_at {
                    self.remind(route, at);
                }
                self.give_turn(route);
                self.drop_if_done(route);
            }
            Event::NotRun { mut arrival, pause } => {
                self.unrecorded = self.unrecorded.saturating_sub(1);
                let (id, route) = (arrival.id, arrival.route);
                let caller = arrival.caller.take();
                let wanted = caller.is_some();
                if let Some(caller) = caller {
                    self.engine.waiting.keep(id, caller);
                }
                let queue = self.queues.entry(route).or_default();
                queue.taken.remove(&id);
                queue.probe = Some(probe(&arrival.delivery));
                queue.not_before = Some(Instant::now() + pause);
                if wanted {
                    queue.arrived.push_front(arrival);
                } else {
                    queue.window.push_front(id);
                }
                self.give_turn(route);
            }
        }
    }

    /// Lets those look again whom a call that ended may have held up: a few of them, for each has calls of its own that end. After the
    /// last call no other end would let them go.
    fn let_go(&mut self, group: &Arc<str>) {
        const FEW: usize = 4;
        let mut freed: Vec<RouteId> = Vec::new();
        if let Some(held) = self.held.get_mut(group) {
            let at_most = if self.groups.of(group) > 0 { FEW } else { usize::MAX };
            freed.extend(held.drain(..held.len().min(at_most)));
            if held.is_empty() {
                self.held.remove(group);
            }
        }
        let at_most = if self.calls > 0 { FEW } else { usize::MAX };
        freed.extend(self.held_by_all.drain(..self.held_by_all.len().min(at_most)));
        self.turns.extend(freed);
    }

    fn drop_if_done(&mut self, route: RouteId) {
        if self.queues.get(&route).is_some_and(|queue| queue.is_done() && !queue.waits_elsewhere) {
            self.queues.remove(&route);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Resume => {
                self.engine.paused = false;
                self.queues.values_mut().for_each(Queue::forget_content);
                self.next_survey = Instant::now();
            }
            Command::Pause { until, done } => {
                self.engine.paused = true;
                self.queues.values_mut().for_each(Queue::forget_content);
                let taken: Vec<Id> =
                    self.queues.values().flat_map(|queue| queue.taken.iter().copied()).collect();
                info!(under_way = taken.len(), "deliveries are paused");
                let log = self.engine.courier.log.clone();
                tokio::spawn(async move {
                    if !taken.is_empty()
                        && let Err(error) = log.record(Record::Postpone(taken, until)).await
                    {
                        error!(%error, "another process may repeat what is under way here");
                    }
                    // Whoever asked may have given up waiting.
                    done.send(()).ok();
                });
            }
        }
    }
}

/// In KiB; what is larger than all the room takes all of it.
fn size_at_hand(delivery: &Delivery) -> u32 {
    let size = 1 + (delivery.body.len() + delivery.headers.0.len()) / 1024;
    u32::try_from(size).unwrap_or(u32::MAX).min(AT_HAND)
}

/// When what is under way here may be taken up by somebody else.
pub(super) fn handed_over_until(longest_attempt: Duration) -> i64 {
    now_ms().saturating_add(millis(longest_attempt))
}

#[cfg(test)]
mod tests;
