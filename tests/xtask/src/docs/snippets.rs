//! What stands in the documents' fences: configurations that the gateway takes, JSON and code that can be parsed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::binaries;
use crate::readme::blocks;

/// # Errors
/// Every snippet that does not make sense in its language.
pub(super) fn test(files: &[PathBuf]) -> anyhow::Result<()> {
    let gearway = binaries::build()?.join("gearway");
    let scratch = tempfile::tempdir()?;
    let (mut checked, mut wrong) = (0, Vec::new());
    for file in files {
        let text = fs::read_to_string(file)?;
        let shown = file.strip_prefix(crate::workspace()).unwrap_or(file).display();
        for block in blocks(&text).with_context(|| shown.to_string())? {
            let outcome = match block.language {
                "toml" => configuration(&gearway, scratch.path(), &block.text),
                "json" => json(&block.text),
                "http" => json(block.text.split_once("\n\n").map_or("", |(_, body)| body)),
                "sh" => parses("bash", &["-n"], &block.text),
                "python" => {
                    parses("python3", &["-c", "import ast, sys; ast.parse(sys.stdin.read())"], &block.text)
                }
                "js" => parses("node", &["--input-type=module", "--check"], &block.text),
                _ => continue,
            };
            checked += 1;
            if let Err(error) = outcome {
                wrong.push(format!("{shown}:{}: {error:#}", block.line));
            }
        }
    }
    ensure!(wrong.is_empty(), "snippets that make no sense:\n{}", wrong.join("\n"));
    ensure!(checked > 0, "there are no snippets");
    println!("{checked} snippets make sense");
    Ok(())
}

/// One value after the other, or none.
fn json(text: &str) -> anyhow::Result<()> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>();
    for value in values {
        value?;
    }
    Ok(())
}

/// Whether the gateway takes it. The files that it names need not be there.
fn configuration(gearway: &Path, scratch: &Path, text: &str) -> anyhow::Result<()> {
    let mut table: toml::Table = text.parse()?;
    without_files(&mut table);
    let file = scratch.join("gearway.toml");
    fs::write(&file, table.to_string())?;
    let output =
        Command::new(gearway).args(["check", "--config"]).arg(&file).current_dir(scratch).output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}", String::from_utf8_lossy(&output.stderr).trim())
}

fn without_files(table: &mut toml::Table) {
    table.retain(|name, _| !name.ends_with("_file"));
    for (_, value) in table.iter_mut() {
        if let toml::Value::Table(below) = value {
            without_files(below);
        }
    }
}

fn parses(program: &str, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("it takes {program}"))?;
    child.stdin.take().context("its input is piped")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{}", String::from_utf8_lossy(&output.stderr).trim())
}
