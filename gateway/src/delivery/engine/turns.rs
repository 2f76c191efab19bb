//! Whose turn it is: which delivery begins next, and what keeps others waiting.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use http::Method;
use rusqlite::Connection;
use tokio::sync::OwnedSemaphorePermit;
use tracing::error;

use super::Running;
use super::clock::LOOK_AGAIN;
use super::queue::Queue;
use crate::delivery::attempt::Job;
use crate::delivery::inbox::Arrival;
use crate::delivery::record::{Delivery, Id, now_ms};
use crate::delivery::rows::{self, RouteId};
use crate::registry::{Handler, Rotation};

/// How many deliveries a replica gets at once, beside its other calls: enough to keep it busy, few enough that a backlog does not
/// bury it when it returns. One that takes fewer calls keeps half of them for others.
const PER_REPLICA: u32 = 32;
/// Ends that are not recorded yet. Beyond them nothing new begins, for the disk is in trouble.
const MOST_UNRECORDED: usize = 4096;
pub(super) const WINDOW: usize = 256;

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

impl Running {
    pub(super) fn begin_what_can(&mut self) {
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
                // Calls that end let these go, and that is soon.
                Begun::Held(group) => self.held.entry(group).or_default().push_back(route),
                Begun::HeldByAll if self.calls > 0 => {
                    queue.leave_no_admission(&self.engine.waiting);
                    self.held_by_all.push_back(route);
                }
                Begun::Blocked | Begun::HeldByAll => {
                    queue.drop_unwanted(&self.engine.waiting);
                    self.blocked.push(route);
                    self.look_again.get_or_insert(Instant::now() + LOOK_AGAIN);
                }
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
        // As among the routes of one group, none has more than what is left to others.
        let (calls, left) = (queue.calls.of_all(), most.saturating_sub(self.calls));
        if left == 0 || (calls > 0 && calls >= left) || self.unrecorded >= MOST_UNRECORDED {
            return Begun::HeldByAll;
        }
        let (id, arrival) = match queue.next_arrived(&self.engine.waiting) {
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
        let (delivery, attempts, admission, share) = match arrival {
            Some(arrival) => (arrival.delivery, arrival.attempts, arrival.admission, arrival.share),
            None => match rows::load(&self.engine.reader, id) {
                Ok(Some((delivery, attempts))) => (Arc::new(delivery), attempts, None, None),
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
            // Nobody knows the route: it was forgotten, or its worker serves something else now. Others with the same label may fare better,
            // and are looked for with the next survey.
            queue.probe = Some(probe(&delivery));
            queue.window.push_front(id);
            return Begun::Blocked;
        };
        queue.probe = Some(probe(&delivery));
        let put_back = |queue: &mut Queue, share: Option<OwnedSemaphorePermit>| {
            let wanted = self.engine.waiting.has_caller(id);
            if share.is_none() && !wanted {
                return queue.window.push_front(id);
            }
            let (delivery, admission) = (Arc::clone(&delivery), admission.clone().filter(|_| wanted));
            queue.arrived.push_front(Arrival {
                id,
                route,
                attempts,
                delivery,
                admission,
                caller: None,
                share,
            });
        };
        if !available {
            put_back(queue, share);
            return Begun::Blocked;
        }
        // Calls that another group's workers still have, because the path was theirs, take nothing from this one.
        let calls = queue.calls.of(&group);
        if calls > 0 && calls >= room.saturating_sub(self.groups.of(&group)) {
            put_back(queue, share);
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
                        put_back(queue, share);
                        return Begun::Blocked;
                    }
                }
            }
        };
        queue.taken.insert(id);
        queue.calls.begin(&group);
        self.groups.begin(&group);
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
        let arrived: HashSet<Id> = queue.arrived.iter().map(|arrival| arrival.id).collect();
        for (id, due_at) in found {
            if due_at > now {
                later = Some(due_at);
                break;
            }
            if !queue.taken.contains(&id) && !arrived.contains(&id) {
                queue.window.push_back(id);
            }
        }
        queue.more = !whole && later.is_none();
    }
    Ok((queue.window.pop_front(), later))
}

/// A request of which to ask whether its workers are there.
pub(super) fn probe(delivery: &Delivery) -> (Box<str>, Method) {
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
