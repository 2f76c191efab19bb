//! Secrets of every kind: what calls carry, what signs, and what lets workers register.

use toml::de::DeTable;

use super::tables::Fields;
use super::{not_empty, parsed};
use crate::config::given::{Given, Problem, each, quote};
use crate::config::schema::{Draft, Secrets};
use crate::config::{NamedSecrets, RegistrationToken, Secret, named, secret_file, value};

pub(super) fn read_secrets(
    kind: &Secrets,
    draft: &mut Draft,
    items: Vec<Given<'_>>,
) -> Result<(), Vec<Problem>> {
    match kind {
        Secrets::Credentials(field) => *field(draft) = each(items, credential)?,
        Secrets::Jwt(field) => {
            *field(draft) = each(items, |item| not_empty(item).map(Secret::new))?;
        }
        Secrets::RegistrationTokens(field) => *field(draft) = registration_tokens(items)?,
    }
    Ok(())
}

pub(super) fn read_secret_file(
    kind: &Secrets,
    draft: &mut Draft,
    given: Given<'_>,
) -> Result<(), Vec<Problem>> {
    let path = given.string()?;
    let lines = secret_file::read(path).map_err(|message| given.problem(message))?;
    let items = lines.iter().map(|line| Given::Text(line)).collect();
    read_secrets(kind, draft, items).map_err(|problems| {
        let at_the_path =
            |problem: Problem| given.problem(format!("in {}: {}", quote(path), problem.message));
        problems.into_iter().map(at_the_path).collect()
    })
}

pub(super) fn named_secrets(given: Given<'_>) -> Result<NamedSecrets, Vec<Problem>> {
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
pub(in crate::config) fn split_file_suffix<'k>(key: &'k str, suffix: &str) -> (&'k str, bool) {
    match key.len().checked_sub(suffix.len()).and_then(|end| key.split_at_checked(end)) {
        Some((name, end)) if end.eq_ignore_ascii_case(suffix) => (name, true),
        Some(_) | None => (key, false),
    }
}

/// One secret, or several during a rotation, the newest first.
pub(in crate::config) fn named_secret(given: Given<'_>, by_file: bool) -> Result<Vec<Secret>, Vec<Problem>> {
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
