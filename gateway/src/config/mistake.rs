//! What is wrong with a configuration, said so that the place to mend is found at once.

use std::fmt;
use std::path::PathBuf;

/// Something that keeps a configuration from being used. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    pub source: Source,
    /// The full path, as `limits.max_body`; empty where no key can be named, as for a file that cannot be read.
    pub key: String,
    pub message: String,
}

/// Something that can be used, and is probably not what was meant. Never carries a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    pub source: Source,
    /// The full path, as `limits.max_body`; empty where no key can be named, as for an unknown variable.
    pub key: String,
    pub message: String,
}

/// Where a value came from. Weaker sources order before stronger ones, and a file's lines from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Defaults,
    /// Without a position: the file as a whole.
    File {
        path: PathBuf,
        at: Option<Position>,
    },
    Environment {
        variable: String,
    },
    CommandLine,
}

/// A place in a text. Both numbers start at 1; the column counts characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl Source {
    /// The line of the file, from 1; `None` for what has no lines.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { at, .. } => at.map(|at| at.line),
            Self::Defaults | Self::Environment { .. } | Self::CommandLine => None,
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render(f, &self.source, &self.key, &self.message)
    }
}

impl std::error::Error for Mistake {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        render(f, &self.source, &self.key, &self.message)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Defaults => f.write_str("defaults"),
            Self::File { path, at: Some(at) } => write!(f, "{}:{}", path.display(), at.line),
            Self::File { path, at: None } => write!(f, "{}", path.display()),
            Self::Environment { variable } => f.write_str(variable),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

fn render(f: &mut fmt::Formatter<'_>, source: &Source, key: &str, message: &str) -> fmt::Result {
    if key.is_empty() { write!(f, "{source}: {message}") } else { write!(f, "{source}: {key}: {message}") }
}
