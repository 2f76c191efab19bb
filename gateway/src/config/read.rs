//! How each kind of value is checked and put into the draft.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::de::DeTable;

use gearway_protocol::{GEARWAY_V1, SKYGEAR_V1};

use crate::cors::Origins;

use super::given::{Given, Problem, each, quote};
use super::schema::{self, Draft, Kind, Plain, Secrets, Slot};
use super::{
    NamedSecrets, Plugin, PublicUrl, RegistrationToken, Secret, Unmatched, named, secret_file, value,
};
use crate::access_log::AccessField;

/// Puts a value into the draft, or names everything that is wrong with it and leaves the draft as it was.
pub(super) fn read(slot: Slot, draft: &mut Draft, given: Given<'_>) -> Result<(), Vec<Problem>> {
    match &slot.key.kind {
        Kind::Plain(kind) => Ok(read_plain(kind, draft, given)?),
        Kind::Secrets(kind) if slot.by_file => read_secret_file(kind, draft, given),
        Kind::Secrets(kind) => {
            let items = match (kind, given) {
                (Secrets::Jwt(_), Given::Toml(value)) if value.get_ref().is_str() => vec![given],
                (Secrets::Credentials(_) | Secrets::Jwt(_), _) => given.list("strings")?,
                (Secrets::RegistrationTokens(_), _) => given.list("strings or tables")?,
            };
            if items.is_empty() && matches!(kind, Secrets::Jwt(_)) {
                return Err(given.problem("holds no secret").into());
            }
            read_secrets(kind, draft, items)
        }
        Kind::NamedSecrets(field) => {
            *field(draft) = named_secrets(given)?;
            Ok(())
        }
        Kind::Plugins(field) => {
            *field(draft) = plugins(given)?;
            Ok(())
        }
    }
}

fn read_plain(kind: &Plain, draft: &mut Draft, given: Given<'_>) -> Result<(), Vec<Problem>> {
    match kind {
        Plain::Boolean(field) => *field(draft) = given.boolean()?,
        Plain::Count(range, field) => {
            let number = usize::try_from(given.whole_number()?).unwrap_or(usize::MAX);
            *field(draft) = within(given, number, range, |number| number.to_string())?;
        }
        Plain::Size(range, field) => {
            let bytes = match given {
                Given::Toml(value) if value.get_ref().is_str() => parsed(given, value::size)?,
                Given::Toml(value) if value.get_ref().is_integer() => given.whole_number()?,
                Given::Toml(_) => {
                    return Err(given.expected("a size like \"10MiB\" or an integer of bytes").into());
                }
                Given::Text(_) => parsed(given, value::size)?,
            };
            *field(draft) = within(given, bytes, range, value::show_size)?;
        }
        Plain::Duration(range, field) => {
            let duration = match given {
                Given::Toml(value) if value.get_ref().is_integer() => {
                    return Err(given.problem(value::no_unit(&given.show())).into());
                }
                Given::Toml(value) if !value.get_ref().is_str() => {
                    return Err(given.expected("a duration like \"30s\"").into());
                }
                Given::Toml(_) | Given::Text(_) => parsed(given, value::duration)?,
            };
            *field(draft) = within(given, duration, range, value::show_duration)?;
        }
        Plain::Rate(field) => *field(draft) = Some(parsed(given, value::rate)?),
        Plain::Listen(field) => *field(draft) = parsed(given, value::listen)?,
        Plain::Networks(field) => {
            *field(draft) = each(given.list("strings")?, |item| parsed(item, value::network))?;
        }
        Plain::WorkerUrls(networks, folders) => {
            let (sockets, others): (Vec<_>, Vec<_>) = given
                .list("strings")?
                .into_iter()
                .partition(|item| item.string().is_ok_and(|text| text.starts_with(value::SOCKETS)));
            *networks(draft) = each(others, |item| parsed(item, value::network))?;
            *folders(draft) = each(sockets, |item| parsed(item, value::socket_folder))?;
        }
        Plain::Origins(field) => {
            let listed = each(given.list("strings")?, |item| parsed(item, value::origin))?;
            let any = listed.iter().any(|origin| origin == "*");
            *field(draft) = match listed.len() {
                0 => Origins::Off,
                1 if any => Origins::Any,
                _ if any => {
                    return Err(given.problem("\"*\" allows every origin; leave the others out").into());
                }
                _ => Origins::Listed(listed),
            };
        }
        Plain::Unmatched(field) => {
            *field(draft) = parsed(given, |text| match text {
                "ok" => Ok(Unmatched::Ok),
                "not_found" => Ok(Unmatched::NotFound),
                _ => Err(format!("{} is neither \"ok\" nor \"not_found\"", quote(text))),
            })?;
        }
        Plain::Directory(field) => *field(draft) = PathBuf::from(not_empty(given)?),
        Plain::Text(field) => *field(draft) = Some(not_empty(given)?.to_owned()),
        Plain::Url(field) => {
            *field(draft) = Some(parsed(given, |text| value::http_url(text, &["https", "http"]))?);
        }
        Plain::PublicUrl(field) => *field(draft) = Some(parsed(given, PublicUrl::parse)?),
        Plain::ReadableFile(field) => {
            let path = not_empty(given)?;
            File::open(path)
                .map_err(|error| given.problem(format!("{} cannot be read: {error}", quote(path))))?;
            *field(draft) = Some(PathBuf::from(path));
        }
        Plain::AccessFields(field) => {
            *field(draft) =
                each(given.list("strings")?, |item| parsed(item, access_field))?.into_iter().collect();
        }
    }
    Ok(())
}

