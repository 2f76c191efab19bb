use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU32;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use memchr::memchr;
use smallvec::SmallVec;

use super::pattern::{Element, Shape};
use crate::path::CanonicalPath;

/// A table of routes, built once and then only read: a trie over segments, whose literal edges all live in one hash map keyed by
/// parent and segment.
///
/// Among the patterns that match a path, [`find`](Self::find) takes the one that is first when they are compared
/// segment by segment: a literal before a parameter before the end of a subtree. It may have to turn back:
/// `/a/b/d` enters `/a/b/c` before it finds `/a/{x}/d`.
///
/// **Cost.** A node has one parent, which offers it at most once, so a search visits no node twice, and none deeper
/// than the path: at most `min(nodes, 2^segments)` visits, of one hash and one comparison each. Getting near that
/// takes as many registered patterns that mix literals and parameters in every way; a client alone cannot do it.
/// A subtree on the way ends all turning back above it.
///
/// The hash is seeded per table, so that names which collide cannot be prepared; a request inserts nothing.
pub struct RouteTable<T> {
    nodes: Vec<Node>,
    /// The nodes of literal segments, found by their parent and segment.
    literals: HashTable<u32>,
    /// The literal segments' texts, one after the other.
    texts: String,
    routes: Vec<Route<T>>,
    hasher: RandomState,
}

/// What a path comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'t, 'p, T> {
    Match {
        value: &'t T,
        /// The segments that the pattern's parameters stand for, decoded, in order.
        captures: SmallVec<[&'p str; 4]>,
    },
    /// Nothing matches, but the path with a `/` at its end would.
    RedirectToSubtree,
    Nothing,
}

impl<T> RouteTable<T> {
    /// A table of these routes. Of two routes of one shape, the later stays.
    ///
    /// # Panics
    /// With 2³² segments or bytes of names, which are more than the registry lets in.
    pub fn build(routes: impl IntoIterator<Item = (Shape, T)>) -> Self {
        let mut table = Self::new();
        for (shape, value) in routes {
            let mut value = Some(value);
            let place = table.get_or_insert_with(&shape, || value.take().expect("this is called once"));
            if let Some(value) = value {
                *place = value;
            }
        }
        table.shrink_to_fit();
        table
    }

