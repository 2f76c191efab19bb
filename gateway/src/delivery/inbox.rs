//! What the log hands to the engine: the deliveries that were just kept, so that they need not be read back.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Caller;
use super::record::{Delivery, Id};
use super::rows::RouteId;
use crate::admit::Admission;

/// An engine that is behind finds the rest in the log.
const ROOM: usize = 1024;

/// A delivery that is on disk and due.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) id: Id,
    pub(super) route: RouteId,
    /// How often it was attempted before.
    pub(super) attempts: u32,
    pub(super) delivery: Arc<Delivery>,
    pub(super) admission: Option<Arc<Admission>>,
    /// Who waits for the worker's answer.
    pub(super) caller: Option<Caller>,
    /// Its share of what the engine may have at hand, while it is among it.
    pub(super) share: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    content: Mutex<Content>,
    filled: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) arrivals: Vec<Arrival>,
    /// Routes that have more than is in `arrivals`.
    pub(super) routes: HashSet<RouteId>,
    /// Deliveries that are to run no more.
    pub(super) removed: Vec<Id>,
}

impl Inbox {
    pub(super) fn put(&self, arrivals: impl Iterator<Item = Arrival>) {
        let was_empty = {
            let mut content = self.content.lock();
            let was_empty = content.arrivals.is_empty() && content.routes.is_empty();
            for arrival in arrivals {
                if content.arrivals.len() < ROOM {
                    content.arrivals.push(arrival);
                } else {
                    content.routes.insert(arrival.route);
                }
            }
            was_empty
        };
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// Says that a route has something that is due.
    pub(super) fn look_at(&self, route: RouteId) {
        self.content.lock().routes.insert(route);
        self.filled.notify_one();
    }

    /// Says that a delivery is to run no more.
    pub(super) fn remove(&self, id: Id) {
        self.content.lock().removed.push(id);
        self.filled.notify_one();
    }

    pub(super) fn take(&self) -> Content {
        mem::take(&mut self.content.lock())
    }

    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}
