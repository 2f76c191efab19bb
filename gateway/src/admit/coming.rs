//! Requests whose bodies did not come with their heads: at most a share of those in flight, and the slowest make room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::http1::Pace;

/// How far ahead of the least pace a body may get. Its first bytes have this long.
const GRACE: Duration = Duration::from_secs(10);

/// Those that are waited for.
#[derive(Debug, Default)]
pub(super) struct Coming(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    bodies: BTreeMap<u64, Arc<Body>>,
    next: u64,
}

#[derive(Debug)]
struct Body {
    pace: Mutex<Pace>,
    given_up: Notify,
}

/// A body that is waited for until this is dropped.
#[derive(Debug)]
pub struct Expected<'c> {
    coming: &'c Coming,
    number: u64,
    body: Arc<Body>,
}

impl Coming {
    /// One more; of more than `at_most`, the slowest is given up.
    pub(super) fn expect(&self, at_most: usize) -> Expected<'_> {
        let pace = Mutex::new(Pace::new(Instant::now(), GRACE));
        let body = Arc::new(Body { pace, given_up: Notify::new() });
        let mut list = self.0.lock();
        let number = list.next;
        list.next += 1;
        list.bodies.insert(number, Arc::clone(&body));
        if list.bodies.len() > at_most {
            list.give_up(None);
        }
        drop(list);
        Expected { coming: self, number, body }
    }

    /// Gives up the slowest body, if it is slow.
    pub(super) fn give_up_a_slow_one(&self) {
        self.0.lock().give_up(Some(Instant::now() + GRACE / 2));
    }
}

impl List {
    /// Gives up the body that would be too slow the soonest, if that is before `at_the_latest`.
    fn give_up(&mut self, at_the_latest: Option<Instant>) {
        let due = self.bodies.iter().map(|(number, body)| (body.pace.lock().due(), *number));
        let slowest = due.min().filter(|(due, _)| at_the_latest.is_none_or(|latest| *due < latest));
        if let Some(body) = slowest.and_then(|(_, number)| self.bodies.remove(&number)) {
            body.given_up.notify_one();
        }
    }
}

impl Expected<'_> {
    /// Notes that so many bytes have come.
    pub fn came(&self, bytes: usize) {
        self.body.pace.lock().taken(Instant::now(), bytes);
    }

    /// Returns once the body is to be waited for no longer.
    pub async fn given_up(&self) {
        self.body.given_up.notified().await;
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.coming.0.lock().bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_given_up(expected: &Expected<'_>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), expected.given_up()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_makes_room() {
        let coming = Coming::default();
        let expected: Vec<Expected<'_>> = (0..3).map(|_| coming.expect(3)).collect();
        tokio::time::advance(Duration::from_secs(5)).await;
        expected[0].came(1 << 20);
        expected[1].came(100);
        expected[2].came(1 << 20);
        let newcomer = coming.expect(3);
        assert!(is_given_up(&expected[1]).await);
        for other in [&expected[0], &expected[2], &newcomer] {
            assert!(!is_given_up(other).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_pace_is_not_slow() {
        let coming = Coming::default();
        let [steady, silent] = [coming.expect(9), coming.expect(9)];
        coming.give_up_a_slow_one();
        tokio::time::advance(Duration::from_secs(6)).await;
        steady.came(1 << 20);
        coming.give_up_a_slow_one();
        coming.give_up_a_slow_one();
        assert!(is_given_up(&silent).await);
        assert!(!is_given_up(&steady).await);
    }
}
