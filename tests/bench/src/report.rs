//! A run's figures: its file, its table, and what changed since another.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::measure::{Effort, Idle, Measured, Row, Turn};

/// The proxy that the others are compared with.
pub(crate) const REFERENCE: &str = "nginx";

/// Everything that a run found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// What each proxy says about itself, in the order of their turns.
    pub(crate) versions: Vec<(String, String)>,
    pub(crate) effort: Effort,
    pub(crate) rows: Vec<Measured>,
    pub(crate) idle_kib: Idle,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    RequestsPerSecond,
    AloneP50,
    P50,
    P99,
    Cpu,
    Peak,
}

impl Figure {
    pub(crate) const ALL: [Self; 6] =
        [Self::RequestsPerSecond, Self::AloneP50, Self::P50, Self::P99, Self::Cpu, Self::Peak];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests/s",
            Self::AloneP50 => "p50 at 1, µs",
            Self::P50 => "p50 at 64, µs",
            Self::P99 => "p99 at 64, µs",
            Self::Cpu => "CPU, µs",
            Self::Peak => "peak RSS, MiB",
        }
    }

    fn of(self, turn: &Turn) -> f64 {
        match self {
            Self::RequestsPerSecond => turn.requests_per_second,
            Self::AloneP50 => turn.alone_p50_us,
            Self::P50 => turn.p50_us,
            Self::P99 => turn.p99_us,
            Self::Cpu => turn.cpu_us,
            Self::Peak => turn.peak_mib,
        }
    }

    /// The ratio to the reference that is wanted of the gateway, and whether it is at least or at most that.
    pub(crate) fn target(self, measured: &Measured) -> Option<Target> {
        if measured.threads != 1 {
            return None;
        }
        match (self, measured.row) {
            (Self::Cpu, Row::Get | Row::Post1KiB) => Some(Target::AtMost(1.0)),
            (Self::Cpu, Row::Post64KiB) => Some(Target::AtMost(1.1)),
            (Self::Cpu, Row::Post1MiB) => Some(Target::AtMost(1.3)),
            (Self::RequestsPerSecond, _) => Some(Target::AtLeast(0.95)),
            (Self::AloneP50, _) => Some(Target::AtMost(1.1)),
            (Self::P99, _) => Some(Target::AtMost(1.2)),
            (Self::Cpu, Row::Idle) | (Self::P50 | Self::Peak, _) => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    pub(crate) fn is_reached(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit:.2}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit:.2}"),
        }
    }
}

impl Measured {
    /// The median over the rounds.
    pub(crate) fn median(&self, proxy: &str, figure: Figure) -> Option<f64> {
        median(self.proxies.get(proxy)?.iter().map(|turn| figure.of(turn)).collect())
    }

    /// The median over the rounds of the ratio to the reference in the same round: what drifts, drifts for both.
    pub(crate) fn ratio(&self, proxy: &str, figure: Figure) -> Option<f64> {
        let turns = self.proxies.get(proxy)?.iter().zip(self.proxies.get(REFERENCE)?);
        median(turns.map(|(turn, reference)| figure.of(turn) / figure.of(reference)).collect())
    }
}

pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

