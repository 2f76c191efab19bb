//! The commands of this repository: `cargo xtask test`, `cargo xtask demo` and `cargo xtask bench`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these commands talk to the person who runs them"
)]

mod bench;
mod binaries;
mod compose;
mod demo;
mod deploy;
mod docs;
mod fuzz;
mod kills;
mod overload;
mod readme;
mod release;
mod soak;
mod stages;
mod terminal;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks everything that CI checks; names of stages run these alone.
    Test {
        #[arg(value_enum)]
        stages: Vec<stages::Stage>,
    },
    /// Builds, brings up and drains docker-compose.yml, with an engine and base images of its own.
    ComposeTest,
    /// Compares what is generated of the documents with the code, and follows their links.
    Docs {
        /// Write what is generated.
        #[arg(long)]
        write: bool,
    },
    /// Types the first ten minutes into a terminal and compares its picture with README.md's.
    Terminal {
        /// Put the picture into README.md.
        #[arg(long)]
        write: bool,
    },
    /// Runs a gateway with two sample workers and shows what to try.
    Demo(demo::Options),
    /// Measures the gateway beside nginx and HAProxy.
    Bench(bench::Options),
    /// Builds the gateway for production, by a profile of its work: the fastest that there is.
    Release,
    /// Feeds the gateway's parsers with what nobody would send.
    Fuzz(fuzz::Options),
    /// Offers the gateway ten times what it takes on, and prints what becomes of it.
    Overload(overload::Options),
    /// Makes workers fail at random for a while, and kills and stops the gateway; prints what became of the requests.
    Soak(soak::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test { stages } => stages::run(&stages),
        Command::ComposeTest => stages::run(&[stages::Stage::Compose]),
        Command::Docs { write: true } => docs::write(),
        Command::Docs { write: false } => docs::test(),
        Command::Terminal { write: true } => terminal::write(),
        Command::Terminal { write: false } => terminal::test(),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Release => release::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Overload(options) => overload::run(&options),
        Command::Soak(options) => soak::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's top folder.
fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("this package lies two folders below the top")
}
