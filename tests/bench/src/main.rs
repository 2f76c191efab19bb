//! What the gateway costs, beside nginx and HAProxy. `cargo xtask bench` builds and runs this.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command talks to the person who runs it"
)]

mod call;
mod child;
mod install;
mod load;
mod machine;
mod measure;
mod port;
mod procfs;
mod proxy;
mod report;
mod tokens;
mod worker;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

use crate::machine::Machine;
use crate::measure::{Effort, Row};
use crate::proxy::{Buffers, Kind, Program};
use crate::report::Report;

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
    /// How long a proxy's turn is, instead of 900 ms (600 if quick).
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
    /// A second nginx takes its turn, with large buffers for large bodies.
    #[arg(long)]
    tuned: bool,
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
    let report = match &arguments.read {
        Some(file) => Report::read(file)?,
        None => measure(arguments)?,
    };
    println!("{}", if arguments.markdown { report.markdown() } else { report.table() });
    if let Some(file) = &arguments.compare {
        println!("{}", report.changes_since(&Report::read(file)?));
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> anyhow::Result<Report> {
    let this = std::env::current_exe().context("cannot find this executable")?;
    let gearway = arguments.gearway.clone().unwrap_or_else(|| this.with_file_name("gearway"));
    let kind = |name: &str, program| Kind { name: name.to_owned(), program };
    let mut kinds = vec![
        kind("nginx", Program::Nginx(Buffers::Usual)),
        kind("haproxy", Program::Haproxy),
        kind("gearway", Program::Gearway(gearway)),
    ];
    if arguments.tuned {
        kinds.push(kind("nginx-large", Program::Nginx(Buffers::Large)));
    }
    kinds.extend(arguments.against.clone().map(|path| kind("other", Program::Gearway(path))));
    let mut versions = Vec::new();
    for kind in &kinds {
        versions.push((kind.name.clone(), kind.version()?));
    }

    let usual = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    let effort = Effort {
        rounds: arguments.rounds.unwrap_or(usual.rounds),
        turn: arguments.turn.map_or(usual.turn, Duration::from),
        idle_connections: arguments.idle_connections.unwrap_or(usual.idle_connections),
    };
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
        report.rows.extend(measure::rows(&kinds, rows, threads, effort, &mut tell)?);
    }
    if rows.contains(&Row::Idle) {
        report.idle_kib = measure::idle(&kinds, effort.idle_connections)?;
    }
    eprintln!();
    let json = arguments.json.clone().unwrap_or_else(|| {
        let target = this.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
        target.join("bench").join(format!("{}.json", report.date.replace(':', "")))
    });
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
