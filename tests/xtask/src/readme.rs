//! README.md and the documents, run from their own text.
//!
//! A comment before a fence says how: `<!-- file: NAME -->` keeps the block as a file of the scratch folder,
//! `<!-- background: TEXT -->` starts its command and waits until it prints TEXT, `<!-- not run: WHY -->` leaves it alone, and
//! `<!-- stop -->` ends what runs in the background, `<!-- stop last -->` what was started last, and `<!-- start TEXT: COMMAND -->` starts what
//! no block shows and waits until it prints TEXT. Other `sh` blocks are run, and must succeed; of `console` blocks each
//! line that starts with `$ ` is run, and must print what follows it. Ports 3000 and 3001 become free ones.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::binaries;
use crate::stages::{missing_program, missing_venv};

const PATIENCE: Duration = Duration::from_mins(2);
/// For a command to end when nobody cares any more about what it says.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// What cannot be done on this machine, after an attempt to install it.
pub(crate) fn missing() -> Option<String> {
    missing_program("curl", &["--version"], "curl").or_else(missing_venv)
}

/// # Errors
/// The block that does not do what it says.
pub(crate) fn test() -> anyhow::Result<()> {
    run("README.md")?;
    let mut documents: Vec<_> = fs::read_dir(crate::workspace().join("docs"))?
        .map(|entry| anyhow::Ok(entry?.file_name().into_string().unwrap_or_default()))
        .collect::<Result<_, _>>()?;
    documents.retain(|name| name.ends_with(".md"));
    documents.sort();
    documents.iter().try_for_each(|name| run(&format!("docs/{name}")))
}

/// Runs what a document says.
fn run(document: &str) -> anyhow::Result<()> {
    let text = fs::read_to_string(crate::workspace().join(document))?;
    let blocks = blocks(&text).with_context(|| document.to_owned())?;
    if !blocks.iter().any(|block| matches!(block.language, "sh" | "console")) {
        return Ok(());
    }
    let mut scratch = Scratch::new()?;
    let (mut ran, mut left) = (0, 0);
    for block in blocks {
        let outcome = match (&block.how, block.language) {
            (How::NotRun, _) => {
                left += 1;
                continue;
            }
            (How::File(name), _) => scratch.write(name, &block.text),
            (How::Background(until), _) => scratch.start(&block.text, until),
            (How::Start(until, command), _) => scratch.start(command, until),
            (How::Stop, _) => scratch.stop(),
            (How::StopLast, _) => scratch.stop_last(),
            (How::Run, "sh") => scratch.run(&block.text),
            (How::Run, "console") => scratch.console(&block.text),
            (How::Run, _) => continue,
        };
        outcome.with_context(|| format!("{document}:{}", block.line))?;
        ran += 1;
    }
    println!("{document}: {ran} blocks did what they say, {left} are marked as not run");
    scratch.stop()
}

#[derive(Debug, PartialEq)]
enum How {
    Run,
    File(String),
    Background(String),
    /// Until it prints this, and the command.
    Start(String, String),
    NotRun,
    Stop,
    StopLast,
}

#[derive(Debug)]
pub(crate) struct Block<'t> {
    pub(crate) line: usize,
    pub(crate) language: &'t str,
    how: How,
    pub(crate) text: String,
}

/// The fenced blocks of a document, with what is said before each.
pub(crate) fn blocks(text: &str) -> anyhow::Result<Vec<Block<'_>>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut how = How::Run;
    let mut open = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(fence) = line.strip_prefix("```") {
            if !open {
                let how = std::mem::replace(&mut how, How::Run);
                blocks.push(Block { line: number + 1, language: fence, how, text: String::new() });
            }
            open = !open;
        } else if open {
            let block = blocks.last_mut().context("a line of no block")?;
            block.text.push_str(line);
            block.text.push('\n');
        } else if let Some(comment) = line.strip_prefix("<!-- ").and_then(|line| line.strip_suffix(" -->")) {
            how = match comment.split_once(": ") {
                Some(("file", name)) => How::File(name.to_owned()),
                Some(("background", until)) => How::Background(until.to_owned()),
                Some(("not run", _)) => How::NotRun,
                Some((start, command)) if start.starts_with("start ") => {
                    let how = How::Start(start["start ".len()..].to_owned(), command.to_owned());
                    blocks.push(Block { line: number + 1, language: "", how, text: String::new() });
                    How::Run
                }
                None if comment == "stop" || comment == "stop last" => {
                    let how = if comment == "stop" { How::Stop } else { How::StopLast };
                    blocks.push(Block { line: number + 1, language: "", how, text: String::new() });
                    How::Run
                }
                _ => bail!("line {}: what is <!-- {comment} -->?", number + 1),
            };
        } else if !line.trim().is_empty() {
            how = How::Run;
        }
    }
    Ok(blocks)
}

