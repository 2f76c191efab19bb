//! What happens to replicas and routes by time alone, and by how their workers' addresses behave.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use gearway_protocol::Registration;
use tracing::{error, info, warn};

use super::book::forget;
use super::lease_events::LeaseEvent;
use super::{Ejections, Refusal, Registry, Replica, Rotation};
use crate::handover::{Duty, Paused};
use crate::upstream;

/// A probe of an ejected replica waits this long at first, and twice as long each time up to the second.
const PROBE_BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Registry {
    /// Takes a replica out of rotation because its address refused a connection; false when it was out already.
    pub fn eject(&self, replica: &Arc<Replica>, reason: &str) -> bool {
        if !replica.turn(&[Rotation::In], Rotation::Ejected) {
            return false;
        }
        replica.group.rotation_changed();
        warn!(worker = replica.name(), worker_id = %replica.id, reason, "worker ejected");
        // A configured worker is asked for its routes again instead: it may have come back with others.
        let wants_probe = replica.lease.is_some() && !replica.is_probed.swap(true, Ordering::SeqCst);
        if wants_probe && self.inner.ejected.try_send(Arc::clone(replica)).is_err() {
            replica.is_probed.store(false, Ordering::SeqCst);
            warn!(worker_id = %replica.id, "too many ejected workers to probe; its next renewal brings it back");
        }
        true
    }

    pub(super) fn readmit(&self, replica: &Replica, reason: &str) {
        if replica.turn(&[Rotation::Ejected], Rotation::In) {
            replica.group.rotation_changed();
            info!(worker = replica.name(), worker_id = %replica.id, reason, "worker back in rotation");
        }
    }

    /// Probes ejected replicas until they take connections again or leave. Runs for the gateway's life.
    pub async fn run_probes(self, mut ejections: Ejections) {
        while let Some(replica) = ejections.0.recv().await {
            tokio::spawn(self.clone().probe(replica));
        }
    }

    /// The replica's only one: one that is ejected again while this sleeps is this one's to bring back.
    async fn probe(self, replica: Arc<Replica>) {
        let (mut backoff, longest) = PROBE_BACKOFF;
        loop {
            while replica.rotation() == Rotation::Ejected {
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(longest);
                if upstream::connect(&replica.url, &self.config().workers).await.is_ok() {
                    self.readmit(&replica, "a probe reached it");
                }
            }
            replica.is_probed.store(false, Ordering::SeqCst);
            // Whoever ejected it just before that has asked for no other probe.
            if replica.rotation() != Rotation::Ejected || replica.is_probed.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Lapses silent workers and forgets old routes. Runs for the gateway's life.
    pub async fn run_leases(self) {
        let mut last = Instant::now();
        loop {
            let tick = (self.inner.config.load().workers.lease / 10)
                .clamp(Duration::from_millis(10), Duration::from_millis(500));
            tokio::time::sleep(tick).await;
            if self.inner.is_frozen.load(Ordering::SeqCst) {
                last = Instant::now();
                continue;
            }
            last = self.inner.clock.advance(last, Instant::now(), tick);
            let lapsed: Vec<_> = self
                .inner
                .replicas
                .iter()
                .filter(|replica| self.lease_left(replica) == Some(Duration::ZERO))
                .map(|replica| Arc::clone(&replica))
                .collect();
            for replica in &lapsed {
                warn!(worker = replica.name(), worker_id = %replica.id, "worker's lease lapsed");
                self.dismiss(replica);
                self.inner.lease_events.count(LeaseEvent::Lapsed);
            }
            if !lapsed.is_empty()
                && let Err(error) = self.remove(lapsed).await
            {
                error!(%error, "lapsed workers could not be taken out of the store");
            }
            if let Err(error) = self.forget_old_routes().await {
                error!(%error, "old routes could not be forgotten");
            }
            self.drop_unused_tables();
            // Replicas, known routes and tables hold the groups that mean something.
            self.inner.groups.retain(|_, group| Arc::strong_count(group) > 1);
        }
    }

    /// The configured workers that have told their routes, which the store does not keep.
    #[must_use]
    pub fn plugin_registrations(&self) -> Vec<Registration> {
        let replicas = self.replicas();
        let plugins = replicas.iter().filter(|replica| replica.lease.is_none());
        plugins.map(|replica| replica.registration.unpack()).collect()
    }

    async fn forget_old_routes(&self) -> Result<(), Refusal> {
        let remember = self.inner.config.load().workers.remember;
        let mut book = self.inner.book.lock().await;
        let old: Vec<_> = book
            .remembered
            .iter()
            .filter(|(_, route)| route.lost_at.elapsed().is_ok_and(|since| since > remember))
            .map(|(key, _)| key.clone())
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        self.inner.store.commit(old.iter().map(|(shape, method)| forget(shape, method)).collect()).await?;
        for key in &old {
            if let Some(route) = book.remembered.remove(key) {
                info!(path = route.handler.pattern.path(), worker = %route.group.name, "route forgotten after workers.remember");
            }
        }
        self.publish(&book);
        Ok(())
    }
}

/// What happens by time alone. The book itself stands still because the store does.
impl Duty for Registry {
    fn name(&self) -> &'static str {
        "the registry"
    }

    fn pause(&self) -> BoxFuture<'_, anyhow::Result<Box<dyn Paused>>> {
        Box::pin(async {
            self.inner.is_frozen.store(true, Ordering::SeqCst);
            let frozen = Frozen { registry: self.clone(), is_released: false };
            // Whoever has the book is in the middle of a change.
            drop(self.inner.book.lock().await);
            let paused: Box<dyn Paused> = Box::new(frozen);
            Ok(paused)
        })
    }
}

/// A registry in which nobody's time runs out.
struct Frozen {
    registry: Registry,
    is_released: bool,
}

impl Paused for Frozen {
    fn resume(self: Box<Self>) -> BoxFuture<'static, anyhow::Result<()>> {
        drop(self);
        Box::pin(async { Ok(()) })
    }

    fn release(mut self: Box<Self>) {
        self.is_released = true;
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.is_released {
            self.registry.inner.is_frozen.store(false, Ordering::SeqCst);
        }
    }
}