impl Report {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{} is no report of a run", file.display()))
    }

    pub(crate) fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(file, text).with_context(|| file.display().to_string())
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.versions.iter().map(|(name, _)| name.as_str())
    }

    /// For people: a block for each row, a line for each proxy, the ratio to the reference after each figure.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}\n{}\n", self.origin(), self.versions_line());
        for measured in &self.rows {
            let threads = if measured.threads == 1 {
                "1 thread".into()
            } else {
                format!("{} threads", measured.threads)
            };
            text += &format!("\n{:<22}", format!("{}, {threads}", measured.row.title()));
            for figure in Figure::ALL {
                text += &format!("{:>18}", figure.title());
            }
            for name in self.names().filter(|name| measured.proxies.contains_key(*name)) {
                text += &format!("\n  {name:<20}");
                for figure in Figure::ALL {
                    text += &format!("{:>18}", self.cell(measured, name, figure));
                }
            }
            text += "\n";
        }
        if !self.idle_kib.is_empty() {
            text += "\nKiB an idle connection";
            for name in self.names() {
                if let Some(kib) = self.idle_kib.get(name) {
                    text += &format!("   {name} {kib:.1}");
                }
            }
            text += "\n";
        }
        text
    }

    fn cell(&self, measured: &Measured, name: &str, figure: Figure) -> String {
        let Some(value) = measured.median(name, figure) else { return "–".to_owned() };
        let value = if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        match measured.ratio(name, figure) {
            Some(ratio) if name != REFERENCE => format!("{value} ({ratio:.2})"),
            _ => value,
        }
    }

    fn origin(&self) -> String {
        let Machine { processor, cores, memory_mib, system } = &self.machine;
        format!(
            "{}, commit {}; {processor}, {cores} cores, {:.0} GiB, {system}; medians of {} rounds of {} ms",
            self.date,
            self.commit,
            *memory_mib as f64 / 1024.0,
            self.effort.rounds,
            self.effort.turn.as_millis()
        )
    }

    fn versions_line(&self) -> String {
        let versions: Vec<_> =
            self.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        versions.join("; ")
    }

    /// For a page: the same as a Markdown table, and what was wanted and not reached.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}.\n{}.\n\n| row | proxy |", self.origin(), self.versions_line());
        for figure in Figure::ALL {
            text += &format!(" {} |", figure.title());
        }
        text += "\n|---|---|";
        text += &"---|".repeat(Figure::ALL.len());
        for measured in &self.rows {
            let threads =
                if measured.threads == 1 { String::new() } else { format!(", {} threads", measured.threads) };
            for name in self.names().filter(|name| measured.proxies.contains_key(*name)) {
                text += &format!("\n| {}{threads} | {name} |", measured.row.title());
                for figure in Figure::ALL {
                    text += &format!(" {} |", self.cell(measured, name, figure));
                }
            }
        }
        text += "\n";
        if !self.idle_kib.is_empty() {
            let list: Vec<_> = self
                .names()
                .filter_map(|name| Some(format!("{name} {:.1} KiB", self.idle_kib.get(name)?)))
                .collect();
            text += &format!("\nAn idle keep-alive connection: {}.\n", list.join(", "));
        }
        text + &self.verdicts()
    }

    /// Each ratio that is wanted of the gateway, and whether it was reached.
    fn verdicts(&self) -> String {
        let mut text =
            String::from("\n| wanted of gearway | ratio to nginx | wanted | |\n|---|---|---|---|\n");
        for measured in &self.rows {
            for figure in Figure::ALL {
                let (Some(target), Some(ratio)) =
                    (figure.target(measured), measured.ratio("gearway", figure))
                else {
                    continue;
                };
                let verdict = if target.is_reached(ratio) { "reached" } else { "**not reached**" };
                text += &format!(
                    "| {}, {} | {ratio:.2} | {target} | {verdict} |\n",
                    measured.row.title(),
                    figure.title().split(',').next().unwrap_or_default()
                );
            }
        }
        text
    }

    /// What changed since an older run: ratios where both have a reference, since machines and days differ.
    pub(crate) fn changes_since(&self, old: &Self) -> String {
        let mut text = format!("\nSince {}, commit {}:\n", old.date, old.commit);
        let key = |measured: &Measured| (measured.row, measured.threads);
        let before: BTreeMap<_, _> = old.rows.iter().map(|measured| (key(measured), measured)).collect();
        for measured in &self.rows {
            let Some(before) = before.get(&key(measured)) else { continue };
            for name in self.names() {
                let cells = Figure::ALL.into_iter().filter_map(|figure| {
                    let was = before.ratio(name, figure).or_else(|| before.median(name, figure))?;
                    let is = measured.ratio(name, figure).or_else(|| measured.median(name, figure))?;
                    Some(format!("{} {was:.2} → {is:.2} ({:+.0}%)", figure.title(), (is / was - 1.0) * 100.0))
                });
                let cells: Vec<_> = cells.collect();
                if name != REFERENCE && !cells.is_empty() {
                    text += &format!(
                        "{}, {} threads, {name}, ratios: {}\n",
                        measured.row.title(),
                        measured.threads,
                        cells.join("; ")
                    );
                }
            }
        }
        for (name, kib) in &self.idle_kib {
            if let Some(was) = old.idle_kib.get(name) {
                text += &format!("KiB an idle connection, {name}: {was:.1} → {kib:.1}\n");
            }
        }
        text
    }
}
