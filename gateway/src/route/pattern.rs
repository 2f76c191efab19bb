use std::fmt;
use std::sync::Arc;

/// What `{` and `}` mean in a handler's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Braces {
    /// `{id}` stands for one segment.
    Param,
    /// Text like any other, as in the `skygear-v1` dialect.
    Literal,
}

/// A handler's name, read as the set of paths that it takes.
///
/// A name is decoded text: `caffè` is the path `/caff%C3%A8`, and a `%` or `?` in it is that character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    path: Arc<str>,
    params: Box<[Box<str>]>,
    shape: Shape,
}

/// A pattern without its parameters' names. Two patterns take the same paths exactly when their shapes are equal.
///
/// The text is the pattern's path with `PARAM` for each parameter; no literal segment can hold that character.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape(Arc<str>);

/// One segment of a [`Shape`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element<'s> {
    Literal(&'s str),
    Param,
}

/// Why a handler's name cannot be registered, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("a handler's name is empty: write \"/\" for the root")]
    Empty,
    #[error("the handler name {name:?} has a NUL character, which no path can have: leave it out")]
    Nul { name: String },
    #[error(
        "the handler name {name:?} has a backslash, which no path can have: separate segments with \"/\""
    )]
    Backslash { name: String },
    #[error(
        "the handler name {name:?} has an empty segment, which no path can have: write one \"/\" between segments \
         (\":\" reads as \"/\" too), and {{id}} for a parameter"
    )]
    EmptySegment { name: String },
    #[error(
        "the handler name {name:?} has a segment {segment:?}, which no path can have: write the path it leads to"
    )]
    DotSegment { name: String, segment: String },
    #[error(
        "the handler name {name:?} has a brace inside the segment {segment:?}: a parameter is a whole segment, write \
         it as in \"/orders/{{id}}/items\""
    )]
    PartialParam { name: String, segment: String },
    #[error(
        "the handler name {name:?} has a parameter {segment:?} without a usable name: write a letter or _ and then \
         letters, digits or _, as in {{id}}; to take everything below a path, end the name in \"/\""
    )]
    ParamName { name: String, segment: String },
    #[error("the handler name {name:?} has two parameters called {param:?}: give each a name of its own")]
    DuplicateParam { name: String, param: String },
}

impl Pattern {
    /// Reads a handler's name: `:` as `/`, with a first `/` added when it is missing.
    ///
    /// # Errors
    /// When no path could ever match the name, or its braces are not parameters.
    pub fn parse(name: &str, braces: Braces) -> Result<Self, PatternError> {
        if name.is_empty() {
            return Err(PatternError::Empty);
        }
        if name.contains(PARAM) {
            return Err(PatternError::Nul { name: name.to_owned() });
        }
        if name.contains('\\') {
            return Err(PatternError::Backslash { name: name.to_owned() });
        }
        let slashed = name.replace(':', "/");
        let path = if slashed.starts_with('/') { slashed } else { format!("/{slashed}") };

        let mut shape = String::with_capacity(path.len());
        let mut params: Vec<Box<str>> = Vec::new();
        for segment in segments(&path) {
            shape.push('/');
            match read_segment(name, segment, braces)? {
                Segment::Literal(text) => shape.push_str(text),
                Segment::Param(param) => {
                    params.push(param.into());
                    shape.push(PARAM);
                }
            }
        }
        if let Some(param) = twice(&params) {
            return Err(PatternError::DuplicateParam { name: name.to_owned(), param: param.to_owned() });
        }
        if path.ends_with('/') {
            shape.push('/');
        }

        let shape = Shape(shape.into());
        let path = if params.is_empty() { Arc::clone(&shape.0) } else { path.into() };
        Ok(Self { path, params: params.into(), shape })
    }

    /// The path as written, with `:` read as `/` and the first `/` in place: `/foo/{x}/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// [`path`](Self::path), for whoever keeps it for longer.
    #[must_use]
    pub fn shared_path(&self) -> Arc<str> {
        Arc::clone(&self.path)
    }

