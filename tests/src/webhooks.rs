//! Webhooks as providers send them, and workers that note every attempt to deliver one: what was acknowledged is held against
//! what ran, and against what the gateway's log knew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rusqlite::{Connection as Database, OpenFlags};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::gateway::Gateway;
use crate::process::Process;
use crate::wire::{Connection, Request};
use crate::{binaries, wait};

/// Where [`DeliveryWorkers`] take webhooks.
pub const PATH: &str = "/hook";
/// What tells events apart.
pub const EVENT: &str = "X-Event";
/// How soon what was not acknowledged is sent again.
const AGAIN: Duration = Duration::from_millis(3);

/// Microseconds since 1970.
///
/// # Panics
/// Never, on a machine whose clock is set.
#[must_use]
pub fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_micros()
}

/// Senders at work: each sends an event until it is acknowledged, and then the next.
#[derive(Debug)]
pub struct Senders {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<String, String>>>,
    running: JoinSet<()>,
}

impl Senders {
    /// Starts as many as are wanted, on connections that they keep.
    #[must_use]
    pub fn start(to: SocketAddr, senders: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let mut running = JoinSet::new();
        for sender in 0..senders {
            running.spawn(send(to, sender, Arc::clone(&stop), Arc::clone(&acknowledged)));
        }
        Self { stop, acknowledged, running }
    }

    /// How many events were acknowledged.
    #[must_use]
    pub fn count(&self) -> usize {
        self.acknowledged.lock().len()
    }

    /// Waits until so many more are acknowledged.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn wait_for_more(&self, events: usize) {
        let target = self.count() + events;
        wait::until("events are acknowledged", async || (self.count() >= target).then_some(())).await;
    }

    /// Stops, whether or not the last events were acknowledged. Returns the events that were, with their deliveries.
    ///
    /// # Panics
    /// When a sender panicked.
    pub async fn stop(mut self) -> BTreeMap<String, String> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(sender) = self.running.join_next().await {
            sender.expect("senders do not panic");
        }
        std::mem::take(&mut *self.acknowledged.lock())
    }
}

async fn send(
    to: SocketAddr,
    sender: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeMap<String, String>>>,
) {
    let mut connection = None;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let event = format!("{sender}-{number}");
        let request = Request::post(PATH, format!("{{\"event\":\"{event}\"}}")).header(EVENT, &event);
        let mut open: Connection = match connection.take() {
            Some(open) => open,
            None => match Connection::connect(to).await {
                Ok(open) => open,
                Err(_) => {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let Ok(response) = open.request(&request).await else { continue };
        if !open.is_closing() {
            connection = Some(open);
        }
        match response.header("x-gearway-delivery") {
            Some(delivery) if response.status == 200 => {
                acknowledged.lock().insert(event, delivery);
                number += 1;
            }
            Some(_) | None => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// An attempt that reached a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub delivery: String,
    pub attempt: u32,
    pub event: String,
    /// Microseconds since 1970.
    pub started: u128,
}

/// Starts workers, all of one name and with one ledger.
#[derive(Debug)]
pub struct DeliveryWorkers {
    dir: TempDir,
}

impl Default for DeliveryWorkers {
    /// # Panics
    /// When there is no temporary folder.
    fn default() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }
}

impl DeliveryWorkers {
    /// Starts one, which registers by itself.
    #[must_use]
    pub fn start(&self, gateway: &Gateway) -> Process {
        let mut command = Command::new(binaries::path("delivery-worker"));
        command.env_clear().env("RUST_BACKTRACE", "1").env("LEDGER", self.ledger());
        command.env("GEARWAY_GATEWAY", format!("http://{}", gateway.admin_address()));
        command.env("GEARWAY_TOKEN", gateway.registration_token()).env("GEARWAY_NAME", "hooks");
        Process::spawn("delivery worker", command)
    }

    /// Starts some and waits until the gateway routes to them.
    pub async fn start_routed(&self, gateway: &Gateway, number: usize) -> Vec<Process> {
        let running = (0..number).map(|_| self.start(gateway)).collect();
        gateway.admin().wait_for_workers(number).await;
        gateway.admin().wait_for_route(PATH).await;
        running
    }

    /// Everything that ran so far, in the order in which it began.
    ///
    /// # Panics
    /// When the ledger holds something else.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        let text = std::fs::read_to_string(self.ledger()).unwrap_or_default();
        let read = |line: &str| {
            let mut words = line.split(' ');
            Some(Run {
                delivery: words.next()?.to_owned(),
                attempt: words.next()?.parse().ok()?,
                event: words.next()?.to_owned(),
                started: words.next()?.parse().ok()?,
            })
        };
        text.lines().map(|line| read(line).unwrap_or_else(|| panic!("a ledger's line: {line}"))).collect()
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join("runs")
    }
}

/// What the gateway's log knows of deliveries.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// With the attempts that are recorded.
    pub pending: HashMap<String, u32>,
    pub delivered: BTreeSet<String>,
}

impl Known {
    /// Reads the log of a gateway, running or not: the pending ones, and those that were delivered since `since` (milliseconds since
    /// 1970).
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    pub fn read(data_dir: &Path, since: i64) -> Self {
        let read = || -> rusqlite::Result<Self> {
            let file = data_dir.join("deliveries.db");
            let database = Database::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            database.busy_timeout(wait::DEADLINE)?;
            let sql =
                "SELECT id, state, attempts FROM delivery WHERE state = 0 OR state = 1 AND settled_at >= ?1";
            let mut rows = database.prepare(sql)?;
            let mut rows = rows.query([since])?;
            let mut known = Self::default();
            while let Some(row) = rows.next()? {
                let delivery = format!("{:016x}", row.get::<_, i64>(0)?);
                match row.get::<_, i64>(1)? {
                    0 => drop(known.pending.insert(delivery, row.get(2)?)),
                    _ => drop(known.delivered.insert(delivery)),
                }
            }
            Ok(known)
        };
        read().unwrap_or_else(|error| panic!("the log of deliveries: {error}"))
    }
}

/// Waits until the log has nothing pending.
///
/// # Panics
/// At the deadline.
pub async fn wait_until_delivered(data_dir: &Path) {
    wait::until("everything is delivered", async || {
        Known::read(data_dir, i64::MAX).pending.is_empty().then_some(())
    })
    .await;
}

/// What was acknowledged and never reached a worker.
#[must_use]
pub fn lost(acknowledged: &BTreeMap<String, String>, runs: &[Run]) -> Vec<String> {
    let ran: BTreeSet<(&str, &str)> =
        runs.iter().map(|run| (run.event.as_str(), run.delivery.as_str())).collect();
    let lost =
        acknowledged.iter().filter(|(event, delivery)| !ran.contains(&(event.as_str(), delivery.as_str())));
    lost.map(|(event, delivery)| format!("event {event}, acknowledged as {delivery}, reached no worker"))
        .collect()
}

/// Events that ran as more than one delivery.
#[must_use]
pub fn doubled(runs: &[Run]) -> Vec<String> {
    let mut deliveries: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in runs.iter().filter(|run| !run.event.is_empty()) {
        deliveries.entry(&run.event).or_default().insert(&run.delivery);
    }
    deliveries.retain(|_, deliveries| deliveries.len() > 1);
    deliveries.iter().map(|(event, deliveries)| format!("event {event} ran as {deliveries:?}")).collect()
}
