use std::collections::HashMap;
use std::sync::Arc;

use gearway_protocol::{GEARWAY_V1, HandlerSpec, Registration, SKYGEAR_V1};
use http::Method;

use super::methods::Methods;
use super::table::HandlerTimeout;
use crate::auth::Policy;
use crate::config::Config;
use crate::delivery;
use crate::dialect::Dialect;
use crate::route::{Braces, Pattern, Shape};
use crate::upstream::WorkerUrl;
use crate::webhook::Verify;

/// A registration that was checked for everything that can be checked without knowing the others.
#[derive(Debug)]
pub struct Claim {
    pub url: WorkerUrl,
    pub dialect: Dialect,
    pub registration: Registration,
    pub(super) handlers: Vec<ClaimedHandler>,
}

#[derive(Debug, Clone)]
pub(super) struct ClaimedHandler {
    name: Name,
    pub(super) pattern: Pattern,
    pub(super) methods: Methods,
    pub(super) policy: Policy,
    pub(super) timeout: Option<HandlerTimeout>,
    pub(super) idempotent: bool,
    pub(super) verify: Option<Arc<Verify>>,
    /// [`None`] when nothing is kept.
    pub(super) delivery: Option<Arc<delivery::Policy>>,
}

/// A registration that cannot be accepted as it is: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidField {
    pub field: String,
    pub message: String,
}

impl InvalidField {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl Claim {
    /// # Errors
    /// Names the first field that cannot be accepted.
    pub fn check(registration: Registration) -> Result<Self, InvalidField> {
        check_name(&registration.name)?;
        let url = WorkerUrl::parse(&registration.url)
            .map_err(|error| InvalidField::new("url", error.to_string()))?;
        let dialect = match registration.protocol.as_str() {
            GEARWAY_V1 => Dialect::GearwayV1,
            SKYGEAR_V1 => Dialect::SkygearV1,
            other => {
                let message = format!("{other:?} is neither {GEARWAY_V1:?} nor {SKYGEAR_V1:?}");
                return Err(InvalidField::new("protocol", message));
            }
        };
        if registration.max_concurrency == Some(0) {
            return Err(InvalidField::new(
                "max_concurrency",
                "must be at least 1; leave it out for no limit",
            ));
        }
        let handlers = check_handlers(&registration.handlers, dialect)?;
        Ok(Self { url, dialect, registration, handlers })
    }

    /// Refuses handlers whose webhooks could not be verified by this configuration.
    pub(super) fn check_secrets(&self, config: &Config) -> Result<(), InvalidField> {
        for (index, handler) in self.handlers.iter().enumerate() {
            let Some(verify) = &handler.verify else { continue };
            verify.usable(config).map_err(|unusable| {
                let field = format!("handlers[{index}].verify.{}", unusable.field);
                InvalidField::new(field, unusable.message)
            })?;
        }
        Ok(())
    }

    /// The paths claimed, each with the index of its handler.
    pub fn paths(&self) -> impl Iterator<Item = (usize, &Pattern)> {
        self.handlers.iter().map(|handler| &handler.pattern).enumerate()
    }
}

/// How a worker wrote a handler's name. Most names are the path, or nearly, and need no text of their own.
#[derive(Debug, Clone)]
enum Name {
    Path,
    PathWithoutSlash,
    Other(Arc<str>),
}

impl Name {
    fn of(name: &str, pattern: &Pattern) -> Self {
        let path = pattern.path();
        if name == path {
            Self::Path
        } else if path.strip_prefix('/') == Some(name) {
            Self::PathWithoutSlash
        } else {
            Self::Other(name.into())
        }
    }
}

impl ClaimedHandler {
    /// As the worker wrote it, which is how it wants to be called.
    pub(super) fn name(&self) -> &str {
        match &self.name {
            Name::Path => self.pattern.path(),
            Name::PathWithoutSlash => &self.pattern.path()[1..],
            Name::Other(name) => name,
        }
    }

    pub(super) fn check(spec: &HandlerSpec, index: usize, dialect: Dialect) -> Result<Self, InvalidField> {
        let field = |name: &str| format!("handlers[{index}].{name}");
        let braces = match dialect {
            Dialect::GearwayV1 => Braces::Param,
            Dialect::SkygearV1 => Braces::Literal,
        };
        let pattern = Pattern::parse(&spec.name, braces)
            .map_err(|error| InvalidField::new(field("name"), error.to_string()))?;
        if spec.methods.is_empty() {
            let message = "must name a method; leave it out for GET, POST and PUT";
            return Err(InvalidField::new(field("methods"), message));
        }
        let mut methods = Methods::default();
        for (place, name) in spec.methods.iter().enumerate() {
            if !methods.add(name) {
                let message = format!(
                    "{name:?} is none of GET, POST, PUT, DELETE, PATCH, HEAD, OPTIONS (in upper case)"
                );
                return Err(InvalidField::new(field(&format!("methods[{place}]")), message));
            }
        }
        let verify = spec.verify.as_ref().map(Verify::parse).transpose().map_err(|invalid| {
            InvalidField::new(field(&format!("verify.{}", invalid.field)), invalid.message)
        })?;
        let delivery =
            spec.delivery.as_ref().map(delivery::Policy::check).transpose().map_err(|invalid| {
                InvalidField::new(field(&format!("delivery.{}", invalid.field)), invalid.message)
            })?;
        if spec.timeout_ms == Some(0) {
            return Err(InvalidField::new(field("timeout_ms"), "must be at least 1"));
        }
        Ok(Self {
            name: Name::of(&spec.name, &pattern),
            pattern,
            methods,
            policy: Policy { key_required: spec.key_required, user_required: spec.user_required },
            timeout: spec.timeout_ms.and_then(HandlerTimeout::from_millis),
            idempotent: spec.idempotent,
            verify: verify.map(Arc::new),
            delivery: delivery.flatten().map(Arc::new),
        })
    }
}

fn check_name(name: &str) -> Result<(), InvalidField> {
    if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
        let message = "must be 1 to 128 bytes without control characters";
        return Err(InvalidField::new("name", message));
    }
    Ok(())
}

fn check_handlers(specs: &[HandlerSpec], dialect: Dialect) -> Result<Vec<ClaimedHandler>, InvalidField> {
    let mut claimed: HashMap<(Shape, Method), usize> = HashMap::new();
    let mut handlers = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let handler = ClaimedHandler::check(spec, index, dialect)?;
        for method in handler.methods.iter() {
            if let Some(other) = claimed.insert((handler.pattern.shape(), method.clone()), index) {
                let message = format!("{method} {} is handlers[{other}]'s already", handler.pattern.path());
                return Err(InvalidField::new(format!("handlers[{index}].name"), message));
            }
        }
        handlers.push(handler);
    }
    Ok(handlers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_called_what_its_worker_called_it() {
        for name in ["foo", "/foo", "foo:bar", "/foo/", "/", "foo/{id}", "a", "caffè:"] {
            let spec: HandlerSpec = serde_json::from_value(serde_json::json!({ "name": name })).unwrap();
            let handler = ClaimedHandler::check(&spec, 0, Dialect::GearwayV1).unwrap();
            assert_eq!(handler.name(), name);
        }
    }
}