/// A folder in which the blocks run, with the gateway and the Python SDK on the path.
pub(crate) struct Scratch {
    folder: TempDir,
    path: String,
    ports: [(&'static str, String); 2],
    running: Vec<Child>,
}

impl Scratch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let binaries = binaries::build()?;
        let venv = crate::workspace().join("target").join("readme").join("venv");
        if !venv.join("bin").join("python").exists() {
            succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        }
        let sdk = crate::workspace().join("plugin-protocol").join("python");
        let mut install = Command::new(venv.join("bin").join("pip"));
        succeed(install.args(["install", "--quiet", "--disable-pip-version-check", "--editable"]).arg(sdk))?;
        let inherited = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{}:{inherited}", binaries.display(), venv.join("bin").display());
        let (public, admin) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let port = |listener: &TcpListener| anyhow::Ok(listener.local_addr()?.port().to_string());
        let folder = tempfile::tempdir()?;
        let samples = crate::workspace().join("sample-plugins");
        std::os::unix::fs::symlink(samples, folder.path().join("sample-plugins"))?;
        Ok(Self {
            folder,
            path,
            ports: [("3000", port(&public)?), ("3001", port(&admin)?)],
            running: Vec::new(),
        })
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        // Commands of the repository are run in it, and listen where the blocks' URLs now point.
        let script = script
            .replace("cargo xtask demo", "cargo xtask demo --public 127.0.0.1:3000 --admin 127.0.0.1:3001")
            .replace("cargo xtask", "cd \"$REPOSITORY\" && cargo xtask");
        command.args(["-euo", "pipefail", "-c", &self.local(&script)]).stdin(Stdio::null());
        self.surround(&mut command);
        command
    }

    /// The text with the ports that are free here.
    pub(crate) fn local(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (port, free)| text.replace(port, free))
    }

    /// The text with the ports that README.md has.
    pub(crate) fn as_written(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (port, free)| text.replace(free, port))
    }

    /// What a command finds here.
    pub(crate) fn surround(&self, command: &mut Command) {
        command.current_dir(self.folder.path()).env("PATH", &self.path).env("REPOSITORY", crate::workspace());
        // gearway itself listens where the blocks' URLs now point.
        command.env("GEARWAY_PUBLIC__LISTEN", format!("127.0.0.1:{}", self.ports[0].1));
        command.env("GEARWAY_ADMIN__LISTEN", format!("127.0.0.1:{}", self.ports[1].1));
        command.env("GEARWAY_GATEWAY", format!("http://127.0.0.1:{}", self.ports[1].1));
        command.env("GEARWAY_ADMIN", format!("http://127.0.0.1:{}", self.ports[1].1));
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path: PathBuf = self.folder.path().join(Path::new(name).file_name().context("a file's name")?);
        Ok(fs::write(path, text)?)
    }

    fn run(&self, script: &str) -> anyhow::Result<()> {
        succeed(&mut self.shell(script))
    }

    /// What a command prints may take a moment to become so: a worker has to register first.
    fn console(&self, text: &str) -> anyhow::Result<()> {
        let mut commands: Vec<(String, String)> = Vec::new();
        for line in text.lines() {
            match (line.strip_prefix("$ "), commands.last_mut()) {
                (Some(command), _) => commands.push((command.to_owned(), String::new())),
                (None, Some((command, _))) if command.ends_with('\\') => {
                    command.push('\n');
                    command.push_str(line);
                }
                (None, Some((_, expected))) => {
                    expected.push_str(line);
                    expected.push('\n');
                }
                (None, None) => bail!("a console block begins with a command"),
            }
        }
        for (command, expected) in commands {
            let end = Instant::now() + PATIENCE;
            loop {
                let output = self.shell(&format!("{{ {command}\n}} 2>&1")).output()?;
                let printed = String::from_utf8_lossy(&output.stdout).into_owned();
                if alike(&printed, &expected) {
                    break;
                }
                ensure!(Instant::now() < end, "$ {command}\nprinted\n{printed}instead of\n{expected}");
                thread::sleep(Duration::from_millis(200));
            }
        }
        Ok(())
    }

    fn start(&mut self, text: &str, until: &str) -> anyhow::Result<()> {
        let script = text.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line));
        let mut command = self.shell(&format!("exec 2>&1; {}", script.collect::<Vec<_>>().join("\n")));
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().context("no output")?;
        self.running.push(child);
        let printed = Arc::new(Mutex::new(String::new()));
        let seen = Arc::clone(&printed);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(mut seen) = seen.lock() {
                    seen.push_str(&line);
                    seen.push('\n');
                }
            }
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let so_far = printed.lock().map(|text| text.clone()).unwrap_or_default();
            if so_far.contains(until) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{text}did not print {until:?}, but\n{so_far}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        while !self.running.is_empty() {
            self.stop_last()?;
        }
        Ok(())
    }

    fn stop_last(&mut self) -> anyhow::Result<()> {
        let mut child = self.running.pop().context("nothing runs in the background")?;
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            kill_process_group(group, Signal::INT).ok();
        }
        child.wait()?;
        Ok(())
    }
}

