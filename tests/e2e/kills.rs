//! Real processes, killed and stopped at random instants under load: what every client was told holds against the
//! ledger of the workers.

use std::time::Duration;

use fastrand::Rng;
use gearway_tests::counted::{self, Answer, Answered, Clients, Load};
use gearway_tests::faulty::Damage;
use gearway_tests::language::{Language, LedgerWorkers};
use gearway_tests::process::{Process, Signal};
use gearway_tests::{Gateway, wait};

const CLIENTS: usize = 8;
/// Requests between two faults at most, so that they fall anywhere.
const BETWEEN: usize = 60;

fn load(gateway: &Gateway) -> Clients {
    let to = gateway.public_address();
    Clients::start(&Load { to, clients: CLIENTS, prefix: "r".into(), requests: usize::MAX, seed: 1 })
}

fn hold_against_the_ledger(answered: &[Answered], workers: &LedgerWorkers) {
    let runs = workers.runs();
    let broken: Vec<String> = answered
        .iter()
        .filter_map(|one| one.broken_promise(runs.get(&one.number).copied().unwrap_or(0), Damage::None))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}\n{:#?}", counted::tally(answered));
}

async fn workers_of(gateway: &Gateway, workers: &LedgerWorkers, number: usize) -> Vec<Process> {
    let running = (0..number).map(|_| workers.start(gateway)).collect();
    gateway.admin().wait_for_workers(number).await;
    gateway.admin().wait_for_route("/once").await;
    running
}

async fn kill_workers(language: Language) {
    let gateway = Gateway::start("[workers]\npark = \"50s\"\nlease = \"1s\"").await;
    let workers = LedgerWorkers::prepare(language).await;
    let mut running = workers_of(&gateway, &workers, 2).await;
    let clients = load(&gateway);
    let mut rng = Rng::with_seed(1);
    for _ in 0..5 {
        clients.wait_for_more(rng.usize(5..BETWEEN)).await;
        let victim = rng.usize(..running.len());
        running[victim].kill();
        running[victim] = workers.start(&gateway);
    }
    clients.wait_for_more(BETWEEN).await;
    let answered = clients.stop().await;
    hold_against_the_ledger(&answered, &workers);
    assert!(answered.iter().all(|one| one.answer != Answer::Nothing), "{:#?}", counted::tally(&answered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_workers_are_killed() {
    kill_workers(Language::Rust).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_workers_are_killed() {
    kill_workers(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_workers_are_killed() {
    kill_workers(Language::Node).await;
}

/// A stopped worker takes connections and answers nothing. When it goes on, it runs what it has been sent, whose clients were
/// told that the outcome is unknown, and comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_are_stopped_and_go_on() {
    let gateway = Gateway::start("[limits]\nrequest_timeout = \"700ms\"\n[workers]\nlease = \"1s\"").await;
    for language in Language::ALL {
        let workers = LedgerWorkers::prepare(language).await;
        let running = workers_of(&gateway, &workers, 2).await;
        let clients = load(&gateway);
        for worker in &running {
            clients.wait_for_more(BETWEEN).await;
            worker.signal(Signal::STOP);
            clients.wait_for_more(2 * CLIENTS).await;
            worker.signal(Signal::CONT);
        }
        gateway.admin().wait_for_workers(2).await;
        clients.wait_for_more(BETWEEN).await;
        let answered = clients.stop().await;
        for worker in running {
            worker.signal(Signal::TERM);
            worker.wait_for_exit().await;
        }
        hold_against_the_ledger(&answered, &workers);
        gateway.admin().wait_for_workers(0).await;
    }
}

/// Its clients lose what was under way, and nothing runs twice for that; what it had registered, it serves again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_killed() {
    let mut gateway = Gateway::start("[workers]\npark = \"50s\"\nlease = \"2s\"").await;
    let workers = LedgerWorkers::prepare(Language::Rust).await;
    let _running = workers_of(&gateway, &workers, 2).await;
    let clients = load(&gateway);
    let mut rng = Rng::with_seed(2);
    for _ in 0..8 {
        clients.wait_for_more(rng.usize(5..BETWEEN)).await;
        gateway.kill9();
        gateway.start_again().await;
    }
    clients.wait_for_more(BETWEEN).await;
    let answered = clients.stop().await;
    hold_against_the_ledger(&answered, &workers);
    let tally = counted::tally(&answered);
    assert!(tally.keys().all(|kind| kind == "200" || kind == "no response"), "{tally:#?}");
}

/// A gateway that is stopped serves nobody meanwhile, and loses nobody's lease or request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_stopped_and_goes_on() {
    let gateway = Gateway::start("[workers]\nlease = \"600ms\"").await;
    let workers = LedgerWorkers::prepare(Language::Rust).await;
    let _running = workers_of(&gateway, &workers, 2).await;
    let clients = load(&gateway);
    for _ in 0..3 {
        clients.wait_for_more(BETWEEN).await;
        gateway.process().signal(Signal::STOP);
        // Longer than a lease.
        tokio::time::sleep(Duration::from_millis(900)).await;
        gateway.process().signal(Signal::CONT);
    }
    clients.wait_for_more(BETWEEN).await;
    let answered = clients.stop().await;
    hold_against_the_ledger(&answered, &workers);
    let tally = counted::tally(&answered);
    assert_eq!(tally.keys().collect::<Vec<_>>(), ["200"], "{tally:#?}");
    wait::until("both workers are there", async || {
        (gateway.admin().workers().await.len() == 2).then_some(())
    })
    .await;
}
