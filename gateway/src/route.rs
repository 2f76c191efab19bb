//! Handler names as patterns, and the table that finds the one a path belongs to. Contract section 3.

mod pattern;
mod table;

pub use pattern::{Braces, Pattern, PatternError, Shape};
pub use table::{Found, RouteTable};
