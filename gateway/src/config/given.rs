//! A value as a source gave it, before anybody knows what it means.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value from the file, or text from anywhere else. Text stands for whatever its key wants: a list is split at
/// commas, a number is written in digits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    Toml(&'a Spanned<DeValue<'a>>),
    Text(&'a str),
}

/// Why a value cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// The byte of the file where the value starts; `None` for text that is not from the file.
    pub(super) at: Option<usize>,
    /// The field of a table inside the key's value.
    pub(super) field: Option<String>,
    pub(super) message: String,
}

impl From<Problem> for Vec<Problem> {
    fn from(problem: Problem) -> Self {
        vec![problem]
    }
}

impl Problem {
    #[must_use]
    pub(super) fn in_field(mut self, name: &str) -> Self {
        self.field = Some(name.to_owned());
        self
    }
}

impl<'a> Given<'a> {
    pub(super) fn at(self) -> Option<usize> {
        match self {
            Self::Toml(value) => Some(value.span().start),
            Self::Text(_) => None,
        }
    }

    pub(super) fn problem(self, message: impl Into<String>) -> Problem {
        Problem { at: self.at(), field: None, message: message.into() }
    }

    /// The value is of the wrong type; `what` is the right one, as "a string". The value itself stays out of the
    /// text, for it may be a secret.
    pub(super) fn expected(self, what: &str) -> Problem {
        self.problem(format!("expected {what}, found {}", self.kind()))
    }

    pub(super) fn string(self) -> Result<&'a str, Problem> {
        match self {
            Self::Toml(value) => value.get_ref().as_str().ok_or_else(|| self.expected("a string")),
            Self::Text(text) => Ok(text),
        }
    }

    pub(super) fn boolean(self) -> Result<bool, Problem> {
        match self {
            Self::Toml(value) => value.get_ref().as_bool().ok_or_else(|| self.expected("a boolean")),
            Self::Text("true") => Ok(true),
            Self::Text("false") => Ok(false),
            Self::Text(text) => {
                Err(self.problem(format!("{} is not a boolean; write true or false", quote(text))))
            }
        }
    }

    /// A whole number; one that is too large for the type becomes the largest, for the key's bounds to refuse.
    pub(super) fn whole_number(self) -> Result<u64, Problem> {
        let (digits, radix) = match self {
            Self::Toml(value) => {
                let number = value.get_ref().as_integer().ok_or_else(|| self.expected("an integer"))?;
                (number.as_str(), number.radix())
            }
            Self::Text(text) => (text, 10),
        };
        match u64::from_str_radix(digits, radix) {
            Ok(number) => Ok(number),
            Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => Ok(u64::MAX),
            Err(_) => Err(self.problem(format!("{} is not a whole number from 0 up", self.show()))),
        }
    }

    /// The elements of a list; `of` says what they are, as "strings".
    pub(super) fn list(self, of: &str) -> Result<Vec<Self>, Problem> {
        match self {
            Self::Toml(value) => match value.get_ref() {
                DeValue::Array(items) => Ok(items.iter().map(Given::Toml).collect()),
                DeValue::String(_) => {
                    Err(self.problem(format!("expected a list of {of}, found a string; write [\"…\"]")))
                }
                DeValue::Integer(_)
                | DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Table(_) => Err(self.expected(&format!("a list of {of}"))),
            },
            Self::Text("") => Ok(Vec::new()),
            Self::Text(text) => Ok(text.split(',').map(|item| Given::Text(item.trim())).collect()),
        }
    }

    pub(super) fn table(self) -> Option<&'a DeTable<'a>> {
        match self {
            Self::Toml(value) => value.get_ref().as_table(),
            Self::Text(_) => None,
        }
    }

    /// The value as it was written, for messages about keys that are no secrets.
    pub(super) fn show(self) -> String {
        match self {
            Self::Toml(value) => match value.get_ref() {
                DeValue::String(text) => quote(text),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(_)
                | DeValue::Boolean(_)
                | DeValue::Datetime(_)
                | DeValue::Array(_)
                | DeValue::Table(_) => self.kind().to_owned(),
            },
            Self::Text(text) => quote(text),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Toml(value) => match value.get_ref() {
                DeValue::String(_) => "a string",
                DeValue::Integer(_) => "an integer",
                DeValue::Float(_) => "a float",
                DeValue::Boolean(_) => "a boolean",
                DeValue::Datetime(_) => "a date",
                DeValue::Array(_) => "a list",
                DeValue::Table(_) => "a table",
            },
            Self::Text(_) => "text",
        }
    }
}

/// Reads every item, so that each bad one is named and not only the first.
pub(super) fn each<'a, T, P: Into<Vec<Problem>>>(
    items: impl IntoIterator<Item = Given<'a>>,
    mut read: impl FnMut(Given<'a>) -> Result<T, P>,
) -> Result<Vec<T>, Vec<Problem>> {
    let mut values = Vec::new();
    let mut problems = Vec::new();
    for item in items {
        match read(item) {
            Ok(value) => values.push(value),
            Err(found) => problems.extend(found.into()),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

/// A value inside quotes on one line, cut where it would hide the rest of the message.
pub(super) fn quote(text: &str) -> String {
    const SHOWN: usize = 60;
    let cut = text.char_indices().nth(SHOWN).map_or(text, |(end, _)| &text[..end]);
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}
