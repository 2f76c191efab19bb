//! Everything fails for as long as wanted: what the tests do in seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use gearway_tests::binaries;
use gearway_tests::faults::Faults;
use gearway_tests::vitals::{Vitals, slope};

use crate::kills;

const CONFIG: &str = "[workers]\npark = \"500ms\"";
/// Between two looks at the gateway's memory.
const REQUESTS_PER_ROUND: usize = 5000;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How often the gateway is killed afterwards, while webhooks come in and go out.
    #[arg(long, default_value_t = 1000)]
    kills: usize,
    /// How the gateway is built.
    #[arg(long, default_value = "release")]
    profile: String,
    /// What is drawn at random follows from it.
    #[arg(long)]
    seed: Option<u64>,
}

/// What a run has come to so far.
struct Soak {
    started: Instant,
    answers: BTreeMap<String, usize>,
    /// Of a gateway that was itself killed and stopped.
    answers_of_killed: BTreeMap<String, usize>,
    /// Minutes, KiB and descriptors after each round.
    samples: Vec<(f64, Vitals)>,
    broken_promises: Vec<String>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    binaries::use_profile(&options.profile);
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}, {} minutes", options.minutes);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut faults = Faults::start(seed, CONFIG).await;
        // Another gateway, so that the memory of the first one tells something.
        let mut killed = Faults::start(seed, CONFIG).await;
        let mut soak = Soak {
            started: Instant::now(),
            answers: BTreeMap::new(),
            answers_of_killed: BTreeMap::new(),
            samples: Vec::new(),
            broken_promises: Vec::new(),
        };
        let until = soak.started + Duration::from_secs_f64(options.minutes * 60.0);
        while Instant::now() < until && soak.broken_promises.is_empty() {
            let outcomes = faults.round(REQUESTS_PER_ROUND).await;
            for (kind, times) in outcomes.answers {
                *soak.answers.entry(kind).or_default() += times;
            }
            soak.broken_promises = outcomes.broken_promises;
            let outcomes = killed.round_of_kills(REQUESTS_PER_ROUND).await;
            for (kind, times) in outcomes.answers {
                *soak.answers_of_killed.entry(kind).or_default() += times;
            }
            soak.broken_promises.extend(outcomes.broken_promises);
            let minutes = soak.started.elapsed().as_secs_f64() / 60.0;
            soak.samples.push((minutes, Vitals::of(faults.gateway.process().id())?));
        }
        if !soak.samples.is_empty() {
            let mut injected = faults.injected();
            for (fault, times) in killed.injected() {
                *injected.entry(fault).or_default() += times;
            }
            soak.print(&injected);
        }
        if !soak.broken_promises.is_empty() {
            bail!("broken promises: {:#?}", soak.broken_promises);
        }
        drop((faults, killed));
        if options.kills > 0 {
            kills::run(options.kills, seed).await?;
        }
        Ok(())
    })
}

impl Soak {
    fn print(&self, injected: &BTreeMap<&'static str, usize>) {
        let requests: usize = self.answers.values().chain(self.answers_of_killed.values()).sum();
        let row = |name: &str, value: &str| println!("| {name:<38} | {value:>16} |");
        row("", "");
        println!("|{:-<40}|{:->18}|", "", ":");
        row("minutes", &format!("{:.1}", self.started.elapsed().as_secs_f64() / 60.0));
        row("requests", &requests.to_string());
        for (kind, times) in &self.answers {
            row(&format!("answered {kind}"), &times.to_string());
        }
        for (kind, times) in &self.answers_of_killed {
            row(&format!("gateway killed: {kind}"), &times.to_string());
        }
        for (fault, times) in injected.iter().filter(|(fault, _)| **fault != "none") {
            row(&format!("fault: {fault}"), &times.to_string());
        }
        row("broken promises", &self.broken_promises.len().to_string());
        let Some((_, last)) = self.samples.last() else { return };
        // The first half fills pools and allocators.
        let late = &self.samples[self.samples.len() / 2..];
        let growth: Vec<(f64, f64)> =
            late.iter().map(|(minutes, vitals)| (*minutes, vitals.rss_kib as f64)).collect();
        row("peak RSS, MiB", &format!("{:.1}", last.peak_rss_kib as f64 / 1024.0));
        row("RSS at the end, MiB", &format!("{:.1}", last.rss_kib as f64 / 1024.0));
        row("RSS slope, KiB per minute", &format!("{:+.1}", slope(&growth)));
        let first = self.samples.first().map_or(0, |(_, vitals)| vitals.descriptors);
        row("open descriptors, first and last", &format!("{first} {}", last.descriptors));
    }
}
