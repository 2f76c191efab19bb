use std::env;

use http::HeaderValue;
use reqwest::Url;

use crate::Error;

/// Who a worker is, and where it finds its gateway. Contract section 6.
#[derive(Clone)]
pub struct Settings {
    /// `GEARWAY_GATEWAY`: the URL of the gateway's admin listener; `http://127.0.0.1:3001` by default.
    pub gateway: Url,
    /// `GEARWAY_TOKEN`: a registration token. Only [`Worker::run`](crate::Worker::run) needs it.
    pub token: Option<String>,
    /// `GEARWAY_NAME`: the service's name; the binary's file stem by default. Workers of one name are replicas.
    pub name: String,
    /// `GEARWAY_LISTEN`: `host:port`; `127.0.0.1:0` by default.
    pub listen: String,
    /// `GEARWAY_ADVERTISE`: the URL that the gateway is to call. By default it follows from the listener; for a
    /// wildcard listener, from the local address of the worker's connection to the gateway.
    pub advertise: Option<Url>,
}

impl Settings {
    /// Reads the environment. A variable that is empty counts as absent, and white space around it is not part of it.
    ///
    /// # Errors
    /// [`Error::Setting`] when a variable is not what its description says.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, Error> {
        let variable =
            |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let mut settings = Self::new(variable("GEARWAY_NAME").unwrap_or_else(file_stem));
        if let Some(gateway) = variable("GEARWAY_GATEWAY") {
            settings.gateway = http_url("GEARWAY_GATEWAY", &gateway)?;
        }
        settings.token = variable("GEARWAY_TOKEN");
        if settings.token.as_deref().is_some_and(|token| HeaderValue::from_bytes(token.as_bytes()).is_err()) {
            let reason = "has a character that no token has".to_owned();
            return Err(Error::Setting { name: "GEARWAY_TOKEN", reason });
        }
        if let Some(listen) = variable("GEARWAY_LISTEN") {
            settings.listen = listen;
        }
        settings.advertise =
            variable("GEARWAY_ADVERTISE").map(|url| http_url("GEARWAY_ADVERTISE", &url)).transpose()?;
        Ok(settings)
    }

    /// The defaults, without a look at the environment.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            gateway: Url::parse("http://127.0.0.1:3001").expect("a literal URL parses"),
            token: None,
            name: name.into(),
            listen: "127.0.0.1:0".to_owned(),
            advertise: None,
        }
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("gateway", &self.gateway.as_str())
            .field("name", &self.name)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise.as_ref().map(Url::as_str))
            .finish_non_exhaustive()
    }
}

fn http_url(name: &'static str, text: &str) -> Result<Url, Error> {
    let setting = |reason| Error::Setting { name, reason };
    let url = Url::parse(text).map_err(|error| setting(format!("{text:?} is no URL: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(setting(format!("{text:?} must begin with http:// or https://"))),
    }
}

fn file_stem() -> String {
    env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "worker".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        let settings = read(&[("GEARWAY_NAME", ""), ("GEARWAY_TOKEN", "")]).unwrap();
        assert_eq!(settings.gateway.as_str(), "http://127.0.0.1:3001/");
        assert_eq!(settings.token, None);
        assert!(settings.name.starts_with("gearway_worker"), "{}", settings.name);
        assert_eq!(settings.listen, "127.0.0.1:0");
        assert_eq!(settings.advertise, None);
    }

    #[test]
    fn a_bad_url_names_its_variable() {
        for (name, value) in [("GEARWAY_GATEWAY", "localhost:3001"), ("GEARWAY_ADVERTISE", "/here")] {
            let error = read(&[(name, value)]).unwrap_err().to_string();
            assert!(error.starts_with(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn white_space_around_a_variable_is_not_part_of_it() {
        let variables = [("GEARWAY_TOKEN", " t\n"), ("GEARWAY_NAME", "me\n"), ("GEARWAY_LISTEN", "\n")];
        let settings = read(&variables).unwrap();
        assert_eq!((settings.token.as_deref(), settings.name.as_str()), (Some("t"), "me"));
        assert_eq!(settings.listen, "127.0.0.1:0");
        assert_eq!(read(&[("GEARWAY_TOKEN", "\n")]).unwrap().token, None);
        let error = read(&[("GEARWAY_TOKEN", "canary\n1")]).unwrap_err().to_string();
        assert!(error.starts_with("GEARWAY_TOKEN") && !error.contains("canary"), "{error}");
    }

    #[test]
    fn debug_hides_the_token() {
        let settings = read(&[("GEARWAY_TOKEN", "canary")]).unwrap();
        assert!(!format!("{settings:?}").contains("canary"));
    }
}
