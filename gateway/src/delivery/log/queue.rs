//! What waits to be written, and what of it is written together.
//!
//! Senders that wait for the disk send again once they are answered. A group that is written as soon as somebody waits leaves half of
//! them to the next one, so that each would wait for two syncs; it is worth a fraction of a sync to let them come.

use std::mem;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Answer, Append, Done, Record};

/// How long what records the past waits for a request to share a sync with, and how much of it waits no longer.
const COMPANY: Duration = Duration::from_millis(10);
const ENOUGH: usize = 512;
/// How many requests may wait for a sync. Those beyond it would wait for seconds.
pub(super) const QUEUE: usize = 4096;
/// A slow disk is not made much slower.
const LONGEST_GATHERING: Duration = Duration::from_millis(10);

/// What is committed together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) appends: Vec<Append>,
    pub(super) records: Vec<(Record, Answer<Done>)>,
}

impl Group {
    /// Brings the ends of attempts into the order of their deliveries: rows that lie together are written together, and new ones
    /// go to the end of their tables.
    pub(super) fn sort(&mut self) {
        let are_ends = self.records.iter().all(|(record, _)| matches!(record, Record::Settle(_)));
        if are_ends {
            self.records.sort_by_key(|(record, _)| match record {
                Record::Settle(settlement) => Some(settlement.id),
                _ => None,
            });
        }
    }
}

/// Why something cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Closed,
    Full,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Content {
    group: Group,
    /// When the first of the group's records came.
    since: Option<Instant>,
    urgent: bool,
    closed: bool,
    /// The writer sleeps until so many requests wait.
    awaited: usize,
}

/// What the last groups tell of the next.
#[derive(Debug)]
pub(super) struct Pace {
    /// How many requests were answered last, and when.
    answered: usize,
    at: Instant,
    /// About what a commit takes.
    commit: Duration,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { answered: 0, at: Instant::now(), commit: Duration::ZERO }
    }

    /// Learns from a commit of so many requests that took so long.
    pub(super) fn learn(&mut self, requests: usize, took: Duration) {
        self.commit = if self.commit.is_zero() { took } else { (self.commit * 3 + took) / 4 };
        if requests > 0 {
            self.answered = requests;
            self.at = Instant::now();
        }
    }

    /// As long as half a commit, and only for those who were answered within the last one: others may never send again.
    fn patience(&self, expected: usize, now: Instant) -> Option<Patience> {
        if now.saturating_duration_since(self.at) > self.commit {
            return None;
        }
        let until = now + (self.commit / 2).min(LONGEST_GATHERING);
        Some(Patience { expected, until, pause: (self.commit / 4).min(LONGEST_GATHERING) })
    }
}

/// For whom a group is held open, and how long.
#[derive(Debug, PartialEq, Eq)]
struct Patience {
    /// Nobody else is expected once so many requests wait.
    expected: usize,
    until: Instant,
    /// A pause in which nobody comes ends it.
    pause: Duration,
}

impl Queue {
    pub(super) fn append(&self, append: Append) -> Result<(), Refused> {
        let is_awaited = {
            let mut content = self.content.lock();
            if content.closed {
                return Err(Refused::Closed);
            }
            if content.group.appends.len() >= QUEUE {
                return Err(Refused::Full);
            }
            content.group.appends.push(append);
            content.group.appends.len() >= content.awaited
        };
        if is_awaited {
            self.changed.notify_one();
        }
        Ok(())
    }

    pub(super) fn record(&self, record: Record, answer: Answer<Done>) -> Result<(), Refused> {
        let is_awaited = {
            let mut content = self.content.lock();
            if content.closed {
                return Err(Refused::Closed);
            }
            let is_urgent = !matches!(record, Record::Settle(_));
            content.urgent |= is_urgent;
            content.since.get_or_insert_with(Instant::now);
            content.group.records.push((record, answer));
            is_urgent || matches!(content.group.records.len(), 1 | ENOUGH)
        };
        if is_awaited {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Takes nothing more.
    pub(super) fn close(&self) {
        self.content.lock().closed = true;
        self.changed.notify_one();
    }

    /// Takes nothing more, and yields what nobody will write.
    pub(super) fn give_up(&self) -> Group {
        let mut content = self.content.lock();
        content.closed = true;
        mem::take(&mut content.group)
    }

    /// Waits for what is to be written next; [`None`] when there will be nothing more.
    pub(super) fn next(&self, pace: &Pace) -> Option<Group> {
        let mut content = self.content.lock();
        // Those who wait already, and those who were just answered.
        let expected = content.group.appends.len() + pace.answered;
        loop {
            if !content.group.appends.is_empty() {
                if let Some(patience) = pace.patience(expected, Instant::now()) {
                    self.gather(&mut content, &patience);
                }
                return Some(content.take());
            }
            if content.cannot_wait(Instant::now()) {
                return Some(content.take());
            }
            if content.closed {
                return None;
            }
            content.awaited = 1;
            match content.alone_until() {
                Some(until) => drop(self.changed.wait_until(&mut content, until)),
                None => self.changed.wait(&mut content),
            }
        }
    }

    /// Lets more requests come, as long as they do.
    fn gather(&self, content: &mut MutexGuard<'_, Content>, patience: &Patience) {
        content.awaited = patience.expected;
        while content.group.appends.len() < patience.expected && !content.closed {
            let before = content.group.appends.len();
            let slept = self.changed.wait_for(content, patience.pause);
            let nobody_came = slept.timed_out() && content.group.appends.len() == before;
            if nobody_came || patience.until <= Instant::now() {
                break;
            }
        }
    }
}

impl Content {
    /// Until when records wait for a request.
    fn alone_until(&self) -> Option<Instant> {
        self.since.map(|since| since + COMPANY)
    }

    /// Whether the records are to be written without one.
    fn cannot_wait(&self, now: Instant) -> bool {
        self.urgent
            || self.group.records.len() >= ENOUGH
            || (self.closed && !self.group.records.is_empty())
            || self.alone_until().is_some_and(|until| until <= now)
    }

    fn take(&mut self) -> Group {
        self.since = None;
        self.urgent = false;
        self.awaited = 0;
        mem::take(&mut self.group)
    }
}

#[cfg(test)]
mod tests;
