//! Keys whose values are tables.

use gearway_protocol::{GEARWAY_V1, SKYGEAR_V1};
use toml::de::DeTable;

use super::{not_empty, parsed};
use crate::config::given::{Given, Problem, each, quote};
use crate::config::{Plugin, schema, value};

pub(super) fn plugins(given: Given<'_>) -> Result<Vec<Plugin>, Vec<Problem>> {
    let items = match given {
        Given::Toml(value) => value.get_ref().as_array(),
        Given::Text(_) => None,
    };
    let items = items.ok_or_else(|| given.problem("expected an array of tables; write [[plugin]]"))?;
    let mut seen: Vec<String> = Vec::new();
    each(items.iter().map(Given::Toml), |item| {
        let table = item.table().ok_or_else(|| item.expected("a table"))?;
        let plugin = plugin(item, table)?;
        if seen.contains(&plugin.name) {
            let at = Fields::new(item, table, &[]).get("name").unwrap_or(item);
            let message = format!("{} is the name of another plugin already", quote(&plugin.name));
            return Err(at.problem(message).in_field("name").into());
        }
        seen.push(plugin.name.clone());
        Ok::<_, Vec<Problem>>(plugin)
    })
}

fn plugin(item: Given<'_>, table: &DeTable<'_>) -> Result<Plugin, Vec<Problem>> {
    let mut fields = Fields::new(item, table, &["name", "url", "protocol"]);
    let name = fields.required("name", not_empty);
    let url = fields.required("url", |given| parsed(given, value::worker_url));
    let protocol = fields.required("protocol", |given| {
        parsed(given, |text| match text {
            GEARWAY_V1 | SKYGEAR_V1 => Ok(text.to_owned()),
            _ => Err(format!("{} is neither \"{GEARWAY_V1}\" nor \"{SKYGEAR_V1}\"", quote(text))),
        })
    });
    match (name, url, protocol) {
        (Some(name), Some(url), Some(protocol)) if fields.problems.is_empty() => {
            Ok(Plugin { name: name.to_owned(), url, protocol })
        }
        _ => Err(fields.problems),
    }
}

/// A table inside a key's value, read to the end whatever is wrong with it.
pub(super) struct Fields<'a> {
    item: Given<'a>,
    table: &'a DeTable<'a>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(item: Given<'a>, table: &'a DeTable<'a>, known: &[&'static str]) -> Self {
        let problems = table
            .keys()
            .filter(|name| !known.contains(&name.get_ref().as_ref()))
            .map(|name| Problem {
                at: Some(name.span().start),
                field: Some(name.get_ref().escape_debug().to_string()),
                message: schema::unknown_field(name.get_ref(), known),
            })
            .collect();
        Self { item, table, problems }
    }

    pub(super) fn get(&self, name: &str) -> Option<Given<'a>> {
        self.table.get(name).map(Given::Toml)
    }

    pub(super) fn required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Given<'a>) -> Result<T, Problem>,
    ) -> Option<T> {
        let read = match self.get(name) {
            Some(given) => read(given),
            None => Err(self.item.problem("is missing")),
        };
        self.keep(name, read)
    }

    pub(super) fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Given<'a>) -> Result<T, Vec<Problem>>,
    ) -> Option<T> {
        self.get(name).and_then(|given| self.keep(name, read(given)))
    }

    /// The value, if there is one; the problems go to the others, under the field's name.
    pub(super) fn keep<T, P: Into<Vec<Problem>>>(&mut self, name: &str, read: Result<T, P>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(found) => {
                self.problems.extend(found.into().into_iter().map(|problem| problem.in_field(name)));
                None
            }
        }
    }
}
