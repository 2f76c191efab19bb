//! What the gateway costs, beside nginx and HAProxy. `cargo xtask bench` builds and runs this.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command talks to the person who runs it"
)]

mod call;
mod child;
mod delivery;
mod growth;
mod install;
mod load;
mod machine;
mod measure;
mod placement;
mod plot;
mod port;
mod procfs;
mod proxy;
mod report;
mod sdk;
mod tls;
mod tokens;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::delivery::Delivery;
use crate::growth::Growth;
use crate::machine::Machine;
use crate::measure::{Effort, Row};
use crate::proxy::{Buffers, Kind, Program};
use crate::report::Report;
use crate::sdk::SdkReport;

/// What the gateway costs: every proxy in turn before the same tiny worker, under the same load, over loopback.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Fewer and shorter rounds: about 90 seconds instead of five minutes.
    #[arg(long)]
    quick: bool,
    /// These rows only.
    #[arg(long, value_enum, value_delimiter = ',')]
    rows: Vec<Row>,
    /// The threads of each proxy.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2])]
    threads: Vec<usize>,
    /// How many rounds, instead of 7 (3 if quick).
    #[arg(long)]
    rounds: Option<usize>,
    /// How long a proxy's turn is, instead of 800 ms (600 if quick).
    #[arg(long, value_name = "DURATION")]
    turn: Option<humantime::Duration>,
    /// How many connections idle for the row `idle`.
    #[arg(long)]
    idle_connections: Option<usize>,
    /// The gateway that is measured, instead of this workspace's.
    #[arg(long, value_name = "FILE")]
    gearway: Option<PathBuf>,
    /// Another gateway, which takes its turn as `other`: to see what a change brings.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// The gateway alone, to have it at work.
    #[arg(long)]
    alone: bool,
    /// A second nginx takes its turn, with large buffers for large bodies.
    #[arg(long)]
    tuned: bool,
    /// Measures how the cost grows, and draws it, instead.
    #[arg(long)]
    growth: bool,
    /// Up to which number of routes, connections, workers and KiB the growth goes.
    #[arg(long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    most: usize,
    /// Where the plots go.
    #[arg(long, value_name = "FOLDER", default_value = "docs/performance")]
    plots: PathBuf,
    /// Measures what accepting durable webhooks costs, instead.
    #[arg(long)]
    delivery: bool,
    /// How many deliveries are to be pending, instead of a million (20,000 if quick).
    #[arg(long, value_name = "N")]
    backlog: Option<u64>,
    /// Measures GET over TLS, by HTTP/1.1 and HTTP/2, instead.
    #[arg(long)]
    tls: bool,
    /// Measures what workers in Python and Node spend, instead.
    #[arg(long)]
    sdk: bool,
    /// Where the figures are written, instead of a file of the date in the target folder.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shows this run's figures instead of measuring.
    #[arg(long, value_name = "FILE")]
    read: Option<PathBuf>,
    /// Says what changed since this run.
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Prints the table as Markdown.
    #[arg(long)]
    markdown: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The tiny worker.
    #[command(hide = true)]
    Worker {
        #[arg(long, default_value_t = 1)]
        ports: usize,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Worker { ports }) => worker::run(ports),
        None => bench(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let this = std::env::current_exe().context("cannot find this executable")?;
    let target = this.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
    let kind = |name: &str, program| Kind { name: name.to_owned(), program };
    let gearway = arguments.gearway.clone().unwrap_or_else(|| this.with_file_name("gearway"));
    let nginx = kind("nginx", Program::Nginx(Buffers::Usual));
    if arguments.sdk {
        let effort = effort(arguments);
        let cpu_us = sdk::run(&gearway, &target, effort.rounds, effort.turn)?;
        let report = SdkReport { date: machine::now(), commit: machine::commit(), cpu_us };
        write_json(arguments, &report)?;
        println!("{}", report.table());
        return Ok(());
    }
    if let (true, Some(file)) = (arguments.delivery, &arguments.read) {
        println!("{}", Delivery::read(file)?.table());
        return Ok(());
    }
    if arguments.delivery {
        let Effort { rounds, turn, .. } = effort(arguments);
        let backlog = arguments.backlog.unwrap_or(if arguments.quick { 20_000 } else { 1_000_000 });
        let (accepted, sync_ms, backlog) = delivery::run(&gearway, rounds, turn, backlog, &mut tell)?;
        let (date, commit) = (machine::now(), machine::commit());
        let report = Delivery { date, commit, accepted, sync_ms, backlog };
        write_json(arguments, &report)?;
        println!("{}", report.table());
        return Ok(());
    }
    let gearway = kind("gearway", Program::Gearway(gearway));
    if arguments.alone {
        let rows = if arguments.rows.is_empty() { Row::value_variants() } else { &arguments.rows };
        measure::rows(&[gearway], rows, 1, effort(arguments), &mut tell)?;
        eprintln!();
        return Ok(());
    }
    if arguments.growth {
        nginx.version()?;
        let curves = growth::run(&nginx, &gearway, effort(arguments).turn, arguments.most, &mut tell)?;
        let growth = Growth { date: machine::now(), commit: machine::commit(), curves };
        growth.write(&arguments.plots)?;
        println!("{}", growth.table());
        return Ok(());
    }
    let mut kinds = vec![nginx, kind("haproxy", Program::Haproxy), gearway];
    if arguments.tuned {
        kinds.push(kind("nginx-large", Program::Nginx(Buffers::Large)));
    }
    kinds.extend(arguments.against.clone().map(|path| kind("other", Program::Gearway(path))));
    if arguments.tls {
        for kind in &kinds {
            kind.version()?;
        }
        let Effort { rounds, turn, .. } = effort(arguments);
        let figures = tls::run(&kinds, rounds, turn, &mut tell)?;
        write_json(arguments, &figures)?;
        println!("{}", tls::table(&figures));
        return Ok(());
    }
    let report = match &arguments.read {
        Some(file) => Report::read(file)?,
        None => measure(arguments, &kinds, &target)?,
    };
    println!("{}", if arguments.markdown { report.markdown() } else { report.table() });
    if let Some(file) = &arguments.compare {
        println!("{}", report.changes_since(&Report::read(file)?));
    }
    Ok(())
}

