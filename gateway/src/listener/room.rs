//! Who may connect: places, those who give up theirs for a newcomer, and a few places beyond the limit in which newcomers are told
//! to come again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tracing::debug;

use crate::http1::Activity;
use crate::rate::one_client;
use crate::relay::{Reception, Shared, is_trusted};
use crate::telemetry::Eviction;

use super::waiting::Waiting;

/// How often a place is looked for while there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long it may take until whoever was let go has given his place back.
const LET_GO_WITHIN: Duration = Duration::from_millis(50);
/// How long a newcomer waits while every connection is being worked for, and how long nobody does after that was in vain.
const PATIENCE: Duration = Duration::from_millis(20);
const IMPATIENCE: Duration = Duration::from_millis(500);
/// How often bytes are taken back from slow clients at most.
const RECOVER_AGAIN: Duration = Duration::from_millis(50);
/// One place beyond `limits.max_connections` for so many within it, and how many at most: an answer takes a few milliseconds, and
/// who takes longer makes room for the next.
const RESERVE_SHARE: usize = 8;
const MAX_RESERVE: usize = 64;

/// How much of `limits.max_bytes_in_flight` is taken back at once, and from whom: clients that have had their response for so long.
const RECOVERED_SHARE: u64 = 4;
const SLOWLY_TAKEN: Duration = Duration::from_secs(5);

/// Every open connection, and the places for more.
#[derive(Debug)]
pub(super) struct Room {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    served: Waiting,
    turned_away: Waiting,
    addresses: Arc<Addresses>,
    /// When a newcomer was last told that there is no place.
    last_full: Mutex<Option<Instant>>,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) reception: Reception,
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

/// How many connections each address has, while that is limited.
#[derive(Debug, Default)]
struct Addresses(Mutex<HashMap<IpAddr, usize>>);

/// One connection of an address.
#[derive(Debug)]
struct Counted {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

impl Room {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let places = shared.config.load().limits.max_connections.min(Semaphore::MAX_PERMITS);
        Self {
            shared,
            places: Arc::new(Semaphore::new(places)),
            reserve: Arc::new(Semaphore::new((places / RESERVE_SHARE).clamp(1, MAX_RESERVE))),
            served: Waiting::default(),
            turned_away: Waiting::default(),
            addresses: Arc::default(),
            last_full: Mutex::default(),
        }
    }

    /// A place for a newcomer. Where there is none, who has kept the gateway waiting for the longest gives up his: slow clients
    /// are to keep nobody out, however many they are. When all are being worked for, the newcomer is told to come again. [`None`]
    /// if there is no room even for that, and none is to be waited for.
    pub(super) async fn place(&self, peer: IpAddr) -> Option<Place> {
        let Ok(counted) = self.count(peer) else { return self.turn_away(Reception::TooManyOfAddress) };
        let served = |permit| Place { reception: Reception::Served, _permit: permit, _counted: counted };
        let patient_until = self.patient_until();
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return Some(served(permit));
            }
            let let_go = self.served.let_go_of_the_longest();
            if let_go > 0 {
                debug!(let_go, "limits.max_connections is reached; those who waited longest are let go");
                self.shared.metrics.count_evictions(Eviction::Connection, let_go);
            } else if Instant::now() >= patient_until
                && let Some(place) = self.turn_away(Reception::Full)
            {
                *self.last_full.lock() = Some(Instant::now());
                return Some(place);
            }
            // Nobody says when a client begins to owe; but whoever was let go is about to leave.
            let look_again = if let_go > 0 { LET_GO_WITHIN } else { LOOK_AGAIN };
            tokio::select! {
                permit = Arc::clone(&self.places).acquire_owned() => return permit.ok().map(served),
                () = tokio::time::sleep(look_again) => {}
            }
        }
    }

    /// Until when a newcomer waits for a place. The next ones are not to wait for one after the other.
    fn patient_until(&self) -> Instant {
        let now = Instant::now();
        match *self.last_full.lock() {
            Some(full) if now < full + IMPATIENCE => now,
            Some(_) | None => now + PATIENCE,
        }
    }

    /// Whenever requests are refused for want of bytes, lets go of those who take their responses slowly, for as long as it is
    /// polled.
    pub(super) async fn recover_bytes(&self) {
        let in_flight = &self.shared.in_flight;
        loop {
            in_flight.short_of_bytes().await;
            let some = self.shared.config.load().limits.max_bytes_in_flight / RECOVERED_SHARE;
            let let_go = self.served.let_go_of_untaken(Activity::since(SLOWLY_TAKEN), some.max(1));
            if let_go > 0 {
                debug!(
                    let_go,
                    "limits.max_bytes_in_flight is reached; those who take responses slowly are let go"
                );
                self.shared.metrics.count_evictions(Eviction::SlowReader, let_go);
            }
            tokio::time::sleep(RECOVER_AGAIN).await;
        }
    }

    /// A place that is free at once, for the end of accepting.
    pub(super) fn free_place(&self) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { reception: Reception::Served, _permit: permit, _counted: None })
    }

    /// Keeps a connection in view, so that it can be let go.
    pub(super) fn add(&self, reception: Reception, activity: Activity, task: AbortHandle) {
        match reception {
            Reception::Served => self.served.add(activity, task),
            Reception::Full | Reception::TooManyOfAddress => self.turned_away.add(activity, task),
        }
    }

    /// A place in the reserve. Where there is none, one is made for whoever comes next.
    fn turn_away(&self, reception: Reception) -> Option<Place> {
        let permit = Arc::clone(&self.reserve).try_acquire_owned().ok();
        if permit.is_none() {
            self.turned_away.let_go_of_the_longest();
        }
        permit.map(|permit| self.outside(reception, permit))
    }

    fn outside(&self, reception: Reception, permit: OwnedSemaphorePermit) -> Place {
        let reason = match reception {
            Reception::TooManyOfAddress => Eviction::Address,
            Reception::Served | Reception::Full => Eviction::Full,
        };
        self.shared.metrics.count_evictions(reason, 1);
        Place { reception, _permit: permit, _counted: None }
    }

    /// # Errors
    /// When the address has as many connections as it may.
    fn count(&self, peer: IpAddr) -> Result<Option<Counted>, ()> {
        let config = self.shared.config.load();
        let most = config.limits.max_connections_per_address;
        // A proxy's connections are those of many clients.
        if most == 0 || is_trusted(peer, &config.public.trusted_proxies) {
            return Ok(None);
        }
        let address = one_client(peer.to_canonical());
        let mut counts = self.addresses.0.lock();
        let count = counts.entry(address).or_default();
        if *count >= most {
            return Err(());
        }
        *count += 1;
        drop(counts);
        Ok(Some(Counted { addresses: Arc::clone(&self.addresses), address }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}
