use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use super::checks::{self, Check};
use crate::cli::output;

/// What a check found; the text says what was seen instead.
pub(super) type Verdict = Result<(), String>;

#[derive(Debug)]
enum Outcome {
    Holds,
    Fails(String),
    Skipped(String),
}

/// How the checks went so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    outcomes: BTreeMap<&'static str, Outcome>,
}

/// How many checks went how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) holds: usize,
    pub(super) fails: usize,
    pub(super) skipped: usize,
}

impl Report {
    /// A check that failed once stays failed.
    pub(super) fn record(&mut self, check: &Check, verdict: Verdict) {
        let outcome = match verdict {
            Ok(()) => Outcome::Holds,
            Err(seen) => Outcome::Fails(seen),
        };
        match (self.outcomes.get(check.name), &outcome) {
            (Some(Outcome::Fails(_)), _) => {}
            (Some(Outcome::Holds | Outcome::Skipped(_)) | None, _) => {
                self.outcomes.insert(check.name, outcome);
            }
        }
    }

    pub(super) fn skip(&mut self, check: &Check, reason: &str) {
        self.outcomes.entry(check.name).or_insert_with(|| Outcome::Skipped(reason.to_owned()));
    }

    /// Nothing that is listed is left out: what was not reached is skipped.
    pub(super) fn close(&mut self, reason: &str) {
        for check in checks::ALL {
            self.skip(check, reason);
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for outcome in self.outcomes.values() {
            match outcome {
                Outcome::Holds => tally.holds += 1,
                Outcome::Fails(_) => tally.fails += 1,
                Outcome::Skipped(_) => tally.skipped += 1,
            }
        }
        tally
    }

    /// A line for each check, and under one that fails what was seen and what to do.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let width = checks::ALL.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for (check, outcome) in self.rows() {
            let (word, rest) = match outcome {
                Outcome::Holds => ("holds", check.claim.to_owned()),
                Outcome::Fails(_) => ("FAILS", check.claim.to_owned()),
                Outcome::Skipped(reason) => ("skipped", output::printable(reason)),
            };
            output::line(&format!("{word:<7}  {:<width$}  {rest}", check.name))?;
            if let Outcome::Fails(seen) = outcome {
                let indent = " ".repeat("skipped".len() + 2 + width + 2);
                for line in seen.lines() {
                    output::line(&format!("{indent}saw: {}", output::printable(line)))?;
                }
                output::line(&format!("{indent}do:  {}", check.advice))?;
                output::line(&format!("{indent}see: PROTOCOL.md, \"{}\"", check.section))?;
            }
        }
        let Tally { holds, fails, skipped } = self.tally();
        output::line(&format!("{holds} hold, {fails} do not, {skipped} skipped"))?;
        for (reason, names) in self.skipped() {
            output::line(&format!("skipped {} because {}", counted(names.len()), output::printable(reason)))?;
        }
        Ok(())
    }

    pub(super) fn print_json(&self, worker: Option<&gearway_protocol::Registration>) -> anyhow::Result<()> {
        let rows: Vec<_> = self
            .rows()
            .map(|(check, outcome)| {
                let (word, detail) = match outcome {
                    Outcome::Holds => ("holds", None),
                    Outcome::Fails(seen) => ("fails", Some(seen)),
                    Outcome::Skipped(reason) => ("skipped", Some(reason)),
                };
                json!({
                    "name": check.name, "outcome": word, "detail": detail,
                    "claim": check.claim, "advice": check.advice, "section": check.section,
                })
            })
            .collect();
        let worker =
            worker.map(|worker| json!({"name": worker.name, "url": worker.url, "version": worker.version}));
        let report = json!({"worker": worker, "tally": self.tally(), "checks": rows});
        output::line(&serde_json::to_string_pretty(&report)?)
    }

    fn rows(&self) -> impl Iterator<Item = (&'static Check, &Outcome)> {
        checks::ALL.iter().filter_map(|check| Some((check, self.outcomes.get(check.name)?)))
    }

    fn skipped(&self) -> BTreeMap<&str, Vec<&'static str>> {
        let mut reasons = BTreeMap::<&str, Vec<_>>::new();
        for (check, outcome) in self.rows() {
            match outcome {
                Outcome::Skipped(reason) => reasons.entry(reason).or_default().push(check.name),
                Outcome::Holds | Outcome::Fails(_) => {}
            }
        }
        reasons
    }
}

pub(super) fn counted(checks: usize) -> String {
    if checks == 1 { "1 check".to_owned() } else { format!("{checks} checks") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stays_and_the_rest_is_skipped() {
        let mut report = Report::default();
        report.record(&checks::AUTH_WRONG, Err("200".to_owned()));
        report.record(&checks::AUTH_WRONG, Ok(()));
        report.record(&checks::AUTH_MISSING, Ok(()));
        report.skip(&checks::AUTH_MISSING, "why not");
        report.close("the end");
        let skipped = checks::ALL.len() - 2;
        assert_eq!(report.tally(), Tally { holds: 1, fails: 1, skipped });
    }
}
