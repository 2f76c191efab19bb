//! The documents: their links lead somewhere, the tests that they name are there, their snippets make sense, and what is generated is up to
//! date.

mod promises;
mod snippets;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const CONFIGURATION: &str = "docs/configuration.md";

/// # Errors
/// Every link that leads nowhere, and what was not generated anew.
pub(crate) fn test() -> anyhow::Result<()> {
    let generated = fs::read_to_string(crate::workspace().join(CONFIGURATION)).unwrap_or_default();
    ensure!(
        generated == configuration()?,
        "{CONFIGURATION} is not that of the code: cargo xtask docs --write"
    );
    let mut dead = Vec::new();
    let files = files()?;
    for file in &files {
        let text = fs::read_to_string(file)?;
        let folder = file.parent().context("a file lies in a folder")?;
        dead.extend(links(&text).filter(|link| !leads(folder, file, link)).map(|link| {
            let shown = file.strip_prefix(crate::workspace()).unwrap_or(file);
            format!("{}: {link}", shown.display())
        }));
    }
    ensure!(dead.is_empty(), "links that lead nowhere:\n{}", dead.join("\n"));
    println!("{} documents, all links lead somewhere", files.len());
    promises::test(&files)?;
    snippets::test(&files)
}

/// Writes what is generated.
pub(crate) fn write() -> anyhow::Result<()> {
    Ok(fs::write(crate::workspace().join(CONFIGURATION), configuration()?)?)
}

fn configuration() -> anyhow::Result<String> {
    let template = fs::read_to_string(crate::workspace().join("gateway/config.default.toml"))?;
    Ok(format!(
        "# Configuration\n\n`gearway config-template` prints this; `gearway check --config FILE` names every mistake by key and \
         line. A test holds it to\nthe code: every key is here, with its default.\n\n```toml\n{template}```\n"
    ))
}

/// The Markdown files that belong to the repository.
fn files() -> anyhow::Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .current_dir(crate::workspace())
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
        .output()
        .context("cannot run git")?;
    let names = String::from_utf8(output.stdout)?;
    Ok(names.lines().map(|name| crate::workspace().join(name)).filter(|file| file.is_file()).collect())
}

/// The targets of `[text](target)` outside fences, without those that leave the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        !fenced && !is_fence
    });
    prose
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
}

fn leads(folder: &Path, file: &Path, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { file.to_owned() } else { folder.join(path) };
    target.exists() && (anchor.is_empty() || has_anchor(&target, anchor))
}

fn has_anchor(file: &Path, anchor: &str) -> bool {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|heading| slug(heading) == anchor)
}

/// As GitHub makes anchors of headings.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_those_of_prose() {
        let text = "[a](b.md) and [c](https://d) [e](#f)\n```\n[g](h)\n```\n";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md", "#f"]);
        assert_eq!(slug("## Once, or `again`?"), "once-or-again");
    }
}
