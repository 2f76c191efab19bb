use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::output;

/// What holds for every command: name and text.
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGTERM, SIGINT",
        "Drain: no new connections, what runs finishes within public.drain_timeout, exit with 0.",
    ),
    ("SIGHUP", "Read the configuration file and the certificates again. A bad file changes nothing."),
    (
        "SIGUSR2",
        "Start the binary that is on disk now, hand the listening sockets and the data_dir over to it, and drain. Nobody is refused.",
    ),
];
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "It did what it should."),
    ("1", "It failed; standard error says why."),
    ("2", "The arguments make no sense."),
];
const ENVIRONMENT: [(&str, &str); 5] = [
    ("GEARWAY_CONFIG", "The configuration file."),
    ("GEARWAY_DATA_DIR", "The folder of what outlives the process."),
    (
        "GEARWAY_SECTION__KEY",
        "A key of the configuration, its path joined by two underscores: GEARWAY_PUBLIC__LISTEN=0.0.0.0:80. It goes before the file.",
    ),
    (
        "GEARWAY_ADMIN, GEARWAY_ADMIN_TOKEN",
        "The admin listener that commands ask, and the token that they show it.",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "The OpenTelemetry collector that is told of traces. OTEL_SERVICE_NAME, OTEL_EXPORTER_OTLP_HEADERS and OTEL_TRACES_SAMPLER count as well.",
    ),
];

/// Prints gearway(1), or writes it and a page for each command to a folder.
pub(super) fn run(command: Command, dir: Option<&Path>) -> anyhow::Result<()> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let Some(dir) = dir else {
        return output::bytes(&page("gearway", &command)?);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, page) in pages("gearway", &command)? {
        let file = dir.join(format!("{name}.1"));
        fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The pages of a command and of those below it, by name.
fn pages(name: &str, command: &Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut all = vec![(name.to_owned(), page(name, command)?)];
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        all.extend(pages(&format!("{name}-{}", below.get_name()), below)?);
    }
    Ok(all)
}

fn page(name: &str, command: &Command) -> anyhow::Result<Vec<u8>> {
    let is_top = name == "gearway";
    let man = Man::new(command.clone().display_name(name)).title(name).section("1");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut out)?;
    }
    let mut rest = Roff::new();
    if is_top {
        section(&mut rest, "SIGNALS", &SIGNALS);
        section(&mut rest, "ENVIRONMENT", &ENVIRONMENT);
    }
    section(&mut rest, "EXIT STATUS", &EXIT_STATUS);
    if is_top {
        rest.control("SH", ["FILES"]);
        rest.text([roman("gearway config-template prints every key of the configuration with its default.")]);
    } else {
        rest.control("SH", ["SEE ALSO"]);
        rest.text([bold("gearway"), roman("(1)")]);
    }
    rest.to_writer(&mut out)?;
    Ok(out)
}

fn section(roff: &mut Roff, heading: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [heading]);
    for (name, text) in entries {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*text)]);
    }
}
