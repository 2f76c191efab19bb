//! Runs deliveries: whose turn it is, and how many at once.
//!
//! One task on a thread of its own decides; attempts are tasks beside it. What is pending is in the log, by route and by the time
//! at which it is due. Here is only a window of each route's next ids, so that a backlog of millions takes no memory, and a route whose
//! worker is slow or away holds up no other.

mod queue;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use self::queue::Queue;
use super::attempt::{Courier, Event, Job};
use super::inbox::{Arrival, Inbox};
use super::log::Record;
use super::record::{Delivery, Id, millis, now_ms};
use super::rows::{self, RouteId};
use super::waiting::Waiting;
use crate::admit::InFlight;
use crate::drain::Drain;
use crate::registry::{Handler, Rotation};

/// How many deliveries a replica gets at once, beside its other calls: enough to keep it busy, few enough that a backlog does not
/// bury it when it returns. One that takes fewer calls keeps half of them for others.
const PER_REPLICA: u32 = 32;
/// Ends that are not recorded yet. Beyond them nothing new begins, for the disk is in trouble.
const MOST_UNRECORDED: usize = 4096;
const WINDOW: usize = 256;
/// How soon a route is looked at again whose workers are away or full.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often the log is asked which routes have something that is due. Everything has other ways of being noticed; this one finds
/// what another process appended, and what a clock that was set back hid.
const SURVEY: Duration = Duration::from_secs(5);
const EVENTS: usize = 1024;

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
    groups: HashMap<Arc<str>, u32>,
    calls: u32,
    unrecorded: usize,
    next_survey: Instant,
}

/// What came of an attempt to begin a route's next delivery.
enum Begun {
    Yes,
    /// There is nothing that is due.
    Nothing,
    /// Its workers are away or full, or the gateway is.
    Blocked,
    /// It has its share of this group's workers.
    Held(Arc<str>),
    HeldByAll,
}

