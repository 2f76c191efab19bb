//! The gateway killed at random instants while webhooks come in and go out, and its workers too.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

use crate::gateway::Gateway;
use crate::process::Process;
use crate::webhooks::{DeliveryWorkers, Known, Run, Senders, doubled, lost, now, wait_until_delivered};

const SENDERS: usize = 16;
const REPLICAS: usize = 2;
/// Acknowledgements between two kills at most, and what may pass after the last of them.
const BETWEEN: usize = 40;
const MOMENT: Duration = Duration::from_millis(20);
/// One kill of so many takes a worker along.
const WORKERS_TOO: u8 = 4;

/// A gateway under load that is killed again and again.
#[derive(Debug)]
pub struct Kills {
    gateway: Gateway,
    workers: DeliveryWorkers,
    running: Vec<Process>,
    senders: Senders,
    rng: Rng,
    kills: Vec<Kill>,
    workers_killed: usize,
    /// Deliveries whose success was on disk at a kill, and when the gateway was up again after the first such.
    settled: BTreeMap<String, u128>,
}

/// A kill: from when, until when nobody served, and what was on disk. Microseconds since 1970.
#[derive(Debug)]
struct Kill {
    began: u128,
    over: u128,
    log: Known,
}

/// What a run has come to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub kills: usize,
    pub workers_killed: usize,
    pub acknowledged: usize,
    /// Attempts that reached a worker.
    pub runs: usize,
    /// Attempts that a worker got from the gateway that was killed, and whose end the log did not know, over all kills; and at one kill at
    /// most.
    pub in_flight: usize,
    pub most_in_flight: usize,
    /// Attempts that ran again.
    pub repeated: usize,
    /// What may never be.
    pub broken_promises: Vec<String>,
}

impl Kills {
    /// # Panics
    /// When gateway and workers do not come up.
    pub async fn start(seed: u64) -> Self {
        let gateway = Gateway::start("").await;
        let workers = DeliveryWorkers::default();
        let running = workers.start_routed(&gateway, REPLICAS).await;
        let senders = Senders::start(gateway.public_address(), SENDERS);
        Self {
            gateway,
            workers,
            running,
            senders,
            rng: Rng::with_seed(seed),
            kills: Vec::new(),
            workers_killed: 0,
            settled: BTreeMap::new(),
        }
    }

    /// Kills the gateway, at times a worker too, and starts them again.
    ///
    /// # Panics
    /// When the gateway does not come up, or the load does not go on.
    pub async fn kill(&mut self) {
        self.senders.wait_for_more(self.rng.usize(1..BETWEEN)).await;
        // Nothing is waited for: the instant is to be any.
        tokio::time::sleep(MOMENT.mul_f64(self.rng.f64())).await;
        if self.rng.u8(..WORKERS_TOO) == 0 {
            let victim = self.rng.usize(..self.running.len());
            self.running[victim].kill();
            self.running[victim] = self.workers.start(&self.gateway);
            self.workers_killed += 1;
        }
        let began = now();
        self.gateway.kill9();
        let since = self.kills.last().map_or(0, |kill| i64::try_from(kill.began / 1000).unwrap_or(0));
        let log = Known::read(&self.gateway.data_dir(), since);
        self.gateway.start_again().await;
        let over = now();
        for delivery in &log.delivered {
            self.settled.entry(delivery.clone()).or_insert(over);
        }
        self.kills.push(Kill { began, over, log });
    }

    /// Lets everything be delivered and holds it against what was promised.
    ///
    /// # Panics
    /// When something is never delivered.
    pub async fn finish(self) -> Outcome {
        let acknowledged = self.senders.stop().await;
        wait_until_delivered(&self.gateway.data_dir()).await;
        let runs = self.workers.runs();
        let mut outcome = Outcome {
            kills: self.kills.len(),
            workers_killed: self.workers_killed,
            acknowledged: acknowledged.len(),
            runs: runs.len(),
            broken_promises: [lost(&acknowledged, &runs), doubled(&runs)].concat(),
            ..Outcome::default()
        };
        for run in &runs {
            if self.settled.get(&run.delivery).is_some_and(|over| run.started > *over) {
                let broken = format!("{run:?} began after its success was recorded");
                outcome.broken_promises.push(broken);
            }
        }
        let mut attempts: BTreeMap<(&str, u32), Vec<&Run>> = BTreeMap::new();
        for run in &runs {
            attempts.entry((&run.delivery, run.attempt)).or_default().push(run);
        }
        let mut lives_from = 0;
        for kill in &self.kills {
            let lived = lives_from..=kill.over;
            let in_flight = kill.log.pending.iter().filter(|(delivery, recorded)| {
                let runs = attempts.get(&(delivery.as_str(), **recorded + 1));
                runs.is_some_and(|runs| runs.iter().any(|run| lived.contains(&run.started)))
            });
            let in_flight = in_flight.count();
            lives_from = kill.over + 1;
            outcome.in_flight += in_flight;
            outcome.most_in_flight = outcome.most_in_flight.max(in_flight);
        }
        for ((delivery, attempt), runs) in &mut attempts {
            runs.sort_by_key(|run| run.started);
            for pair in runs.windows(2) {
                outcome.repeated += 1;
                let was_cut = self.kills.iter().any(|kill| {
                    pair[0].started <= kill.over
                        && pair[1].started >= kill.began
                        && kill.log.pending.get(*delivery).is_some_and(|recorded| recorded + 1 == *attempt)
                });
                if !was_cut {
                    let broken = format!("{pair:?}: the second began and no kill had cut the first");
                    outcome.broken_promises.push(broken);
                }
            }
        }
        outcome
    }
}
