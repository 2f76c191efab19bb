use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use comfy_table::{Table, presets};
pub(super) use gearway::telemetry::printable;
use serde_json::Value;

/// # Errors
/// When nobody reads.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// As [`line`], for text that ends its own lines.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// As [`text`].
pub(super) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

/// Tells people something that is not the command's result.
pub(super) fn complain(text: &str) {
    // Where nobody reads standard error, there is nobody to tell.
    writeln!(io::stderr().lock(), "{text}").ok();
}

/// What stands out on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Green,
    Yellow,
    Cyan,
    Faint,
}

/// The text in a colour, if standard output is a terminal and nobody has asked for none (<https://no-color.org>).
pub(super) fn paint(colour: Colour, text: &str) -> String {
    static COLOURS: LazyLock<bool> = LazyLock::new(|| {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    });
    if !*COLOURS {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Cyan => 36,
        Colour::Faint => 2,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Rows of JSON values under headings, each in its colour.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [Value; N]>,
    colour: impl Fn(&[Value; N]) -> Option<Colour>,
) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headings);
    let mut colours = vec![Some(Colour::Faint)];
    for row in rows {
        colours.push(colour(&row));
        table.add_row(row.map(|value| cell(&value)));
    }
    // No cell has a line break, so each row is one line.
    for (row, colour) in table.to_string().lines().zip(colours) {
        let row = row.trim();
        match colour {
            Some(colour) => line(&paint(colour, row))?,
            None => line(row)?,
        }
    }
    Ok(())
}

/// A value as people read it. Workers choose some of the texts, so nothing in them may steer the terminal.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => printable(text),
        // JSON leaves some control characters as they are.
        Value::Array(_) | Value::Object(_) => printable(&value.to_string()),
    }
}
