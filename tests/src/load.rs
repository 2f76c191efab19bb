//! Clients that do not stop: for tests in which no request may fail while something restarts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::wait;
use crate::wire::{Connection, Request};

/// What became of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many responses had which status.
    pub statuses: BTreeMap<u16, usize>,
    /// What was not answered, and why.
    pub errors: Vec<String>,
    /// The first bodies of other statuses than 200.
    pub refusals: Vec<String>,
}

impl Tally {
    /// How many requests have ended, however.
    #[must_use]
    pub fn total(&self) -> usize {
        self.statuses.values().sum::<usize>() + self.errors.len()
    }

    /// # Panics
    /// When a request was not answered with 200, or there was none at all.
    pub fn assert_all_ok(&self) {
        let ok = self.statuses.get(&200).copied().unwrap_or_default();
        assert!(
            ok > 0 && ok == self.total(),
            "{} of {} requests failed: {self:?}",
            self.total() - ok,
            self.total()
        );
    }
}

/// Clients at work, each on a connection of its own that it keeps alive.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    tally: Arc<watch::Sender<Tally>>,
    clients: JoinSet<()>,
}

impl Load {
    #[must_use]
    pub fn start(to: SocketAddr, clients: usize, request: &Request) -> Self {
        let stop = watch::Sender::new(false);
        let tally = Arc::new(watch::Sender::new(Tally::default()));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn(client(to, request.clone(), stop.subscribe(), Arc::clone(&tally)));
        }
        Self { stop, tally, clients: running }
    }

    /// Waits until that many more requests have ended.
    ///
    /// # Panics
    /// At the deadline.
    pub async fn wait_for_more(&self, requests: usize) {
        let mut tally = self.tally.subscribe();
        let target = tally.borrow().total() + requests;
        let reached = tally.wait_for(|tally| tally.total() >= target);
        wait::within("the load goes on", reached).await.map(drop).expect("the load holds the sender");
    }

    /// Lets every client finish its request, and sums up.
    ///
    /// # Panics
    /// When a client panicked or does not finish.
    pub async fn stop(mut self) -> Tally {
        self.stop.send_replace(true);
        wait::within("the clients finish", async {
            while let Some(client) = self.clients.join_next().await {
                client.expect("clients do not panic");
            }
        })
        .await;
        self.tally.borrow().clone()
    }
}

async fn client(
    to: SocketAddr,
    request: Request,
    stop: watch::Receiver<bool>,
    tally: Arc<watch::Sender<Tally>>,
) {
    let mut connection = None;
    while !*stop.borrow() {
        let mut open = match connection.take() {
            Some(open) => open,
            None => match Connection::connect(to).await {
                Ok(open) => open,
                Err(error) => {
                    tally.send_modify(|tally| tally.errors.push(format!("connecting: {error}")));
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        match open.request(&request).await {
            Ok(response) => {
                tally.send_modify(|tally| {
                    *tally.statuses.entry(response.status).or_default() += 1;
                    if response.status != 200 && tally.refusals.len() < 5 {
                        tally.refusals.push(format!("{response:?}"));
                    }
                });
                if !open.is_closing() {
                    connection = Some(open);
                }
            }
            Err(error) => tally.send_modify(|tally| tally.errors.push(error.to_string())),
        }
    }
}
