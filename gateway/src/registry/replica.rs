use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method};

use super::claim::ClaimedHandler;
use super::group::Group;
use super::packed::PackedRegistration;
use crate::config::Secret;
use crate::dialect::Dialect;
use crate::route::Shape;
use crate::upstream::{CallHead, WorkerUrl};

/// One worker process as the gateway knows it. A replica is never changed into another: a worker that registers
/// again gets a new one, and calls in flight keep the old one.
pub struct Replica {
    pub id: Arc<str>,
    pub group: Arc<Group>,
    pub url: WorkerUrl,
    pub dialect: Dialect,
    /// What every call to it carries; [`None`] for workers that were never given a secret.
    pub authorization: Option<HeaderValue>,
    pub(super) call_head: OnceLock<CallHead>,
    pub registration: PackedRegistration,
    pub registered_at: SystemTime,
    /// How long it may be silent; [`None`] for a configured worker, which has no lease.
    pub lease: Option<Duration>,
    pub(super) secret: Secret,
    pub(super) handlers: Vec<ClaimedHandler>,
    pub(super) max_concurrency: u32,
    pub(super) in_flight: AtomicU32,
    pub(super) rotation: AtomicU8,
    /// Whether a probe looks after it: one at a time, however often it is ejected and comes back.
    pub(super) is_probed: AtomicBool,
    /// In milliseconds of the registry's lease clock.
    pub(super) alive_at: AtomicU64,
    /// Moves on whenever a call is lost: connections of the time before are not used again.
    pub(super) epoch: AtomicU32,
    pub(super) calls: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// Whether a replica is given calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    In,
    /// Its address refused a connection; a probe, a renewal or a registration brings it back.
    Ejected,
    /// An operator drained it: it renews its lease and gets nothing new.
    Draining,
    /// It is no longer in the table.
    Left,
}

impl Rotation {
    const ALL: [Self; 4] = [Self::In, Self::Ejected, Self::Draining, Self::Left];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "live",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
            Self::Left => "left",
        }
    }
}

/// A place among a replica's calls in flight, given back when dropped.
#[derive(Debug)]
pub struct Slot {
    replica: Arc<Replica>,
}

impl Replica {
    #[must_use]
    pub fn rotation(&self) -> Rotation {
        Rotation::ALL[usize::from(self.rotation.load(Ordering::SeqCst)) % Rotation::ALL.len()]
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// Whether this is the same worker, registered later.
    pub(super) fn replaces(&self, old: &Self) -> bool {
        old.url == self.url && old.name() == self.name()
    }

    /// The routes that it lists.
    pub(super) fn routes(&self) -> impl Iterator<Item = (Shape, &Method)> {
        self.handlers
            .iter()
            .flat_map(|handler| handler.methods.iter().map(move |method| (handler.pattern.shape(), method)))
    }

    /// How many handlers it has.
    #[must_use]
    pub fn handlers_len(&self) -> usize {
        self.handlers.len()
    }

    /// What the calls to it have in common.
    #[must_use]
    pub fn call_head(&self) -> &CallHead {
        self.call_head.get_or_init(|| CallHead::new(&self.url, self.authorization.as_ref()))
    }

    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    #[must_use]
    pub fn max_concurrency(&self) -> Option<u32> {
        self.registration.max_concurrency()
    }

    /// Calls sent, and how many of them failed for the worker's reasons.
    #[must_use]
    pub fn tally(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    #[must_use]
    pub fn has_room(&self) -> bool {
        // Ordered against whoever gives a place back and then looks for those who wait.
        self.in_flight.load(Ordering::SeqCst) < self.max_concurrency
    }

    /// Takes a place among the calls in flight, unless the replica is full.
    #[must_use]
    pub fn take_slot(self: &Arc<Self>) -> Option<Slot> {
        self.in_flight
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < self.max_concurrency).then_some(n + 1))
            .ok()
            .map(|_| Slot { replica: Arc::clone(self) })
    }

    /// The time in which connections made now may be used.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A call was lost on a connection of this epoch. A process that dies closes its connections one after the other, and a call on
    /// one that is not closed yet would be lost too; so none of them is used again.
    pub fn end_epoch(&self, epoch: u32) {
        // Those that are lost together are one event, and what was connected to since may be another process.
        self.epoch.compare_exchange(epoch, epoch.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed).ok();
    }

    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves to `to` if the replica is in one of `from` now.
    pub(super) fn turn(&self, from: &[Rotation], to: Rotation) -> bool {
        self.rotation
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
                from.iter().any(|from| *from as u8 == now).then_some(to as u8)
            })
            .is_ok()
    }
}

impl Slot {
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.id)
            .field("name", &self.group.name)
            .field("url", &self.url)
            .field("rotation", &self.rotation())
            .finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::SeqCst);
        // Not only when it was full: whom the last one woke may not have taken its place yet.
        self.replica.group.wake_one();
    }
}