fn access_field(text: &str) -> Result<AccessField, String> {
    AccessField::ALL.into_iter().find(|field| field.name() == text).ok_or_else(|| {
        let known = AccessField::ALL.map(AccessField::name).join(", ");
        format!("{} is none of {known}", quote(text))
    })
}

fn read_secrets(kind: &Secrets, draft: &mut Draft, items: Vec<Given<'_>>) -> Result<(), Vec<Problem>> {
    match kind {
        Secrets::Credentials(field) => *field(draft) = each(items, credential)?,
        Secrets::Jwt(field) => {
            *field(draft) = each(items, |item| not_empty(item).map(Secret::new))?;
        }
        Secrets::RegistrationTokens(field) => *field(draft) = registration_tokens(items)?,
    }
    Ok(())
}

fn read_secret_file(kind: &Secrets, draft: &mut Draft, given: Given<'_>) -> Result<(), Vec<Problem>> {
    let path = given.string()?;
    let lines = secret_file::read(path).map_err(|message| given.problem(message))?;
    let items = lines.iter().map(|line| Given::Text(line)).collect();
    read_secrets(kind, draft, items).map_err(|problems| {
        let at_the_path =
            |problem: Problem| given.problem(format!("in {}: {}", quote(path), problem.message));
        problems.into_iter().map(at_the_path).collect()
    })
}

fn named_secrets(given: Given<'_>) -> Result<NamedSecrets, Vec<Problem>> {
    let table = given.table().ok_or_else(|| given.expected("a table of names and secrets"))?;
    let mut secrets = NamedSecrets::default();
    let mut problems = Vec::new();
    for (key, value) in table {
        let (name, by_file) = split_file_suffix(key.get_ref(), "_file");
        let at_the_key =
            |message: &str| Problem { at: Some(key.span().start), field: None, message: message.to_owned() };
        if let Err(message) = named::check_name(name) {
            // What is not a name may be a secret that got into its place.
            problems.push(at_the_key(&format!("a key {message}")));
            continue;
        }
        let read = if secrets.contains(name) {
            Err(at_the_key("is given twice; only letters and digits tell names apart, and x_file gives x")
                .into())
        } else {
            named_secret(Given::Toml(value), by_file)
        };
        match read {
            Ok(values) => secrets.insert(name, values),
            Err(found) => problems.extend(found.into_iter().map(|problem| problem.in_field(key.get_ref()))),
        }
    }
    if problems.is_empty() { Ok(secrets) } else { Err(problems) }
}

/// The secret that a key is about, and whether its value is the path of a file.
pub(super) fn split_file_suffix<'k>(key: &'k str, suffix: &str) -> (&'k str, bool) {
    match key.len().checked_sub(suffix.len()).and_then(|end| key.split_at_checked(end)) {
        Some((name, end)) if end.eq_ignore_ascii_case(suffix) => (name, true),
        Some(_) | None => (key, false),
    }
}

/// One secret, or several during a rotation, the newest first.
pub(super) fn named_secret(given: Given<'_>, by_file: bool) -> Result<Vec<Secret>, Vec<Problem>> {
    if by_file {
        let path = given.string()?;
        let lines = secret_file::read(path).map_err(|message| given.problem(message))?;
        let at_the_path =
            |problem: Problem| given.problem(format!("in {}: {}", quote(path), problem.message));
        let read = each(lines.iter().map(|line| Given::Text(line)), signing_secret);
        return read.map_err(|problems| problems.into_iter().map(at_the_path).collect());
    }
    let items = match given {
        Given::Toml(value) if value.get_ref().is_str() => vec![given],
        Given::Toml(value) if !value.get_ref().is_array() => {
            return Err(given.expected("a string or a list of strings").into());
        }
        Given::Toml(_) | Given::Text(_) => given.list("strings")?,
    };
    if items.is_empty() {
        return Err(given.problem("holds no secret").into());
    }
    each(items, signing_secret)
}

/// White space around a secret comes from copying it, and would make every signature wrong without a word.
fn signing_secret(given: Given<'_>) -> Result<Secret, Problem> {
    let text = not_empty(given)?;
    if text.trim() != text {
        return Err(given.problem("has white space around it"));
    }
    Ok(Secret::new(text))
}

/// What travels in a header: a value that cannot would never be accepted, and nobody would see why.
fn credential(given: Given<'_>) -> Result<Secret, Problem> {
    let text = not_empty(given)?;
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err(given
            .problem("has white space around it or a control character inside, which no header can carry"));
    }
    Ok(Secret::new(text))
}