impl Drop for Scratch {
    /// After a block that failed. `gearway dev` ends its worker, which has a process group of its own, if it is asked to end.
    fn drop(&mut self) {
        for mut child in std::mem::take(&mut self.running).into_iter().rev() {
            let Some(group) = Pid::from_raw(child.id().cast_signed()) else { continue };
            kill_process_group(group, Signal::INT).ok();
            let end = Instant::now() + LAST_PATIENCE;
            while Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(20));
            }
            kill_process_group(group, Signal::KILL).ok();
            child.wait().ok();
        }
    }
}

/// The same but for digits, which tell times, ids and ports, and for white space at the ends of lines.
fn alike(printed: &str, expected: &str) -> bool {
    without_digits(printed.trim_end()).eq(without_digits(expected.trim_end()))
}

/// The text's lines with a zero in place of each run of digits, and of each word of 12 and more hexadecimal ones.
pub(crate) fn without_digits(text: &str) -> impl Iterator<Item = String> {
    let id =
        |word: &str| word.len() >= 12 && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.lines().map(move |line| {
        let line: Vec<&str> = line.split(' ').map(|word| if id(word) { "0" } else { word }).collect();
        let line = line.join(" ");
        let mut out = String::new();
        for c in line.trim_end().chars() {
            match c {
                '0'..='9' if out.ends_with('0') => {}
                '0'..='9' => out.push('0'),
                c => out.push(c),
            }
        }
        out
    })
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_with_what_is_said_before_them() {
        let text = "<!-- file: a.py -->\n```python\nx\n```\n\n<!-- not run: slow -->\n\n```sh\ny\n```\n<!-- stop -->\n```console\n$ z\n```\n";
        let blocks = blocks(text).unwrap();
        let read: Vec<_> =
            blocks.iter().map(|block| (&block.how, block.language, block.text.as_str())).collect();
        assert_eq!(
            read,
            [
                (&How::File("a.py".into()), "python", "x\n"),
                (&How::NotRun, "sh", "y\n"),
                (&How::Stop, "", ""),
                (&How::Run, "console", "$ z\n"),
            ]
        );
        assert!(super::blocks("<!-- runs -->\n").is_err());
    }

    /// The worker stands for that of `gearway dev`: in a process group of its own, and ended by its parent.
    #[test]
    fn a_block_that_fails_leaves_nothing_behind() {
        let kept = tempfile::tempdir().unwrap();
        let ports = [("3000", "3000".to_owned()), ("3001", "3001".to_owned())];
        let path = std::env::var("PATH").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut scratch = Scratch { folder, path, ports, running: Vec::new() };
        let written = kept.path().join("worker");
        let script = format!(
            r#"setsid sleep 1000 & worker=$!; trap 'kill $worker; wait $worker; exit' INT; echo $worker > {}; echo begun; wait"#,
            written.display()
        );
        scratch.start(&script, "begun").unwrap();
        let worker = fs::read_to_string(written).unwrap().trim().parse().unwrap();
        let worker = Pid::from_raw(worker).unwrap();
        assert!(rustix::process::test_kill_process(worker).is_ok());
        drop(scratch);
        assert!(rustix::process::test_kill_process(worker).is_err());
    }

    #[test]
    fn numbers_may_differ_and_nothing_else() {
        assert!(alike("gateway 0.3 ms \n", "gateway 12.45 ms\n"));
        assert!(!alike("gateway 0.3 ms\n", "gateway 0.3 s\n"));
        assert!(!alike("a\nb\n", "a\n"));
        assert!(alike("id 1a221c831c200000 x\n", "id 1b221c83ffff0000 x\n"));
    }
}