    /// A table without routes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, 0, 0)],
            literals: HashTable::new(),
            texts: String::new(),
            routes: Vec::new(),
            hasher: RandomState::default(),
        }
    }

    /// Gives back what building took for growing.
    pub fn shrink_to_fit(&mut self) {
        self.nodes.shrink_to_fit();
        self.texts.shrink_to_fit();
        self.routes.shrink_to_fit();
    }

    /// The route that a request for `path` belongs to.
    pub fn find<'t, 'p>(&'t self, path: &'p CanonicalPath<'_>) -> Found<'t, 'p, T> {
        let text = path.as_str();
        let mut captures = SmallVec::new();
        let mut untried: SmallVec<[Untried; 8]> = SmallVec::new();
        let mut subtree = None;
        let mut would_match_with_slash = false;
        let mut node = ROOT;
        // Where the node's segment ends: at the end of the text, or at a slash.
        let mut end = 0;
        loop {
            let here = &self.nodes[node as usize];
            if end == text.len() {
                if let Some(route) = here.exact {
                    return Found::Match { value: self.value(route), captures };
                }
                would_match_with_slash |= here.subtree.is_some();
            } else {
                if let Some(route) = here.subtree {
                    // It matches whatever comes, and before all that was left untried above it.
                    subtree = Some((route, captures.len()));
                    untried.clear();
                }
                let start = end + 1;
                if start < text.len() {
                    let stop =
                        memchr(b'/', &text.as_bytes()[start..]).map_or(text.len(), |length| start + length);
                    let segment = &text[start..stop];
                    if let Some(literal) = self.literal(node, segment) {
                        if let Some(param) = here.param {
                            untried.push(Untried { param, start, stop, captured: captures.len() });
                        }
                        (node, end) = (literal, stop);
                        continue;
                    }
                    if let Some(param) = here.param {
                        captures.push(segment);
                        (node, end) = (param.get(), stop);
                        continue;
                    }
                }
            }
            let Some(Untried { param, start, stop, captured }) = untried.pop() else { break };
            captures.truncate(captured);
            captures.push(&text[start..stop]);
            (node, end) = (param.get(), stop);
        }
        match subtree {
            Some((route, captured)) => {
                captures.truncate(captured);
                Found::Match { value: self.value(route), captures }
            }
            None if would_match_with_slash => Found::RedirectToSubtree,
            None => Found::Nothing,
        }
    }

    /// The route of exactly this shape.
    #[must_use]
    pub fn get(&self, shape: &Shape) -> Option<&T> {
        let mut node = ROOT;
        for element in shape.elements() {
            node = match element {
                Element::Literal(segment) => self.literal(node, segment)?,
                Element::Param => self.nodes[node as usize].param?.get(),
            };
        }
        let node = &self.nodes[node as usize];
        let route = if shape.is_subtree() { node.subtree } else { node.exact };
        route.map(|route| self.value(route))
    }

    /// The number of routes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Every route, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = (Shape, &T)> {
        self.routes.iter().map(|route| (self.shape(route), &route.value))
    }

    /// The route of exactly this shape, which is `make`'s if there was none.
    ///
    /// # Panics
    /// With 2³² segments or bytes of names, which are more than the registry lets in.
    pub fn get_or_insert_with(&mut self, shape: &Shape, make: impl FnOnce() -> T) -> &mut T {
        let mut node = ROOT;
        for element in shape.elements() {
            node = match element {
                Element::Literal(segment) => {
                    self.literal(node, segment).unwrap_or_else(|| self.add_literal(node, segment))
                }
                Element::Param => {
                    self.nodes[node as usize].param.map_or_else(|| self.add_param(node), NonZeroU32::get)
                }
            };
        }
        let is_subtree = shape.is_subtree();
        let here = &mut self.nodes[node as usize];
        let slot = if is_subtree { &mut here.subtree } else { &mut here.exact };
        let index = match *slot {
            Some(index) => index,
            None => {
                self.routes.push(Route { node, is_subtree, value: make() });
                *slot.insert(nonzero(self.routes.len()))
            }
        };
        &mut self.routes[index.get() as usize - 1].value
    }

    fn add_literal(&mut self, parent: u32, segment: &str) -> u32 {
        let node = nonzero(self.nodes.len()).get();
        let length = small(segment.len());
        self.nodes.push(Node::new(parent, small(self.texts.len()), length));
        self.texts.push_str(segment);
        let longest = &mut self.nodes[parent as usize].longest_literal;
        *longest = length.max(*longest);
        let Self { nodes, literals, texts, hasher, .. } = self;
        literals.insert_unique(hash(hasher, parent, segment), node, |&node| {
            let node = &nodes[node as usize];
            hash(hasher, node.parent, node.text(texts))
        });
        node
    }

    fn add_param(&mut self, parent: u32) -> u32 {
        let node = nonzero(self.nodes.len());
        self.nodes.push(Node::new(parent, 0, 0));
        self.nodes[parent as usize].param = Some(node);
        node.get()
    }

    fn literal(&self, parent: u32, segment: &str) -> Option<u32> {
        // A long segment in a request is hashed only where a name is as long.
        if segment.len() > self.nodes[parent as usize].longest_literal as usize {
            return None;
        }
        self.literals
            .find(hash(&self.hasher, parent, segment), |&node| {
                let node = &self.nodes[node as usize];
                node.parent == parent && node.text(&self.texts) == segment
            })
            .copied()
    }

    fn value(&self, route: NonZeroU32) -> &T {
        &self.routes[route.get() as usize - 1].value
    }

    fn shape(&self, route: &Route<T>) -> Shape {
        let mut elements = Vec::new();
        let mut node = route.node;
        while node != ROOT {
            let here = &self.nodes[node as usize];
            elements.push(match here.text(&self.texts) {
                "" => Element::Param,
                literal => Element::Literal(literal),
            });
            node = here.parent;
        }
        elements.reverse();
        Shape::from_elements(elements, route.is_subtree)
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for RouteTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

const ROOT: u32 = 0;

struct Route<T> {
    node: u32,
    is_subtree: bool,
    value: T,
}

/// The root is its own parent; it and the parameters have an empty text.
struct Node {
    parent: u32,
    text_start: u32,
    text_len: u32,
    /// The length in bytes of the longest literal below; 0 when there is none.
    longest_literal: u32,
    /// The root is nobody's child, so 0 is free to mean none.
    param: Option<NonZeroU32>,
    /// These count the routes from 1.
    exact: Option<NonZeroU32>,
    subtree: Option<NonZeroU32>,
}

/// A parameter that was passed over for a literal.
struct Untried {
    param: NonZeroU32,
    start: usize,
    stop: usize,
    /// How many captures there were before it.
    captured: usize,
}

impl Node {
    const fn new(parent: u32, text_start: u32, text_len: u32) -> Self {
        Self { parent, text_start, text_len, longest_literal: 0, param: None, exact: None, subtree: None }
    }

    fn text<'s>(&self, texts: &'s str) -> &'s str {
        let start = self.text_start as usize;
        &texts[start..start + self.text_len as usize]
    }
}

fn hash(hasher: &RandomState, parent: u32, segment: &str) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u32(parent);
    state.write(segment.as_bytes());
    state.finish()
}

fn small(count: usize) -> u32 {
    u32::try_from(count).expect("the registry keeps names far below 4 GiB")
}

fn nonzero(count: usize) -> NonZeroU32 {
    NonZeroU32::new(small(count)).expect("the root is there first, and a route is counted after it was added")
}

#[cfg(test)]
mod tests;
