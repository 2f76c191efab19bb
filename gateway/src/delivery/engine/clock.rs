//! What time brings: deliveries that become due, workers that may be back, and what nobody spoke of.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use tracing::error;

use super::Running;
use crate::delivery::record::now_ms;
use crate::delivery::rows::{self, RouteId};
use crate::registry::Handler;

/// How soon a route is looked at again whose workers are away or full.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often the log is asked which routes have something that is due. Everything has other ways of being noticed; this one finds
/// what another process appended, and what a clock that was set back hid.
const SURVEY: Duration = Duration::from_secs(5);

impl Running {
    /// Has the log asked again when something will be due. One reminder for a route is enough: the log knows what follows.
    pub(super) fn remind(&mut self, route: RouteId, at: i64) {
        let queue = self.queues.entry(route).or_default();
        if queue.next_due.is_none_or(|next| at < next) {
            queue.next_due = Some(at);
            self.timers.push(Reverse((at, route)));
        }
    }

    pub(super) fn next_wake(&self) -> Instant {
        let due = self.timers.peek().map(|Reverse((at, _))| {
            let left = u64::try_from(at.saturating_sub(now_ms())).unwrap_or(0);
            Instant::now() + Duration::from_millis(left)
        });
        [due, self.look_again].into_iter().flatten().fold(self.next_survey, Instant::min)
    }

    pub(super) fn pass_time(&mut self) {
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
                    for (route, first, due_at) in found {
                        // What is known stands before what nobody spoke of, which is found when it is the first.
                        if due_at <= now && !self.queues.get(&route).is_some_and(|queue| queue.knows(first)) {
                            self.expect_more(route);
                        } else if due_at > now {
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
}
