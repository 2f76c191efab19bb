use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use http::Method;

use super::super::inbox::Arrival;
use super::super::record::Id;
use super::super::waiting::Waiting;

/// What is known here of a route's pending deliveries.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Just kept, with everything that a call needs: those whose senders wait, and others as long as there is room for them.
    pub(super) arrived: VecDeque<Arrival>,
    /// Due, to be read from the log.
    pub(super) window: VecDeque<Id>,
    /// Whether the log may have more that is due than the window.
    pub(super) more: bool,
    /// Under way, or ended and not recorded yet.
    pub(super) taken: HashSet<Id>,
    /// Those of them that workers have.
    pub(super) calls: Calls,
    /// When what is not due yet will be, as far as somebody is to be reminded of it.
    pub(super) next_due: Option<i64>,
    /// A request of which to ask whether its workers are there.
    pub(super) probe: Option<(Box<str>, Method)>,
    /// The workers were there, and asked to be left alone for a while.
    pub(super) not_before: Option<Instant>,
    /// How far those were looked at that stand behind one which is blocked: when the last of them was due, and its id.
    pub(super) passed: Option<(i64, Id)>,
    /// The route is among the turns, the blocked or the held.
    pub(super) waits_elsewhere: bool,
}

impl Queue {
    /// Whether it is at hand or under way.
    pub(super) fn knows(&self, id: Id) -> bool {
        self.taken.contains(&id)
            || self.window.contains(&id)
            || self.arrived.iter().any(|arrival| arrival.id == id)
    }

    /// Whether the window shows it, or it is under way.
    pub(super) fn has_begun_or_shows(&self, id: Id) -> bool {
        self.taken.contains(&id) || self.window.contains(&id)
    }

    /// Whether what arrives now would be the next.
    pub(super) fn is_idle(&self) -> bool {
        self.arrived.is_empty() && self.window.is_empty() && !self.more
    }

    /// The next of what just arrived, unless the log has shown older ones: those are passed only by what somebody waits for.
    pub(super) fn next_arrived(&mut self, waiting: &Waiting) -> Option<Arrival> {
        let first = self.arrived.front()?;
        if !self.window.is_empty() && !waiting.has_caller(first.id) {
            return None;
        }
        self.arrived.pop_front()
    }

    /// Leaves everything to the log, for somebody else may take it up.
    pub(super) fn forget_content(&mut self) {
        self.more |= !self.arrived.is_empty();
        self.arrived.clear();
    }

    /// Whether nothing is left to remember.
    pub(super) fn is_done(&self) -> bool {
        self.is_idle() && self.taken.is_empty() && self.calls.is_empty() && self.next_due.is_none()
    }

    /// What waits here for its turn keeps nobody else out, unless its sender waits too.
    pub(super) fn leave_no_admission(&mut self, waiting: &Waiting) {
        for arrival in self.arrived.iter_mut().filter(|arrival| arrival.admission.is_some()) {
            if !waiting.has_caller(arrival.id) {
                arrival.admission = None;
            }
        }
    }

    /// Gives up the content of what nobody waits for: the log has it, and its turn may be long in coming.
    pub(super) fn drop_unwanted(&mut self, waiting: &Waiting) {
        let before = self.arrived.len();
        self.arrived.retain(|arrival| waiting.has_caller(arrival.id));
        self.more |= self.arrived.len() < before;
    }
}

/// Calls that have not ended, by the group whose workers have them.
#[derive(Debug, Default)]
pub(super) struct Calls(HashMap<Arc<str>, u32>);

impl Calls {
    pub(super) fn of(&self, group: &Arc<str>) -> u32 {
        self.0.get(group).copied().unwrap_or(0)
    }

    pub(super) fn of_all(&self) -> u32 {
        self.0.values().sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn begin(&mut self, group: &Arc<str>) {
        *self.0.entry(Arc::clone(group)).or_default() += 1;
    }

    pub(super) fn end(&mut self, group: &Arc<str>) {
        if let Some(calls) = self.0.get_mut(group) {
            *calls -= 1;
            if *calls == 0 {
                self.0.remove(group);
            }
        }
    }
}
