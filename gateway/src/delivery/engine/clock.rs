//! What time brings: deliveries that become due, workers that may be back, and what nobody spoke of.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use tracing::error;

use super::Running;
use super::turns::WINDOW;
use crate::delivery::record::{Id, RouteName, now_ms};
use crate::delivery::rows::{self, RouteId};
use crate::registry::Handler;

/// How soon a route is looked at again whose workers are away or full.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How often the log is asked which routes have something that is due. Everything has other ways of being noticed; this one finds
/// what another process appended, and what a clock that was set back hid.
const SURVEY: Duration = Duration::from_secs(5);
/// How many deliveries are looked at with each survey that stand behind another one.
const PASSED: usize = 16 * WINDOW;

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
            self.pass_blocked();
        }
    }

    /// What keeps a route's first delivery may not keep those behind it: paths that one handler had may be those of several by now. Looks at
    /// the next few behind the first of each route that is blocked, and lets those go before it that can.
    fn pass_blocked(&mut self) {
        let mut left = PASSED;
        let mut looked_at = Vec::new();
        let mut blocked = std::mem::take(&mut self.blocked).into_iter();
        while left > 0
            && let Some(route) = blocked.next()
        {
            match self.pass_first(route, &mut left) {
                Ok(true) => self.turns.push_back(route),
                Ok(false) => looked_at.push(route),
                Err(error) => {
                    error!(%error, "the log of deliveries cannot be read");
                    looked_at.push(route);
                }
            }
        }
        // Those for whom nothing was left are the first ones next time.
        self.blocked = blocked.chain(looked_at).collect();
    }

    /// Whether something can go before the route's first delivery.
    fn pass_first(&mut self, route: RouteId, left: &mut usize) -> rusqlite::Result<bool> {
        let Some(queue) = self.queues.get_mut(&route) else { return Ok(false) };
        if queue.not_before.is_some_and(|at| at > Instant::now()) {
            return Ok(false);
        }
        let at_most = WINDOW.min(*left);
        // The look itself costs something too.
        *left -= 1;
        let Some(name) = rows::name_of(&self.engine.reader, route)?.filter(RouteName::has_many_paths) else {
            return Ok(false);
        };
        let found = rows::paths(&self.engine.reader, route, queue.passed, now_ms(), at_most)?;
        *left = left.saturating_sub(found.len());
        queue.passed = found.last().filter(|_| found.len() == at_most).map(|(id, due_at, _)| (*due_at, *id));
        let courier = &self.engine.courier;
        let mut can_go: Vec<Id> = found
            .into_iter()
            .filter(|(id, _, path)| {
                !queue.taken.contains(id)
                    && courier.look_up(path, &name.method, Handler::is_available) == Some(true)
            })
            .map(|(id, _, _)| id)
            .collect();
        can_go.retain(|id| !queue.arrived.iter().any(|arrival| arrival.id == *id));
        queue.window.retain(|id| !can_go.contains(id));
        let is_some = !can_go.is_empty();
        can_go.into_iter().rev().for_each(|id| queue.window.push_front(id));
        Ok(is_some)
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