    /// The parameters' names, in the order of their segments.
    #[must_use]
    pub fn params(&self) -> &[Box<str>] {
        &self.params
    }

    /// What is left when the parameters lose their names; cheap.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape.clone()
    }

    /// Whether everything below the path belongs to it as well.
    #[must_use]
    pub fn is_subtree(&self) -> bool {
        self.shape.is_subtree()
    }

    /// Whether every path of this pattern is one that `scope` allows: a path of a registration token (contract
    /// section 2). `/billing/` allows that path and everything below, `/billing` only itself, and `{x}` in a scope
    /// any one segment. A scope that could not be a handler's name allows nothing.
    #[must_use]
    pub fn is_within(&self, scope: &str) -> bool {
        let Ok(scope) = Self::parse(scope, Braces::Param) else { return false };
        let mut own = self.shape.elements();
        for allowed in scope.shape.elements() {
            let inside = match (allowed, own.next()) {
                (_, None) => false,
                (Element::Param, Some(_)) => true,
                (Element::Literal(_), Some(Element::Param)) => false,
                (Element::Literal(allowed), Some(Element::Literal(own))) => allowed == own,
            };
            if !inside {
                return false;
            }
        }
        match (scope.is_subtree(), own.next()) {
            (true, Some(_)) => true,
            (true, None) => self.is_subtree(),
            (false, Some(_)) => false,
            (false, None) => !self.is_subtree(),
        }
    }
}

impl Shape {
    pub(super) fn elements(&self) -> impl Iterator<Item = Element<'_>> {
        segments(&self.0).map(|segment| {
            if segment.starts_with(PARAM) { Element::Param } else { Element::Literal(segment) }
        })
    }

    pub(super) fn from_elements<'s>(
        elements: impl IntoIterator<Item = Element<'s>>,
        is_subtree: bool,
    ) -> Self {
        let mut text = String::new();
        for element in elements {
            text.push('/');
            match element {
                Element::Literal(literal) => text.push_str(literal),
                Element::Param => text.push(PARAM),
            }
        }
        if is_subtree {
            text.push('/');
        }
        Self(text.into())
    }

    /// Whether everything below the path belongs to it as well.
    #[must_use]
    pub fn is_subtree(&self) -> bool {
        self.0.ends_with('/')
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({:?})", self.0.replace(PARAM, "{}"))
    }
}

const PARAM: char = '\0';

enum Segment<'n> {
    Literal(&'n str),
    Param(&'n str),
}

/// What stands between the slashes of a path that starts with one. The root has no segments.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let count = if inner.is_empty() { 0 } else { usize::MAX };
    inner.strip_suffix('/').unwrap_or(inner).split('/').take(count)
}

fn read_segment<'n>(name: &str, segment: &'n str, braces: Braces) -> Result<Segment<'n>, PatternError> {
    let name = || name.to_owned();
    match segment {
        "" => return Err(PatternError::EmptySegment { name: name() }),
        "." | ".." => return Err(PatternError::DotSegment { name: name(), segment: segment.to_owned() }),
        _ => {}
    }
    match braces {
        Braces::Literal => return Ok(Segment::Literal(segment)),
        Braces::Param if !segment.contains(['{', '}']) => return Ok(Segment::Literal(segment)),
        Braces::Param => {}
    }
    match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some(param) if is_identifier(param) => Ok(Segment::Param(param)),
        Some(param) if !param.contains(['{', '}']) => {
            Err(PatternError::ParamName { name: name(), segment: segment.to_owned() })
        }
        Some(_) | None => Err(PatternError::PartialParam { name: name(), segment: segment.to_owned() }),
    }
}

/// One that is there twice. A name may have as many as fit into a registration, so they are not compared each with each.
fn twice(params: &[Box<str>]) -> Option<&str> {
    let mut sorted: Vec<&str> = params.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests;
