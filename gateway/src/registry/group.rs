use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::replica::{Replica, Rotation};
use crate::dispatch::RetryBudget;

/// How long after the loss of its last worker requests still wait for a name's next one. Contract section 6.
const PARKING_SPELL: Duration = Duration::from_secs(30);

/// The replicas of one worker name, and the requests that wait for one of them.
#[derive(Debug)]
pub struct Group {
    pub name: Arc<str>,
    /// How often calls may be sent again.
    pub retries: RetryBudget,
    state: Mutex<State>,
    changed: Notify,
    parked: AtomicUsize,
}

#[derive(Debug)]
struct State {
    members: Vec<Arc<Replica>>,
    /// Since when no member is in rotation.
    absent_since: Option<Instant>,
}

/// Why a request may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoParking {
    /// The name has been without a worker for too long to expect one soon.
    LongGone,
    /// As many requests as may wait do so already.
    Full,
    /// It waited, and nobody came.
    NobodyCame,
}

impl Group {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            retries: RetryBudget::default(),
            state: Mutex::new(State { members: Vec::new(), absent_since: Some(Instant::now()) }),
            changed: Notify::new(),
            parked: AtomicUsize::new(0),
        }
    }

    pub(super) fn join(&self, replica: Arc<Replica>) {
        self.state.lock().members.push(replica);
        self.rotation_changed();
    }

    pub(super) fn leave(&self, id: &str) {
        self.state.lock().members.retain(|member| &*member.id != id);
        self.rotation_changed();
    }

    /// To be called after every change of a member's rotation, so that whoever waits looks again.
    pub(super) fn rotation_changed(&self) {
        {
            let mut state = self.state.lock();
            let present = state.members.iter().any(|member| member.rotation() == Rotation::In);
            state.absent_since = match (present, state.absent_since) {
                (true, _) => None,
                (false, since) => since.or_else(|| Some(Instant::now())),
            };
        }
        self.changed.notify_waiters();
    }

    /// Lets one waiting request look again: a full replica has room.
    pub(super) fn wake_one(&self) {
        if self.parked.load(Ordering::SeqCst) > 0 {
            self.changed.notify_one();
        }
    }

    #[must_use]
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Waits until `ready` says so, for `patience` at most, along with no more than `at_most` others. `lost_at` is when the
    /// last replica went that offered what is waited for, if none does now.
    ///
    /// # Errors
    /// When the request may not wait, or waited in vain.
    pub async fn park(
        &self,
        lost_at: Option<SystemTime>,
        at_most: usize,
        patience: Duration,
        ready: impl Fn() -> bool,
    ) -> Result<(), NoParking> {
        let long_gone = match self.state.lock().absent_since {
            Some(since) => since.elapsed() > PARKING_SPELL,
            // The name's workers are there, and have not offered it for so long.
            None => {
                lost_at.and_then(|lost_at| lost_at.elapsed().ok()).is_some_and(|gone| gone > PARKING_SPELL)
            }
        };
        if long_gone {
            return Err(NoParking::LongGone);
        }
        let _parked = Parked::enter(&self.parked, at_most).ok_or(NoParking::Full)?;
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Listening begins before the look, so that a change between the two is not missed.
                changed.as_mut().enable();
                if ready() {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| NoParking::NobodyCame)?;
        // There may be room for more than this one, which may yet be refused or slow to send its body.
        self.wake_one();
        Ok(())
    }
}

struct Parked<'a>(&'a AtomicUsize);

impl<'a> Parked<'a> {
    fn enter(count: &'a AtomicUsize, at_most: usize) -> Option<Self> {
        count
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < at_most).then_some(n + 1))
            .ok()
            .map(|_| Self(count))
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
