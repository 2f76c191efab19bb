//! The configuration file as text: its lines, its syntax errors, the keys in it.

use std::collections::BTreeSet;
use std::path::Path;

use toml::de::DeTable;

use super::given::{Given, Problem};
use super::schema::{self, Slot};
use super::{Mistake, Position, Source};

/// A file's text with the path that messages name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Document<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

/// Something that stands in the file.
#[derive(Debug)]
pub(super) enum Entry<'a> {
    Value(Slot, Given<'a>),
    /// A section's header, or the first dotted key that implies it.
    Section(String, Option<usize>),
    Wrong(String, Problem),
}

impl<'a> Document<'a> {
    pub(super) fn source(self, at: Option<usize>) -> Source {
        Source::File { path: self.path.to_owned(), at: at.map(|at| self.position(at)) }
    }

    pub(super) fn mistake(self, path: &str, problem: &Problem) -> Mistake {
        let key = match &problem.field {
            Some(field) => format!("{path}.{field}"),
            None => path.to_owned(),
        };
        Mistake { source: self.source(problem.at), key, message: problem.message.clone() }
    }

    /// What keeps the text from being TOML, the first of each line: what follows it there is mostly its echo.
    pub(super) fn syntax_mistakes(self, errors: &[toml::de::Error]) -> Vec<Mistake> {
        let mut lines = BTreeSet::new();
        let mut mistakes = Vec::new();
        for error in errors {
            let at = error.span().map(|span| span.start);
            if at.is_none_or(|at| lines.insert(self.position(at).line)) {
                let key = at.and_then(|at| self.known_key_on_the_line(at)).unwrap_or_default();
                mistakes.push(Mistake { source: self.source(at), key, message: error.message().to_owned() });
            }
        }
        mistakes
    }

    /// The lines of which a lenient parser may have made what was not meant: those with syntax errors, and what
    /// stands below a broken header, which went to another section.
    pub(super) fn unreliable_lines(self, errors: &[toml::de::Error]) -> BTreeSet<usize> {
        let is_header = |line: &str| line.trim_start().starts_with('[');
        let mut unreliable = BTreeSet::new();
        for error in errors {
            let broken = error.span().map_or(1, |span| self.position(span.start).line);
            unreliable.insert(broken);
            let mut rest = self.text.lines().zip(1..).skip(broken - 1);
            if rest.next().is_some_and(|(line, _)| is_header(line)) {
                unreliable.extend(rest.take_while(|(line, _)| !is_header(line)).map(|(_, number)| number));
            }
        }
        unreliable
    }

    /// The line of the byte `at`; the end of the text belongs to the last line that has something on it.
    fn position(self, at: usize) -> Position {
        let at = if at >= self.text.len() { self.text.trim_end().len() } else { at };
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        Position { line, column }
    }

    /// The key that a broken line was about, as far as its text and the nearest header above tell. Only a key of the
    /// table is named, since the text may as well be a piece of a secret.
    fn known_key_on_the_line(self, at: usize) -> Option<String> {
        let start = self.text.get(..at)?.rfind('\n').map_or(0, |newline| newline + 1);
        let name = self.text[start..].lines().next()?.split_once('=')?.0.trim();
        let header = self.text[..start].lines().rev().map(str::trim).find(|line| line.starts_with('['));
        let section =
            header.map(|line| line.trim_start_matches('[').split(']').next().unwrap_or_default().trim());
        let path = match section {
            Some(section) if !section.is_empty() => format!("{section}.{name}"),
            Some(_) | None => name.to_owned(),
        };
        schema::slots().map(Slot::path).find(|known| *known == path)
    }
}

/// Everything that stands in a parsed file. Below an unknown key nothing is looked at.
pub(super) fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    walk("", table, &mut entries);
    entries
}

fn walk<'a>(section: &str, table: &'a DeTable<'a>, entries: &mut Vec<Entry<'a>>) {
    for (name, value) in table {
        let at = Some(name.span().start);
        let given = Given::Toml(value);
        let path = child(section, name.get_ref());
        // A quoted key may contain dots, which would make a path of what is one name.
        let known = !name.get_ref().contains('.');
        if known && let Some(slot) = schema::slots().find(|slot| slot.path() == path) {
            entries.push(Entry::Value(slot, given));
        } else if known && schema::is_section(&path) {
            match given.table() {
                Some(table) => {
                    entries.push(Entry::Section(path.clone(), at));
                    walk(&path, table, entries);
                }
                None => entries.push(Entry::Wrong(path, given.expected("a table"))),
            }
        } else {
            let message = schema::unknown_key(&path);
            entries.push(Entry::Wrong(path, Problem { at, field: None, message }));
        }
    }
}

/// The path of a key in a section; a name that could not stand bare is quoted, on one line.
fn child(section: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let name = if bare { name.to_owned() } else { super::given::quote(name) };
    if section.is_empty() { name } else { format!("{section}.{name}") }
}
