//! The tests that documents name behind what they promise.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// Where the tests are, and what their documents call them from.
const END_TO_END: &str = "tests/e2e";
const UNIT: &str = "gateway/src";

/// # Errors
/// Every test that is named and is not there.
pub(super) fn test(files: &[PathBuf]) -> anyhow::Result<()> {
    let known = known()?;
    let (mut found, mut missing) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(file)?;
        // Of `faults::a` and `…::b`, the second is in the module of the first.
        let mut last = String::new();
        for name in named(&text) {
            let name = match name.strip_prefix("…::") {
                Some(short) => format!("{last}::{short}"),
                None => name.to_owned(),
            };
            let Some((module, function)) = name.rsplit_once("::") else { continue };
            let is_module = known.iter().any(|known| known.starts_with(&format!("{module}::")));
            if !is_module || function.starts_with(char::is_uppercase) {
                // A type, or a path of somebody else's.
                continue;
            }
            found += 1;
            if !is_known(&known, &name) {
                missing.push(format!("{}: {name}", file.display()));
            }
            last = module.to_owned();
        }
    }
    ensure!(missing.is_empty(), "tests that are named and not there:\n{}", missing.join("\n"));
    ensure!(found > 0, "no document names a test");
    println!("{found} tests that documents name are there");
    Ok(())
}

/// Whether there is such a test; `*` and `…` stand for any text.
fn is_known(known: &BTreeSet<String>, name: &str) -> bool {
    let any = ['*', '…'];
    match name.split_once(any) {
        None => known.contains(name),
        Some((start, end)) => {
            let end = end.rsplit(any).next().unwrap_or_default();
            known.iter().any(|known| known.starts_with(start) && known.ends_with(end))
        }
    }
}

/// What stands in backticks and looks like a test's path.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_path = |text: &&str| {
        text.contains("::")
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '*' | '…'))
    };
    text.split('`').skip(1).step_by(2).filter(is_path)
}

/// Every function of the tests' files by its path.
fn known() -> anyhow::Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for folder in [END_TO_END, UNIT] {
        let root = crate::workspace().join(folder);
        collect(&root, &root, &mut known)?;
    }
    Ok(known)
}

fn collect(root: &Path, folder: &Path, known: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, known)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.strip_prefix(root)?.with_extension("");
            let module = module.to_str().context("a file's name is UTF-8")?.replace('/', "::");
            let text = fs::read_to_string(&path)?;
            let functions = text.lines().filter_map(|line| {
                let line = line.trim_start();
                let line = line
                    .strip_prefix("pub(super) ")
                    .or_else(|| line.strip_prefix("pub(crate) "))
                    .unwrap_or(line);
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
                name.split(['(', '<']).next()
            });
            // Unit tests in the file itself are in a module of it.
            for function in functions {
                known.insert(format!("{module}::{function}"));
                known.insert(format!("{module}::tests::{function}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_in_backticks() {
        let text = "shown by `faults::a_b`, `…::c` and `kills::*_killed`, in `Option::None` not, nor a::b; `cargo x::y z`";
        assert_eq!(
            named(text).collect::<Vec<_>>(),
            ["faults::a_b", "…::c", "kills::*_killed", "Option::None"]
        );
        let known = BTreeSet::from(["faults::a_b".to_owned(), "kills::rust_are_killed".to_owned()]);
        assert!(
            is_known(&known, "faults::a_b")
                && is_known(&known, "kills::*_killed")
                && is_known(&known, "kills::rust_…")
        );
        assert!(!is_known(&known, "faults::a") && !is_known(&known, "kills::*_stopped"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.md");
        let test_of = |text: &str| {
            fs::write(&file, text).unwrap();
            test(std::slice::from_ref(&file))
        };
        test_of("`faults::answers_match_what_has_run`, `…::a_worker_that_accepts_and_closes_runs_nothing`")
            .unwrap();
        let error = test_of("`faults::answers_match_what_has_run`, `…::nobody_wrote_this`").unwrap_err();
        assert!(error.to_string().contains("faults::nobody_wrote_this"), "{error}");
    }
}