impl Engine {
    /// Runs until `drain` begins, then lets what is under way finish for `patience` at most.
    pub(super) async fn run(self, drain: Drain, patience: Duration) {
        let (sender, mut events) = mpsc::channel(EVENTS);
        let mut running = Running {
            engine: self,
            events: sender,
            queues: HashMap::new(),
            turns: VecDeque::new(),
            blocked: Vec::new(),
            look_again: None,
            held: HashMap::new(),
            held_by_all: VecDeque::new(),
            timers: BinaryHeap::new(),
            groups: HashMap::new(),
            calls: 0,
            unrecorded: 0,
            next_survey: Instant::now(),
        };
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
    fn take_arrivals(&mut self) {
        let content = self.engine.inbox.take();
        for arrival in content.arrivals {
            self.arrive(arrival);
        }
        for route in content.routes {
            self.expect_more(route);
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
        if queue.knows(arrival.id) {
            return;
        }
        if wanted || queue.is_idle() {
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

    /// Has the log asked again when something will be due. One reminder for a route is enough: the log knows what follows.
    fn remind(&mut self, route: RouteId, at: i64) {
        let queue = self.queues.entry(route).or_default();
        if queue.next_due.is_none_or(|next| at < next) {
            queue.next_due = Some(at);
            self.timers.push(Reverse((at, route)));
        }
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
                if let Some(calls) = self.groups.get_mut(&group) {
                    *calls -= 1;
                    if *calls == 0 {
                        self.groups.remove(&group);
                    }
                }
                if let Some(queue) = self.queues.get_mut(&route) {
                    queue.calls -= 1;
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

    /// Lets those look again whom a call that ended may have held up: a few of them, for each has calls of its own that end.
    fn let_go(&mut self, group: &Arc<str>) {
        const FEW: usize = 4;
        let mut freed: Vec<RouteId> = Vec::new();
        if let Some(held) = self.held.get_mut(group) {
            freed.extend(held.drain(..held.len().min(FEW)));
            if held.is_empty() {
                self.held.remove(group);
            }
        }
        freed.extend(self.held_by_all.drain(..self.held_by_all.len().min(FEW)));
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
                self.next_survey = Instant::now();
            }
            Command::Pause { until, done } => {
                self.engine.paused = true;
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

    fn next_wake(&self) -> Instant {
        let due = self.timers.peek().map(|Reverse((at, _))| {
            let left = u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0);
            Instant::now() + Duration::from_millis(left)
        });
        [due, self.look_again].into_iter().flatten().fold(self.next_survey, Instant::min)
    }

    fn pass_time(&mut self) {
        let now = now_ms();
        while let Some(Reverse((_, route))) =
            self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.timers.pop();
            if let Some(queue) = self.queues.get_mut(&route) {
                queue.next_due = queue.next_due.filter(|next| *next > now);
            }
            self.expect_more(route);
        }
        if self.look_again.is_some_and(|at| at <= Instant::now()) {
            self.look_again = None;
            for route in std::mem::take(&mut self.blocked) {
                self.look_at_blocked(route);
            }
        }
        if self.next_survey <= Instant::now() {
            self.next_survey = Instant::now() + SURVEY;
            self.engine.waiting.tidy();
            let dispatcher = &self.engine.courier.dispatcher;
            dispatcher.pool.retire(|id| dispatcher.registry.name_of(id).is_ok());
            match rows::survey(&self.engine.reader) {
                Ok(found) => {
                    for (route, due_at) in found {
                        if due_at <= now {
                            self.expect_more(route);
                        } else {
                            self.remind(route, due_at);
                        }
                    }
                }
                Err(error) => error!(%error, "the log of deliveries cannot be read"),
            }
        }
    }

    /// A route whose workers are still away costs no look into the log.
    fn look_at_blocked(&mut self, route: RouteId) {
        let Some(queue) = self.queues.get_mut(&route) else { return };
        queue.drop_unwanted(&self.engine.waiting);
        let too_soon = queue.not_before.is_some_and(|at| at > Instant::now());
        let available = || match &queue.probe {
            Some((path, method)) => {
                self.engine.courier.look_up(path, method, Handler::is_available).unwrap_or(false)
            }
            None => true,
        };
        if too_soon || !available() {
            self.blocked.push(route);
            self.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
        } else {
            self.turns.push_back(route);
        }
    }

    fn begin_what_can(&mut self) {
        if self.engine.paused {
            return;
        }
        while let Some(route) = self.turns.pop_front() {
            let begun = self.begin_next(route);
            let Some(queue) = self.queues.get_mut(&route) else { continue };
            match begun {
                Begun::Yes => {
                    self.turns.push_back(route);
                    continue;
                }
                Begun::Nothing => {
                    queue.waits_elsewhere = false;
                    self.drop_if_done(route);
                    continue;
                }
                Begun::Blocked => {
                    self.blocked.push(route);
                    self.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
                }
                Begun::Held(group) => self.held.entry(group).or_default().push_back(route),
                Begun::HeldByAll => {
                    if self.calls == 0 {
                        // Nothing will end that could let it go.
                        self.blocked.push(route);
                        self.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
                    } else {
                        self.held_by_all.push_back(route);
                    }
                }
            }
            if let Some(queue) = self.queues.get_mut(&route) {
                queue.drop_unwanted(&self.engine.waiting);
            }
        }
    }

    fn begin_next(&mut self, route: RouteId) -> Begun {
        let config = self.engine.courier.config.load_full();
        let Some(queue) = self.queues.get_mut(&route) else { return Begun::Nothing };
        if queue.not_before.is_some_and(|at| at > Instant::now()) {
            return Begun::Blocked;
        }
        queue.not_before = None;
        let most = u32::try_from(config.limits.max_in_flight / 2).unwrap_or(u32::MAX).max(1);
        if self.calls >= most || self.unrecorded >= MOST_UNRECORDED {
            return Begun::HeldByAll;
        }
        let (id, arrival) = match queue.arrived.pop_front() {
            Some(arrival) => (arrival.id, Some(arrival)),
            None => match next_in_window(&self.engine.reader, queue, route) {
                Ok((Some(id), later)) => {
                    if let Some(at) = later {
                        self.remind(route, at);
                    }
                    (id, None)
                }
                Ok((None, later)) => {
                    if let Some(at) = later {
                        self.remind(route, at);
                    }
                    return Begun::Nothing;
                }
                Err(error) => {
                    error!(%error, "the log of deliveries cannot be read");
                    return Begun::Blocked;
                }
            },
        };
        let Some(queue) = self.queues.get_mut(&route) else { return Begun::Nothing };
        let (delivery, attempts, admission) = match arrival {
            Some(arrival) => (arrival.delivery, arrival.attempts, arrival.admission),
            None => match rows::load(&self.engine.reader, id) {
                Ok(Some((delivery, attempts))) => (Arc::new(delivery), attempts, None),
                // Dropped, or settled by another process.
                Ok(None) => return Begun::Yes,
                Err(error) => {
                    error!(delivery = %id, %error, "a delivery cannot be read");
                    queue.window.push_back(id);
                    return Begun::Blocked;
                }
            },
        };
        let (path, method) = (&delivery.raw_path, &delivery.route.method);
        let look =
            |handler: &Handler| (Arc::clone(&handler.group.name), handler.is_available(), room(handler));
        let Some((group, available, room)) = self.engine.courier.look_up(path, method, look) else {
            // Nobody knows the route: it was forgotten, or its worker serves something else now. Others with the same label may fare better.
            queue.probe = None;
            queue.window.push_back(id);
            return Begun::Blocked;
        };
        queue.probe = Some(probe(&delivery));
        let put_back = |queue: &mut Queue| match self.engine.waiting.has_caller(id) {
            true => queue.arrived.push_front(Arrival {
                id,
                route,
                attempts,
                delivery: Arc::clone(&delivery),
                admission: admission.clone(),
                caller: None,
            }),
            false => queue.window.push_front(id),
        };
        if !available {
            put_back(queue);
            return Begun::Blocked;
        }
        let calls = self.groups.get(&group).copied().unwrap_or(0);
        if queue.calls > 0 && queue.calls >= room.saturating_sub(calls) {
            put_back(queue);
            return Begun::Held(group);
        }
        let admission = match admission {
            Some(admission) => admission,
            None => {
                let mut entered = self.engine.in_flight.enter(&config.limits);
                if let Ok(admission) = &mut entered
                    && let Err(error) = admission.reserve(delivery.body.len() as u64)
                {
                    entered = Err(error);
                }
                match entered {
                    Ok(admission) => Arc::new(admission),
                    Err(_) => {
                        put_back(queue);
                        return Begun::Blocked;
                    }
                }
            }
        };
        queue.taken.insert(id);
        queue.calls += 1;
        *self.groups.entry(Arc::clone(&group)).or_default() += 1;
        self.calls += 1;
        self.unrecorded += 1;
        let caller = self.engine.waiting.take(id);
        let job = Job { id, route, group, attempts, delivery, admission, caller };
        tokio::spawn(Arc::clone(&self.engine.courier).run(job, self.events.clone()));
        Begun::Yes
    }
}

/// The next id that is due, read from the log when the window is empty; and when what is not due yet will be, if the log was asked.
fn next_in_window(
    reader: &Connection,
    queue: &mut Queue,
    route: RouteId,
) -> rusqlite::Result<(Option<Id>, Option<i64>)> {
    let mut later = None;
    if queue.window.is_empty() && queue.more {
        queue.more = false;
        let now = now_ms();
        // What is under way stands before what is not.
        let at_most = WINDOW + queue.taken.len() + queue.arrived.len();
        let found = rows::window(reader, route, at_most)?;
        let whole = found.len() < at_most;
        for (id, due_at) in found {
            if due_at > now {
                later = Some(due_at);
                break;
            }
            if !queue.knows(id) {
                queue.window.push_back(id);
            }
        }
        queue.more = !whole && later.is_none();
    }
    Ok((queue.window.pop_front(), later))
}

/// A request of which to ask whether its workers are there.
fn probe(delivery: &Delivery) -> (Box<str>, Method) {
    (delivery.raw_path.as_str().into(), delivery.route.method.clone())
}

/// How many deliveries the handler's workers may have at once.
fn room(handler: &Handler) -> u32 {
    let replicas = handler.offers.iter().map(|offer| &offer.replica);
    replicas
        .filter(|replica| replica.rotation() == Rotation::In)
        .map(|replica| replica.max_concurrency().map_or(PER_REPLICA, |most| (most / 2).clamp(1, PER_REPLICA)))
        .fold(0, u32::saturating_add)
        .max(1)
}

/// When what is under way here may be taken up by somebody else.
pub(super) fn handed_over_until(longest_attempt: Duration) -> i64 {
    now_ms().saturating_add(millis(longest_attempt))
}
