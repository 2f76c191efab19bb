//! The gateway killed again and again while webhooks come in and go out: what the tests do fifty times.

use std::time::Instant;

use anyhow::bail;
use gearway_tests::kills::Kills;

const TELL_EVERY: usize = 100;

/// Kills that often, prints the table, and fails for a promise that was not kept.
pub(crate) async fn run(kills: usize, seed: u64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut run = Kills::start(seed).await;
    for number in 1..=kills {
        run.kill().await;
        if number % TELL_EVERY == 0 {
            println!("{number} kills of {kills}");
        }
    }
    let outcome = run.finish().await;
    let row = |name: &str, value: &str| println!("| {name:<54} | {value:>10} |");
    row("", "");
    println!("|{:-<56}|{:->12}|", "", ":");
    row("minutes", &format!("{:.1}", started.elapsed().as_secs_f64() / 60.0));
    row("kills of the gateway", &outcome.kills.to_string());
    row("kills of a worker", &outcome.workers_killed.to_string());
    row("webhooks acknowledged", &outcome.acknowledged.to_string());
    row("attempts that reached a worker", &outcome.runs.to_string());
    row("attempts in flight at a kill, over all", &outcome.in_flight.to_string());
    row("attempts in flight at one kill, at most", &outcome.most_in_flight.to_string());
    row("attempts that ran again", &outcome.repeated.to_string());
    row("broken promises", &outcome.broken_promises.len().to_string());
    if !outcome.broken_promises.is_empty() {
        bail!("broken promises: {:#?}", outcome.broken_promises);
    }
    Ok(())
}
