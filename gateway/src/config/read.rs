//! How each kind of value is checked and put into the draft.

mod secrets;
mod tables;

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::cors::Origins;

pub(super) use self::secrets::{named_secret, split_file_suffix};

use self::secrets::{named_secrets, read_secret_file, read_secrets};
use self::tables::plugins;
use super::given::{Given, Problem, each, quote};
use super::schema::{Draft, Kind, Plain, Secrets, Slot};
use super::{PublicUrl, Unmatched, value};
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
