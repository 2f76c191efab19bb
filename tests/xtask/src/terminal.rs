//! `cargo xtask terminal`: the first ten minutes, typed into a real terminal, whose picture is in README.md.
//!
//! The picture stands between two comments. Without `--write` it is taken anew and has to be alike: only numbers may differ.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::readme::{Scratch, without_digits};
use crate::stages::missing_program;

const BEGIN: &str = "<!-- not run: a picture, which cargo xtask terminal takes and compares -->\n```text\n";
const END: &str = "```\n";
const PATIENCE: Duration = Duration::from_mins(1);
const APP: &str = r#"import gearway

@gearway.handler("hello")
def hello(request):
    return f"Hello {request.args['name']}"

gearway.run()
"#;

/// What cannot be done on this machine, after an attempt to install it.
pub(crate) fn missing() -> Option<String> {
    missing_program("tmux", &["-V"], "tmux").or_else(crate::readme::missing)
}

/// # Errors
/// When the picture is another one by now.
pub(crate) fn test() -> anyhow::Result<()> {
    let (readme, picture) = (fs::read_to_string(path())?, take()?);
    let (_, shown, _) = parts(&readme)?;
    ensure!(
        lines(&picture) == lines(shown),
        "README.md shows\n{shown}\nand the terminal shows\n{picture}\nTo show that: cargo xtask terminal --write"
    );
    Ok(())
}

/// Puts the picture into README.md.
pub(crate) fn write() -> anyhow::Result<()> {
    let (readme, picture) = (fs::read_to_string(path())?, take()?);
    let (before, _, after) = parts(&readme)?;
    Ok(fs::write(path(), format!("{before}{picture}{after}"))?)
}

/// What a picture says, whatever its numbers are. The routes may be looked at while the worker is away, or not.
fn lines(picture: &str) -> BTreeSet<String> {
    without_digits(picture).filter(|line| !line.ends_with(" away")).collect()
}

fn path() -> std::path::PathBuf {
    crate::workspace().join("README.md")
}

fn parts(readme: &str) -> anyhow::Result<(&str, &str, &str)> {
    let begin = readme.find(BEGIN).context("README.md has no place for the picture")? + BEGIN.len();
    let end = begin + readme[begin..].find(END).context("the picture does not end")?;
    Ok((&readme[..begin], &readme[begin..end], &readme[end..]))
}

fn take() -> anyhow::Result<String> {
    let scratch = Scratch::new()?;
    scratch.write("app.py", APP)?;
    let terminal = Terminal::open(&scratch)?;
    terminal.type_line("cat app.py")?;
    terminal.wait_for("gearway.run()")?;
    terminal.type_line("gearway dev -- python app.py")?;
    terminal.wait_for("/hello")?;
    terminal.wait_for("live")?;
    for query in ["?name=you", ""] {
        let url = scratch.local(&format!("http://127.0.0.1:3000/hello{query}"));
        Command::new("curl").args(["-s", &url]).stdout(Stdio::null()).status()?;
    }
    terminal.wait_for("400 GET")?;
    scratch.write("app.py", &APP.replace("Hello", "Good day"))?;
    terminal.wait_for("restarting the worker")?;
    // The worker is away by now: the request waits for it.
    let url = scratch.local("http://127.0.0.1:3000/hello?name=you");
    Command::new("curl").args(["-s", &url]).stdout(Stdio::null()).status()?;
    terminal.wait_until("the last request", |screen| screen.matches("200 GET").count() >= 2)?;
    let screen = terminal.screen()?;
    Ok(scratch.as_written(&screen).trim().to_owned() + "\n")
}

/// A terminal of 110 columns that nobody looks at.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn open(scratch: &Scratch) -> anyhow::Result<Self> {
        let terminal = Self { socket: format!("gearway-{}", std::process::id()) };
        let mut command = terminal.tmux(&["new-session", "-d", "-x", "110", "-y", "60", "-s", "readme"]);
        scratch.surround(&mut command);
        // What a worker says of itself differs from run to run.
        command.env("GEARWAY_LOG", "WARNING");
        scratch.write("prompt.sh", "PS1='$ '\n")?;
        command.arg("bash --noprofile --rcfile prompt.sh");
        ensure!(command.status().context("cannot run tmux")?.success(), "tmux failed");
        terminal.wait_for("$")?;
        Ok(terminal)
    }

    fn tmux(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command.args(["-f", "/dev/null", "-L", &self.socket]).args(arguments);
        command
    }

    fn type_line(&self, line: &str) -> anyhow::Result<()> {
        ensure!(self.tmux(&["send-keys", "-t", "readme", line, "Enter"]).status()?.success(), "tmux failed");
        Ok(())
    }

    fn screen(&self) -> anyhow::Result<String> {
        let output = self.tmux(&["capture-pane", "-p", "-t", "readme"]).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn wait_for(&self, text: &str) -> anyhow::Result<()> {
        self.wait_until(text, |screen| screen.contains(text))
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen()?;
            if holds(&screen) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "waited in vain for {what}; the terminal shows\n{screen}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]).stderr(Stdio::null()).status().ok();
    }
}