fn write_json(arguments: &Arguments, figures: &impl Serialize) -> anyhow::Result<()> {
    let Some(file) = &arguments.json else { return Ok(()) };
    std::fs::write(file, serde_json::to_string_pretty(figures)? + "\n")
        .with_context(|| file.display().to_string())
}

/// Each of ten thousand connections takes two descriptors in a proxy. What root may not have, the limit leaves as it is.
fn raise_descriptor_limit() {
    const WANTED: u64 = 40_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: Some(WANTED), maximum: limit.maximum.map(|maximum| maximum.max(WANTED)) };
    if setrlimit(Resource::Nofile, raised).is_err() {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).ok();
    }
}

fn effort(arguments: &Arguments) -> Effort {
    let usual = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    Effort {
        rounds: arguments.rounds.unwrap_or(usual.rounds),
        turn: arguments.turn.map_or(usual.turn, Duration::from),
        idle_connections: arguments.idle_connections.unwrap_or(usual.idle_connections),
    }
}

fn measure(arguments: &Arguments, kinds: &[Kind], target: &Path) -> anyhow::Result<Report> {
    let mut versions = Vec::new();
    for kind in kinds {
        versions.push((kind.name.clone(), kind.version()?));
    }
    let effort = effort(arguments);
    let rows = if arguments.rows.is_empty() { Row::value_variants() } else { &arguments.rows };
    let date = machine::now();
    let mut report = Report {
        machine: Machine::this(),
        commit: machine::commit(),
        versions,
        effort,
        rows: Vec::new(),
        idle_kib: measure::Idle::new(),
        date,
    };
    for &threads in &arguments.threads {
        report.rows.extend(measure::rows(kinds, rows, threads, effort, &mut tell)?);
    }
    if rows.contains(&Row::Idle) {
        report.idle_kib = measure::idle(kinds, effort.idle_connections)?;
    }
    eprintln!();
    let json = arguments
        .json
        .clone()
        .unwrap_or_else(|| target.join("bench").join(format!("{}.json", report.date.replace(':', ""))));
    report.write(&json)?;
    println!("{}", json.display());
    Ok(report)
}

/// Progress, on one line.
fn tell(what: &str) {
    eprint!("\r\x1b[K{what}");
    // Who reads no progress misses nothing.
    std::io::stderr().flush().ok();
}