fn registration_tokens(items: Vec<Given<'_>>) -> Result<Vec<RegistrationToken>, Vec<Problem>> {
    let mut seen: Vec<Secret> = Vec::new();
    each(items, |item| {
        let token = match item.table() {
            Some(table) => scoped_token(item, table)?,
            None => RegistrationToken { token: unscoped(item)?, names: None, paths: None },
        };
        if seen.contains(&token.token) {
            return Err(item.problem("the same token stands here twice").into());
        }
        seen.push(token.token.clone());
        Ok::<_, Vec<Problem>>(token)
    })
}

fn unscoped(item: Given<'_>) -> Result<Secret, Problem> {
    match item {
        Given::Toml(value) if !value.get_ref().is_str() => Err(item.expected("a string or a table")),
        Given::Toml(_) | Given::Text(_) => credential(item),
    }
}

fn scoped_token(item: Given<'_>, table: &DeTable<'_>) -> Result<RegistrationToken, Vec<Problem>> {
    let mut fields = Fields::new(item, table, &["token", "token_file", "names", "paths"]);
    let token = match (fields.get("token"), fields.get("token_file")) {
        (Some(token), None) => fields.keep("token", credential(token)),
        (None, Some(path)) => fields.keep("token_file", token_in_file(path)),
        (Some(_), Some(path)) => {
            fields.keep("token_file", Err(path.problem("give either token or token_file, not both")))
        }
        (None, None) => fields.keep("token", Err(item.problem("is missing"))),
    };
    let names = fields.optional("names", |given| scope(given, |item| not_empty(item).map(str::to_owned)));
    let paths = fields.optional("paths", |given| scope(given, |item| parsed(item, value::covered_path)));
    match (token, names, paths) {
        (Some(token), names, paths) if fields.problems.is_empty() => {
            Ok(RegistrationToken { token, names, paths })
        }
        _ => Err(fields.problems),
    }
}

fn token_in_file(given: Given<'_>) -> Result<Secret, Problem> {
    let path = given.string()?;
    let lines = secret_file::read(path).map_err(|message| given.problem(message))?;
    match lines.as_slice() {
        [line] => credential(Given::Text(line))
            .map_err(|problem| given.problem(format!("in {}: {}", quote(path), problem.message))),
        _ => Err(given.problem(format!("{} holds more than one line; it is to hold one token", quote(path)))),
    }
}

/// An empty scope would make a token that can do nothing; what was meant is more likely the opposite.
fn scope(
    given: Given<'_>,
    read: impl FnMut(Given<'_>) -> Result<String, Problem>,
) -> Result<Vec<String>, Vec<Problem>> {
    let items = given.list("strings")?;
    if items.is_empty() {
        return Err(given.problem("is empty and allows nothing; leave it out to allow any").into());
    }
    each(items, read)
}

fn plugins(given: Given<'_>) -> Result<Vec<Plugin>, Vec<Problem>> {
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
struct Fields<'a> {
    item: Given<'a>,
    table: &'a DeTable<'a>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    fn new(item: Given<'a>, table: &'a DeTable<'a>, known: &[&'static str]) -> Self {
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

    fn get(&self, name: &str) -> Option<Given<'a>> {
        self.table.get(name).map(Given::Toml)
    }

    fn required<T>(&mut self, name: &str, read: impl FnOnce(Given<'a>) -> Result<T, Problem>) -> Option<T> {
        let read = match self.get(name) {
            Some(given) => read(given),
            None => Err(self.item.problem("is missing")),
        };
        self.keep(name, read)
    }

    fn optional<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Given<'a>) -> Result<T, Vec<Problem>>,
    ) -> Option<T> {
        self.get(name).and_then(|given| self.keep(name, read(given)))
    }

    /// The value, if there is one; the problems go to the others, under the field's name.
    fn keep<T, P: Into<Vec<Problem>>>(&mut self, name: &str, read: Result<T, P>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(found) => {
                self.problems.extend(found.into().into_iter().map(|problem| problem.in_field(name)));
                None
            }
        }
    }
}

fn parsed<T>(given: Given<'_>, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T, Problem> {
    parse(given.string()?).map_err(|message| given.problem(message))
}

fn not_empty(given: Given<'_>) -> Result<&str, Problem> {
    match given.string()? {
        "" => Err(given.problem("must not be empty")),
        text => Ok(text),
    }
}

fn within<T: PartialOrd + Copy>(
    given: Given<'_>,
    value: T,
    range: &RangeInclusive<T>,
    show: impl Fn(T) -> String,
) -> Result<T, Problem> {
    if value < *range.start() {
        return Err(given.problem(format!(
            "{} is too small; the least is {}",
            given.show(),
            show(*range.start())
        )));
    }
    if value > *range.end() {
        return Err(given.problem(format!(
            "{} is too large; the most is {}",
            given.show(),
            show(*range.end())
        )));
    }
    Ok(value)
}
