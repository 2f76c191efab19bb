use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::access_log::AccessField;

/// A folder with a `gearway.toml`, whose path messages are cut down to its name.
struct Case {
    folder: TempDir,
    sources: Sources,
}

impl Case {
    fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gearway.toml");
        fs::write(&path, file).unwrap();
        Self { folder, sources: Sources { file: Some(path), ..Sources::default() } }
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn with_file(self, name: &str, content: &str) -> Self {
        fs::write(self.folder.path().join(name), content).unwrap();
        self
    }

    /// Rewrites `{dir}` in the file and in the environment to the folder's path.
    fn in_folder(mut self) -> Self {
        let dir = self.folder.path().to_str().unwrap().to_owned();
        let path = self.folder.path().join("gearway.toml");
        fs::write(&path, fs::read_to_string(&path).unwrap().replace("{dir}", &dir)).unwrap();
        for (_, value) in &mut self.sources.environment {
            *value = value.replace("{dir}", &dir);
        }
        self
    }

    fn config(&self) -> Config {
        match Config::load(&self.sources) {
            Ok((config, _)) => config,
            Err(mistakes) => panic!("{mistakes:#?}"),
        }
    }

    fn mistakes(&self) -> Vec<String> {
        match Config::load(&self.sources) {
            Ok((config, _)) => panic!("accepted: {config:#?}"),
            Err(mistakes) => mistakes.iter().map(|mistake| self.cut(&mistake.to_string())).collect(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let (_, warnings) = Config::load(&self.sources).unwrap();
        warnings.iter().map(|warning| self.cut(&warning.to_string())).collect()
    }

    fn cut(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// A certificate and its key, in PEM form.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn secrets(texts: &[&str]) -> Vec<Secret> {
    texts.iter().map(|text| Secret::new(text)).collect()
}

#[test]
fn how_workers_are_known_is_checked_with_its_files() {
    let (cert, key) = certificate();
    let mistakes = |section: &str| {
        Case::new(&format!("[workers.tls]\n{section}"))
            .with_file("cert.pem", &cert)
            .with_file("key.pem", &key)
            .with_file("text.pem", "text")
            .in_folder()
            .mistakes()
    };
    for (section, shown) in [
        ("", "gearway.toml:1: workers.tls: needs workers.tls.ca_file: no worker is trusted without it"),
        (
            "cert_file = \"{dir}/cert.pem\"\nkey_file = \"{dir}/key.pem\"",
            "gearway.toml:2: workers.tls.cert_file: needs workers.tls.ca_file: no worker is trusted without it",
        ),
        (
            "ca_file = \"{dir}/cert.pem\"\ncert_file = \"{dir}/cert.pem\"",
            "gearway.toml:3: workers.tls.cert_file: needs workers.tls.key_file beside it",
        ),
        (
            "ca_file = \"{dir}/key.pem\"",
            "gearway.toml:2: workers.tls.ca_file: key.pem holds no certificate in PEM form",
        ),
        (
            "ca_file = \"{dir}/text.pem\"",
            "gearway.toml:2: workers.tls.ca_file: text.pem holds no certificate in PEM form",
        ),
    ] {
        assert_eq!(mistakes(section), [shown]);
    }
}

#[test]
fn mistakes_are_rendered_with_their_place() {
    let table: &[(&str, &str)] = &[
        // Sizes, durations, numbers.
        (
            "[limits]\nmax_body = \"10Mb\"",
            "2: limits.max_body: \"10Mb\" is not a size; write for example \"10MiB\"",
        ),
        ("[limits]\nmax_body = 0", "2: limits.max_body: 0 is too small; the least is 1"),
        ("[limits]\nmax_body = -1", "2: limits.max_body: -1 is not a whole number from 0 up"),
        (
            "[limits]\nmax_body = \"99999999999999999999TiB\"",
            "2: limits.max_body: \"99999999999999999999TiB\" is too large; the most is \"4GiB\"",
        ),
        (
            "[limits]\nmax_body = true",
            "2: limits.max_body: expected a size like \"10MiB\" or an integer of bytes, found a boolean",
        ),
        (
            "limits.max_header = \"1KiB\"",
            "1: limits.max_header: \"1KiB\" is too small; the least is \"8KiB\"",
        ),
        ("[limits]\nbody_timeout = 30", "2: limits.body_timeout: 30 has no unit; write for example \"30s\""),
        (
            "[limits]\nbody_timeout = \"30\"",
            "2: limits.body_timeout: \"30\" has no unit; write for example \"30s\"",
        ),
        (
            "[limits]\nbody_timeout = \"30 s\"",
            "2: limits.body_timeout: \"30 s\" is not a duration; write for example \"30s\"",
        ),
        (
            "[limits]\nbody_timeout = 1.5",
            "2: limits.body_timeout: expected a duration like \"30s\", found a float",
        ),
        ("[workers]\nlease = \"99ms\"", "2: workers.lease: \"99ms\" is too small; the least is \"100ms\""),
        ("[workers]\npark = \"2h\"", "2: workers.park: \"2h\" is too large; the most is \"1h\""),
        ("[limits]\nmax_in_flight = 0", "2: limits.max_in_flight: 0 is too small; the least is 1"),
        ("[limits]\nmax_in_flight = \"9\"", "2: limits.max_in_flight: expected an integer, found a string"),
        ("[runtime]\nthreads = 1025", "2: runtime.threads: 1025 is too large; the most is 1024"),
        // Words and addresses.
        ("data_dir = \"\"", "1: data_dir: must not be empty"),
        ("[public]\nunmatched = \"404\"", "2: public.unmatched: \"404\" is neither \"ok\" nor \"not_found\""),
        (
            "[public]\nlisten = \":3000\"",
            "2: public.listen: \":3000\" is not an address and port; write for example \"127.0.0.1:3000\"",
        ),
        ("[public]\nlisten = 3000", "2: public.listen: expected a string, found an integer"),
        (
            "[public]\nlisten = \"[::]:3001\"",
            "2: public.listen: public.listen ([::]:3001) and admin.listen (127.0.0.1:3001) are the same port",
        ),
        (
            "[public]\nrate_limit.per_key = \"0/s\"",
            "2: public.rate_limit.per_key: \"0/s\" is not a rate; write for example \"100/s\", \"600/m\" or \"5000/h\"",
        ),
        (
            "[public]\nrate_limit.per_address = \"10\"",
            "2: public.rate_limit.per_address: \"10\" is not a rate; write for example \"100/s\", \"600/m\" or \"5000/h\"",
        ),
        (
            "[public]\ntrusted_proxies = \"10.0.0.0/8\"",
            "2: public.trusted_proxies: expected a list of strings, found a string; write [\"…\"]",
        ),
        (
            "[public]\ntrusted_proxies = [\n  \"::1\",\n  \"10.0.0.0/99\",\n]",
            "4: public.trusted_proxies: \"10.0.0.0/99\" is not a network; write for example \"10.0.0.0/8\" or \"::1\"",
        ),
        (
            "[auth]\nuser_requires_key = \"yes\"",
            "2: auth.user_requires_key: expected a boolean, found a string",
        ),
        (
            "[public]\nproxy_protocol = true",
            "2: public.proxy_protocol: needs public.trusted_proxies: the header counts from nobody else",
        ),
        (
            "[public]\ncors.origins = [\"*\", \"https://a.example\"]",
            "2: public.cors.origins: \"*\" allows every origin; leave the others out",
        ),
        (
            "[public]\ncors.origins = [\"https://A.example/\"]",
            "2: public.cors.origins: \"https://A.example/\": browsers send it as \"https://a.example\"",
        ),
        (
            "[public]\ncors.origins = [\"https://a.example:443\"]",
            "2: public.cors.origins: \"https://a.example:443\": browsers send it as \"https://a.example\"",
        ),
        (
            "[public]\ncors.origins = [\"null\"]",
            "2: public.cors.origins: \"null\" is not an origin; write for example \"https://app.example.com\"",
        ),
        // Unknown keys.
        ("[limits]\nmax_bdy = 1", "2: limits.max_bdy: unknown key; did you mean limits.max_body?"),
        ("max_body = 1", "1: max_body: unknown key; did you mean limits.max_body?"),
        ("[limit]\nmax_body = 1", "1: limit: unknown key; did you mean limits?"),
        ("[[plugins]]\nname = \"a\"", "1: plugins: unknown key; did you mean plugin?"),
        (
            "[auth]\nmaster_key_file = \"x\"",
            "2: auth.master_key_file: unknown key; did you mean auth.master_keys_file?",
        ),
        (
            "[public]\nssl.cert_file = \"x\"",
            "2: public.ssl: unknown key; `gearway config-template` shows those that exist",
        ),
        (
            "[vault]\na = [\"canary\"]",
            "1: vault: unknown key; `gearway config-template` shows those that exist",
        ),
        (
            "\"public.listen\" = \"0.0.0.0:1\"",
            "1: \"public.listen\": unknown key; did you mean public.listen?",
        ),
        ("\"a\\nb\" = 1", "1: \"a\\nb\": unknown key; `gearway config-template` shows those that exist"),
        ("limits = 1", "1: limits: expected a table, found an integer"),
        // Not TOML.
        ("[limits]\nmax_body = 1\nmax_body = 2", "3: limits.max_body: duplicate key"),
        ("\n[limits\nmax_body = 1", "2: unclosed table, expected `]`"),
        ("[auth]\nclient_keys = [\"canary\",\n", "2: auth.client_keys: unclosed array, expected `]`"),
        (
            "[auth.jwt]\nsecret = canary",
            "2: auth.jwt.secret: string values must be quoted, expected literal string",
        ),
        // Secrets.
        ("[auth]\nclient_keys = [\"canary\", \"\"]", "2: auth.client_keys: must not be empty"),
        (
            "[auth]\nclient_keys = [\" canary\"]",
            "2: auth.client_keys: has white space around it or a control character inside, which no header can carry",
        ),
        ("[auth]\nclient_keys = [7]", "2: auth.client_keys: expected a string, found an integer"),
        (
            "[auth]\nclient_keys = \"canary\"",
            "2: auth.client_keys: expected a list of strings, found a string; write [\"…\"]",
        ),
        (
            "[auth]\nmaster_keys = [\"canary\"]\nclient_keys = [\"canary\"]",
            "2: auth.master_keys: shares a key with auth.client_keys; what every app carries must not be a master key",
        ),
        (
            "[admin]\ntokens = [\"canary\"]\nregistration_tokens = [{ token = \"canary\" }]",
            "3: admin.registration_tokens: shares a token with admin.tokens; a worker's token must not administer",
        ),
        // Registration tokens.
        (
            "[admin]\nregistration_tokens = [\"canary\", { token = \"canary\" }]",
            "2: admin.registration_tokens: the same token stands here twice",
        ),
        (
            "[admin]\nregistration_tokens = [{ names = [\"a\"] }]",
            "2: admin.registration_tokens.token: is missing",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\ntoken_file = \"x\"",
            "3: admin.registration_tokens.token_file: give either token or token_file, not both",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\nname = [\"a\"]",
            "3: admin.registration_tokens.name: unknown key; did you mean names?",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\nnames = []",
            "3: admin.registration_tokens.names: is empty and allows nothing; leave it out to allow any",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\npaths = [\"/a/\", \"b\"]",
            "3: admin.registration_tokens.paths: \"b\" does not start with \"/\"",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\npaths = [\"/a//b\"]",
            "3: admin.registration_tokens.paths: \"/a//b\" contains an empty segment (\"//\")",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\npaths = [\"//\"]",
            "3: admin.registration_tokens.paths: \"//\" contains an empty segment (\"//\")",
        ),
        (
            "[[admin.registration_tokens]]\ntoken = \"canary\"\npaths = [\"/a/../\"]",
            "3: admin.registration_tokens.paths: \"/a/../\" contains a dot segment",
        ),
        (
            "[admin]\nregistration_tokens = [7]",
            "2: admin.registration_tokens: expected a string or a table, found an integer",
        ),
        // JWT.
        (
            "[auth.jwt]\nissuer = \"a\"",
            "1: auth.jwt: needs one of auth.jwt.secret, auth.jwt.public_key_file and auth.jwt.jwks_url",
        ),
        (
            "[auth.jwt]\nsecret = \"canary\"\njwks_url = \"https://a/\"",
            "3: auth.jwt.jwks_url: cannot stand beside auth.jwt.secret; give one of the two",
        ),
        ("[auth.jwt]\nsecret = []", "2: auth.jwt.secret: holds no secret"),
        ("[auth.jwt]\nsecret = 7", "2: auth.jwt.secret: expected a list of strings, found an integer"),
        (
            "[auth.jwt]\njwks_url = \"ftp://a/\"",
            "2: auth.jwt.jwks_url: is not a URL that starts with https:// or http://",
        ),
        (
            "[auth.jwt]\njwks_url = \"https://u:canary@a/\"",
            "2: auth.jwt.jwks_url: must not carry a user name or password",
        ),
        (
            "[auth.jwt]\npublic_key_file = \"/no/such\"",
            "2: auth.jwt.public_key_file: \"/no/such\" cannot be read: No such file or directory (os error 2)",
        ),
        // Secret files.
        (
            "[auth]\nclient_keys_file = \"/no/such\"",
            "2: auth.client_keys_file: \"/no/such\" cannot be read: No such file or directory (os error 2)",
        ),
        (
            "[auth]\nclient_keys = [\"canary\"]\nclient_keys_file = \"/no/such\"",
            "3: auth.client_keys_file: give either auth.client_keys or auth.client_keys_file, not both",
        ),
        // Plugins.
        ("[plugin]\nname = \"a\"", "1: plugin: expected an array of tables; write [[plugin]]"),
        ("\n[[plugin]]\nname = \"a\"\nurl = \"http://a/\"", "2: plugin.protocol: is missing"),
        (
            "[[plugin]]\nname = \"a\"\nurl = \"ftp://a/\"\nprotocol = \"skygear-v1\"",
            "3: plugin.url: is not a URL that starts with http:// or https://",
        ),
        (
            "[[plugin]]\nname = \"a\"\nurl = \"unix:a.sock\"\nprotocol = \"skygear-v1\"",
            "3: plugin.url: the path of a socket must be absolute and plain, of at most 107 bytes, as in unix:/run/orders.sock",
        ),
        (
            "[workers]\nallowed_urls = [\"unix:run/\"]",
            "2: workers.allowed_urls: \"unix:run/\" is not an absolute folder; write for example \"unix:/run/workers/\"",
        ),
        (
            "[[plugin]]\nname = \"a\"\nurl = \"http://a/\"\nprotocol = \"skygear\"",
            "4: plugin.protocol: \"skygear\" is neither \"gearway-v1\" nor \"skygear-v1\"",
        ),
        (
            "[[plugin]]\nname = \"a\"\nurl = \"http://a/\"\nprotocol = \"skygear-v1\"\n[[plugin]]\nname = \"a\"\nurl = \"http://b/\"\nprotocol = \"skygear-v1\"",
            "6: plugin.name: \"a\" is the name of another plugin already",
        ),
        (
            "[[plugin]]\nname = \"a\"\nurl = \"http://a/\"\nprotocol = \"skygear-v1\"\nprotocl = 1",
            "5: plugin.protocl: unknown key; did you mean protocol?",
        ),
    ];
    for (file, expected) in table {
        let mistakes = Case::new(file).mistakes();
        assert_eq!(mistakes, [format!("gearway.toml:{expected}")], "{file}");
        assert!(!mistakes[0].contains("canary"), "{file}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let case = Case::new(
        "colour = \"red\"\n\
         [workers]\n\
         lease = 10\n\
         allowed_urls = [\"x\", \"::1\", \"y\"]\n\
         [public]\n\
         listen = \"nowhere\"\n\
         listen = \"elsewhere\"\n\
         [auth.jwt]\n\
         secret = \n\
         [[plugin]]\n\
         nam = \"a\"\n",
    )
    .env("GEARWAY_LIMITS__MAX_BODY", "10Mb")
    .env("GEARWAY_AUTH__USER_REQUIRES_KEY", "yes");
    assert_eq!(
        case.mistakes(),
        [
            "gearway.toml:1: colour: unknown key; `gearway config-template` shows those that exist",
            "gearway.toml:3: workers.lease: 10 has no unit; write for example \"30s\"",
            "gearway.toml:4: workers.allowed_urls: \"x\" is not a network; write for example \"10.0.0.0/8\" or \"::1\"",
            "gearway.toml:4: workers.allowed_urls: \"y\" is not a network; write for example \"10.0.0.0/8\" or \"::1\"",
            "gearway.toml:6: public.listen: \"nowhere\" is not an address and port; write for example \"127.0.0.1:3000\"",
            "gearway.toml:7: public.listen: duplicate key",
            "gearway.toml:9: auth.jwt.secret: string values must be quoted, expected literal string",
            "gearway.toml:10: plugin.name: is missing",
            "gearway.toml:10: plugin.protocol: is missing",
            "gearway.toml:10: plugin.url: is missing",
            "gearway.toml:11: plugin.nam: unknown key; did you mean name?",
            "GEARWAY_AUTH__USER_REQUIRES_KEY: auth.user_requires_key: \"yes\" is not a boolean; write true or false",
            "GEARWAY_LIMITS__MAX_BODY: limits.max_body: \"10Mb\" is not a size; write for example \"10MiB\"",
        ]
    );
}

#[test]
fn a_broken_line_does_not_hide_the_mistakes_below_it() {
    let case = Case::new("[limits\nmax_body = 1\n[public]\nlisten = \n[workers]\nlease = 1\n");
    assert_eq!(
        case.mistakes(),
        [
            "gearway.toml:1: unclosed table, expected `]`",
            "gearway.toml:4: public.listen: string values must be quoted, expected literal string",
            "gearway.toml:6: workers.lease: 1 has no unit; write for example \"30s\"",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_a_mistake() {
    let mut case = Case::new("");
    case.sources.file = Some(case.folder.path().join("none.toml"));
    assert_eq!(case.mistakes(), ["none.toml: cannot be read: No such file or directory (os error 2)"]);

    let case = Case::new("");
    fs::write(case.folder.path().join("gearway.toml"), b"[public]\n# \xff\n").unwrap();
    assert_eq!(case.mistakes(), ["gearway.toml:2: is not UTF-8"]);
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(Config::load(&Sources::default()), Ok((Config::default(), vec![])));
    assert_eq!(Case::new("").config(), Config::default());
}

#[test]
fn the_contract_s_example_is_read() {
    let (cert, key) = certificate();
    let case = Case::new(
        r#"
        data_dir = "/var/lib/gearway"
        [public]
        listen = "[::]:8080"
        unmatched = "not_found"
        trusted_proxies = ["10.1.2.3/8", "192.0.2.1"]
        drain_timeout = "500ms"
        h2c = true
        proxy_protocol = true
        cors.origins = ["https://app.example.com", "capacitor://localhost"]
        tls.cert_file = "{dir}/cert.pem"
        tls.key_file = "{dir}/key.pem"
        rate_limit.per_key = "600/m"
        rate_limit.per_address = "5/s"
        [admin]
        listen = "localhost:0"
        tokens = ["admin"]
        registration_tokens = ["any", { token = "some", names = ["billing"], paths = ["/billing/", "/"] }]
        [auth]
        client_keys = ["c1", "c2"]
        master_keys = ["m"]
        user_requires_key = false
        query_credentials = true
        [auth.jwt]
        secret = ["new", "old"]
        issuer = "i"
        audience = "a"
        [runtime]
        threads = 3
        [limits]
        max_body = 1_000
        max_header = "1MiB"
        header_timeout = "1s"
        body_timeout = "2m"
        request_timeout = "1h"
        max_connections = 7
        max_in_flight = 8
        max_bytes_in_flight = "10MB"
        [workers]
        lease = "100ms"
        park = "0s"
        remember = "1d"
        allowed_urls = ["unix:/run/workers/"]
        tls.ca_file = "{dir}/cert.pem"
        tls.cert_file = "{dir}/cert.pem"
        tls.key_file = "{dir}/key.pem"
        [secrets]
        stripe-live = ["whsec_new", "whsec_old"]
        [webhooks]
        public_url = "https://hooks.example.com"
        retention = "2d"
        max_stored = "1GiB"
        [log]
        access = true
        access_fields = ["status", "path"]
        [[plugin]]
        name = "legacy"
        url = "http://127.0.0.1:8000/"
        protocol = "skygear-v1"
        "#,
    )
    .with_file("cert.pem", &cert)
    .with_file("key.pem", &key)
    .in_folder();
    let folder = case.folder.path();
    let mut named = NamedSecrets::default();
    named.insert("stripe-live", secrets(&["whsec_new", "whsec_old"]));
    let expected = Config {
        data_dir: PathBuf::from("/var/lib/gearway"),
        public: Public {
            listen: "[::]:8080".parse().unwrap(),
            unmatched: Unmatched::NotFound,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()],
            drain_timeout: Duration::from_millis(500),
            h2c: true,
            proxy_protocol: true,
            cors: Origins::Listed(vec![
                "https://app.example.com".to_owned(),
                "capacitor://localhost".to_owned(),
            ]),
            tls: Some(Tls { cert_file: folder.join("cert.pem"), key_file: folder.join("key.pem") }),
            rate_limit: RateLimit {
                per_key: Some(Rate {
                    requests: NonZeroU32::new(600).unwrap(),
                    period: Duration::from_secs(60),
                }),
                per_address: Some(Rate {
                    requests: NonZeroU32::new(5).unwrap(),
                    period: Duration::from_secs(1),
                }),
            },
        },
        admin: Admin {
            listen: "127.0.0.1:0".parse().unwrap(),
            tokens: secrets(&["admin"]),
            registration_tokens: vec![
                RegistrationToken { token: Secret::new("any"), names: None, paths: None },
                RegistrationToken {
                    token: Secret::new("some"),
                    names: Some(vec!["billing".to_owned()]),
                    paths: Some(vec!["/billing/".to_owned(), "/".to_owned()]),
                },
            ],
        },
        auth: Auth {
            client_keys: secrets(&["c1", "c2"]),
            master_keys: secrets(&["m"]),
            user_requires_key: false,
            query_credentials: true,
            jwt: Some(Jwt {
                keys: JwtKeys::Secrets(secrets(&["new", "old"])),
                issuer: Some("i".to_owned()),
                audience: Some("a".to_owned()),
            }),
        },
        runtime: Runtime { threads: 3 },
        limits: Limits {
            max_body: 1000,
            max_header: 1 << 20,
            header_timeout: Duration::from_secs(1),
            body_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(3600),
            max_connections: 7,
            max_connections_per_address: 0,
            max_in_flight: 8,
            max_bytes_in_flight: 10_000_000,
        },
        workers: Workers {
            lease: Duration::from_millis(100),
            park: Duration::ZERO,
            remember: Duration::from_secs(86_400),
            allowed_urls: vec![],
            allowed_sockets: vec!["/run/workers/".into()],
            tls: Some(WorkerTls {
                ca_file: folder.join("cert.pem"),
                identity: Some(Tls { cert_file: folder.join("cert.pem"), key_file: folder.join("key.pem") }),
                client: crate::tls::worker_client(&folder.join("cert.pem"), None).unwrap(),
            }),
        },
        secrets: named,
        webhooks: Webhooks {
            public_url: Some(PublicUrl::parse("https://hooks.example.com").unwrap()),
            retention: Duration::from_hours(48),
            max_stored: 1 << 30,
        },
        log: Log {
            access: true,
            access_fields: [AccessField::Path, AccessField::Status].into_iter().collect(),
        },
        plugins: vec![Plugin {
            name: "legacy".to_owned(),
            url: "http://127.0.0.1:8000/".to_owned(),
            protocol: "skygear-v1".to_owned(),
        }],
    };
    assert_eq!(case.config(), expected);
}

#[test]
fn a_jwt_section_has_one_source_of_keys() {
    let keys = |section: &str| {
        let case = Case::new(&format!("[auth.jwt]\n{section}")).with_file("key.pem", "PEM").in_folder();
        (case.config().auth.jwt.unwrap().keys, case.folder)
    };
    assert_eq!(keys("secret = \"one\"").0, JwtKeys::Secrets(secrets(&["one"])));
    let (found, folder) = keys("public_key_file = \"{dir}/key.pem\"");
    assert_eq!(found, JwtKeys::PublicKeyFile(folder.path().join("key.pem")));
    let url = "https://auth.example.com/jwks.json";
    assert_eq!(keys(&format!("jwks_url = \"{url}\"")).0, JwtKeys::JwksUrl(url.parse().unwrap()));
}

#[test]
fn a_certificate_and_its_key_are_checked_together() {
    let (cert, key) = certificate();
    let (_, another_key) = certificate();
    let mistakes = |section: &str| {
        Case::new(&format!("[public.tls]\n{section}"))
            .with_file("cert.pem", &cert)
            .with_file("key.pem", &key)
            .with_file("another.pem", &another_key)
            .with_file("text.pem", "-----BEGIN CERTIFICATE-----\nsecretsecret*")
            .in_folder()
            .mistakes()
            .join("\n")
    };
    let pair = |cert: &str, key: &str| {
        mistakes(&format!("cert_file = \"{{dir}}/{cert}\"\nkey_file = \"{{dir}}/{key}\""))
    };
    assert_eq!(
        pair("cert.pem", "another.pem"),
        "gearway.toml:3: public.tls.key_file: another.pem is not the key of the first certificate in cert.pem"
    );
    assert_eq!(
        pair("key.pem", "key.pem"),
        "gearway.toml:2: public.tls.cert_file: key.pem holds no certificate in PEM form"
    );
    assert_eq!(
        pair("cert.pem", "cert.pem"),
        "gearway.toml:3: public.tls.key_file: cert.pem holds no private key in PEM form without a passphrase"
    );
    assert_eq!(
        pair("text.pem", "key.pem"),
        "gearway.toml:2: public.tls.cert_file: text.pem is not a PEM file"
    );
    assert!(
        pair("none.pem", "key.pem").starts_with("gearway.toml:2: public.tls.cert_file: \"none.pem\" cannot")
    );
    assert_eq!(
        mistakes("cert_file = \"{dir}/cert.pem\""),
        "gearway.toml:2: public.tls.cert_file: needs public.tls.key_file beside it"
    );
    assert_eq!(
        mistakes("key_file = \"{dir}/key.pem\""),
        "gearway.toml:2: public.tls.key_file: needs public.tls.cert_file beside it"
    );
    assert_eq!(
        mistakes(""),
        "gearway.toml:1: public.tls: needs public.tls.cert_file and public.tls.key_file"
    );
}

#[test]
fn stronger_sources_win() {
    let mut case =
        Case::new("data_dir = \"file\"\n[public]\nlisten = \"127.0.0.1:1\"\n[limits]\nmax_body = 5\n")
            .env("GEARWAY_DATA_DIR", "environment")
            .env("GEARWAY_PUBLIC__LISTEN", "127.0.0.1:2")
            .env("GEARWAY_ADMIN__LISTEN", "127.0.0.1:4");
    case.sources.overrides.public_listen = Some("127.0.0.1:3".to_owned());
    let config = case.config();
    assert_eq!(config.data_dir, Path::new("environment"));
    assert_eq!(config.public.listen.port(), 3);
    assert_eq!(config.admin.listen.port(), 4);
    assert_eq!(config.limits.max_body, 5);
    assert_eq!(config.limits.max_header, Config::default().limits.max_header);

    case.sources.overrides.data_dir = Some("flag".to_owned());
    case.sources.overrides.admin_listen = Some("127.0.0.1:5".to_owned());
    assert_eq!(case.config().data_dir, Path::new("flag"));
    assert_eq!(case.config().admin.listen.port(), 5);

    case.sources.overrides.admin_listen = Some("x".to_owned());
    assert_eq!(
        case.mistakes(),
        [
            "command line: admin.listen: \"x\" is not an address and port; write for example \"127.0.0.1:3000\""
        ]
    );
}

#[test]
fn gearway_config_names_the_file_unless_the_command_line_does() {
    let mut case = Case::new("data_dir = \"first\"").with_file("second.toml", "data_dir = \"second\"");
    let second = case.folder.path().join("second.toml");
    case = case.env("GEARWAY_CONFIG", second.to_str().unwrap());
    assert_eq!(case.config().data_dir, Path::new("first"));
    case.sources.file = None;
    assert_eq!(case.config().data_dir, Path::new("second"));
    case = case.env("GEARWAY_CONFIG", "");
    assert_eq!(case.mistakes(), ["GEARWAY_CONFIG: must not be empty; unset it to use the defaults"]);
}

#[test]
fn the_environment_is_read_as_the_file_is() {
    let config = Case::new("[auth]\nclient_keys = [\"file\"]")
        .env("GEARWAY_AUTH__CLIENT_KEYS", "a, b")
        .env("GEARWAY_AUTH__QUERY_CREDENTIALS", "true")
        .env("GEARWAY_AUTH__JWT__SECRET", "new,old")
        .env("GEARWAY_ADMIN__REGISTRATION_TOKENS", "r")
        .env("GEARWAY_LIMITS__MAX_IN_FLIGHT", "12")
        .env("GEARWAY_LIMITS__MAX_BODY", "12")
        .env("GEARWAY_WORKERS__PARK", "3s")
        .env("GEARWAY_WORKERS__ALLOWED_URLS", "")
        .config();
    assert_eq!(config.auth.client_keys, secrets(&["a", "b"]));
    assert!(config.auth.query_credentials);
    assert_eq!(config.auth.jwt.unwrap().keys, JwtKeys::Secrets(secrets(&["new", "old"])));
    assert_eq!(config.admin.registration_tokens[0].token, Secret::new("r"));
    assert_eq!(config.limits.max_in_flight, 12);
    assert_eq!(config.limits.max_body, 12);
    assert_eq!(config.workers.park, Duration::from_secs(3));
    assert_eq!(config.workers.allowed_urls, []);

    let mistakes = Case::new("").env("GEARWAY_AUTH__CLIENT_KEYS", "canary,,").mistakes();
    assert_eq!(mistakes, ["GEARWAY_AUTH__CLIENT_KEYS: auth.client_keys: must not be empty"; 2]);
    let mistakes = Case::new("").env("GEARWAY_LIMITS__MAX_IN_FLIGHT", "many").mistakes();
    let expected = "limits.max_in_flight: \"many\" is not a whole number from 0 up";
    assert_eq!(mistakes, [format!("GEARWAY_LIMITS__MAX_IN_FLIGHT: {expected}")]);
}

#[test]
fn other_variables_are_ignored() {
    let case = Case::new("")
        .env("GEARWAY_PORT", "tcp://10.0.0.1:3000")
        .env("GEARWAY_PUBLIC", "x")
        .env("GEARWAY_PLUGIN", "x")
        .env("PUBLIC__LISTEN", "x")
        .env("GEARWAY_PUBLIC__LISTN", "canary");
    assert_eq!(case.config(), Config::default());
    assert_eq!(case.warnings(), ["GEARWAY_PUBLIC__LISTN: names no key and is ignored"]);
}

#[test]
fn secrets_come_from_files() {
    let case = Case::new(
        "[admin]\ntokens_file = \"{dir}/one\"\nregistration_tokens_file = \"{dir}/lines\"\n\
         [auth]\nclient_keys = [\"weaker\"]\nmaster_keys_file = \"{dir}/master\"\n\
         [auth.jwt]\nsecret_file = \"{dir}/one\"",
    )
    .with_file("one", "first secret\n")
    .with_file("lines", "a\r\n\nb\nc")
    .with_file("master", "m")
    .with_file("client", "stronger")
    .env("GEARWAY_AUTH__CLIENT_KEYS_FILE", "{dir}/client")
    .in_folder();
    let config = case.config();
    assert_eq!(config.admin.tokens, secrets(&["first secret"]));
    let registration: Vec<Secret> =
        config.admin.registration_tokens.into_iter().map(|token| token.token).collect();
    assert_eq!(registration, secrets(&["a", "b", "c"]));
    assert_eq!(config.auth.client_keys, secrets(&["stronger"]));
    assert_eq!(config.auth.master_keys, secrets(&["m"]));
    assert_eq!(config.auth.jwt.unwrap().keys, JwtKeys::Secrets(secrets(&["first secret"])));

    let case = Case::new("[[admin.registration_tokens]]\ntoken_file = \"{dir}/one\"\nnames = [\"n\"]")
        .with_file("one", "t\n")
        .in_folder();
    assert_eq!(case.config().admin.registration_tokens[0].token, Secret::new("t"));
    let case = case.with_file("one", "t\nu\n");
    assert_eq!(
        case.mistakes(),
        [
            "gearway.toml:2: admin.registration_tokens.token_file: \"one\" holds more than one line; it is to hold one token"
        ]
    );
}

#[test]
fn a_bad_secret_file_is_named_and_its_content_is_not() {
    let mistakes = |content: &[u8]| {
        let case = Case::new("[admin]\ntokens_file = \"{dir}/t\"").in_folder();
        fs::write(case.folder.path().join("t"), content).unwrap();
        case.mistakes()
    };
    let expected = |message: &str| [format!("gearway.toml:2: admin.tokens_file: {message}")];
    assert_eq!(mistakes(b"\n \n"), expected("\"t\" holds no secret"));
    assert_eq!(mistakes(b"canary\xff"), expected("\"t\" is not UTF-8"));
    assert_eq!(mistakes(&[b'c'; 70_000]), expected("\"t\" is too large to be a file of secrets"));
    let header = "has white space around it or a control character inside, which no header can carry";
    assert_eq!(mistakes(b"canary \n"), expected(&format!("in \"t\": {header}")));

    let case = Case::new("")
        .env("GEARWAY_AUTH__JWT__SECRET", "canary")
        .env("GEARWAY_AUTH__JWT__SECRET_FILE", "/no/such");
    assert_eq!(
        case.mistakes(),
        [
            "GEARWAY_AUTH__JWT__SECRET_FILE: auth.jwt.secret_file: give either auth.jwt.secret or auth.jwt.secret_file, not both"
        ]
    );
}

#[test]
fn webhook_secrets_are_found_by_name() {
    let case = Case::new(
        "[secrets]\nstripe-live = [\"new\", \"old\"]\ngithub_file = \"{dir}/lines\"\nSlack_App = \"a,b\"",
    )
    .with_file("lines", "one\n\ntwo\n")
    .with_file("twilio", "from a file")
    .env("GEARWAY_SECRETS__STRIPE_LIVE", "stronger, older")
    .env("GEARWAY_SECRETS__TWILIO_FILE", "{dir}/twilio")
    .in_folder();
    assert!(case.warnings().is_empty());
    let found = case.config().secrets;
    for (name, values) in [
        ("stripe-live", &["stronger", "older"][..]),
        ("Stripe_Live", &["stronger", "older"]),
        ("github", &["one", "two"]),
        ("slack-app", &["a,b"]),
        ("twilio", &["from a file"]),
    ] {
        assert_eq!(found.get(name), Some(&secrets(values)[..]), "{name}");
    }
    for name in ["", "stripelive", "stripe--live", "github_file", "twilio_file"] {
        assert_eq!(found.get(name), None, "{name}");
    }
    assert_eq!(found.names().collect::<Vec<_>>(), ["github", "Slack_App", "stripe_live", "twilio"]);
}

#[test]
fn what_is_wrong_with_webhook_secrets_is_said_without_them() {
    let case = Case::new(
        "[secrets]\na = \"\"\nb = []\nc = [\"canary\", 1]\nd = { canary = 1 }\ne = \" canary\"\nf-g = \"canary\"\nf.g = 1\nF_G = \"canary\"\n\
         h_file = \"/no/such\"\n\"whsec_canary==\" = \"stripe\"\n\"\" = \"canary\"\ni = \"x\"\ni_file = \"y\"\n\
         [webhooks]\npublic_url = \"https://h/?canary\"",
    )
    .env("GEARWAY_SECRETS__A", "")
    .env("GEARWAY_SECRETS__", "canary")
    .env("GEARWAY_SECRETS__J K", "canary")
    .env("GEARWAY_SECRETS__X-Y", "canary")
    .env("GEARWAY_SECRETS__X_Y", "canary");
    let mistakes = case.mistakes();
    assert!(!mistakes.concat().contains("canary"), "{mistakes:#?}");
    let twice = "is given twice; only letters and digits tell names apart, and x_file gives x";
    let name = "no name for a secret, which is 1 to 128 letters, digits, dashes and underscores";
    assert_eq!(
        mistakes,
        [
            "gearway.toml:2: secrets.a: must not be empty".to_owned(),
            "gearway.toml:3: secrets.b: holds no secret".to_owned(),
            "gearway.toml:4: secrets.c: expected a string, found an integer".to_owned(),
            "gearway.toml:5: secrets.d: expected a string or a list of strings, found a table".to_owned(),
            "gearway.toml:6: secrets.e: has white space around it".to_owned(),
            format!("gearway.toml:7: secrets.f-g: {twice}"),
            "gearway.toml:8: secrets.f: expected a string or a list of strings, found a table".to_owned(),
            "gearway.toml:10: secrets.h_file: \"/no/such\" cannot be read: No such file or directory (os error 2)"
                .to_owned(),
            format!("gearway.toml:11: secrets: a key is {name}"),
            format!("gearway.toml:12: secrets: a key is {name}"),
            format!("gearway.toml:14: secrets.i_file: {twice}"),
            "gearway.toml:16: webhooks.public_url: must not carry a query (?…)".to_owned(),
            "GEARWAY_SECRETS__A: secrets: holds no secret".to_owned(),
            format!("GEARWAY_SECRETS__J K: secrets: what follows GEARWAY_SECRETS__ is {name}"),
            "GEARWAY_SECRETS__X_Y: secrets: gives a secret that another variable gives".to_owned(),
        ]
    );
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let case = Case::new(
        "[limits]\nmax_bytes_in_flight = \"1MiB\"\n[auth.jwt]\nsecret = \"canary\"\n\
         [[plugin]]\nname = \"a\"\nurl = \"http://192.0.2.1/\"\nprotocol = \"gearway-v1\"",
    );
    let warnings = case.warnings();
    assert_eq!(
        warnings,
        [
            "gearway.toml:2: limits.max_bytes_in_flight: limits.max_body is more than limits.max_bytes_in_flight lets in",
            "gearway.toml:4: auth.jwt.secret: is shorter than 32 bytes and can be guessed",
            "gearway.toml:5: plugin: 192.0.2.1 is outside workers.allowed_urls",
        ]
    );
    let plain = Case::new("[auth.jwt]\njwks_url = \"http://auth.example.com/\"").warnings();
    let expected =
        "auth.jwt.jwks_url: is not https: whoever can change its answer on the way can sign tokens";
    assert_eq!(plain, [format!("gearway.toml:2: {expected}")]);
    assert!(Case::new("[auth.jwt]\njwks_url = \"http://[::1]:8/\"").warnings().is_empty());
}

#[test]
fn debug_output_shows_no_secret() {
    let case = Case::new(
        "[admin]\ntokens = [\"canary1\"]\nregistration_tokens = [{ token = \"canary2\", names = [\"n\"] }]\n\
         [auth]\nclient_keys = [\"canary3\"]\nmaster_keys = [\"canary4\"]\n[auth.jwt]\nsecret = \"canary5\"\n[secrets]\nx = \"canary7\"",
    )
    .env("GEARWAY_AUTH__CLIENT_KEYS", "canary6")
    .env("GEARWAY_SECRETS__Y", "canary8");
    assert!(!format!("{:?}", case.config()).contains("canary"));
    assert!(!format!("{:?}", case.sources).contains("canary"));
}

#[test]
fn listeners_may_share_a_port_on_different_addresses() {
    let accepted = |public: &str, admin: &str| {
        let case = Case::new(&format!("public.listen = \"{public}\"\nadmin.listen = \"{admin}\""));
        Config::load(&case.sources).is_ok()
    };
    assert!(accepted("127.0.0.1:0", "127.0.0.1:0"));
    assert!(accepted("127.0.0.1:3000", "127.0.0.2:3000"));
    assert!(accepted("0.0.0.0:3000", "[::1]:3000"));
    assert!(!accepted("127.0.0.1:3000", "localhost:3000"));
    assert!(!accepted("0.0.0.0:3000", "127.0.0.1:3000"));
    assert!(!accepted("127.0.0.1:3000", "[::]:3000"));
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let old = Config::default();
    let mut new = old.clone();
    new.limits.max_body = 1;
    assert_eq!(old.needs_restart(&new), Vec::<&str>::new());
    new.data_dir = PathBuf::from("x");
    new.public.listen.set_port(1);
    new.admin.listen.set_port(2);
    new.runtime.threads += 1;
    new.limits.max_connections += 1;
    assert_eq!(
        old.needs_restart(&new),
        ["data_dir", "public.listen", "admin.listen", "runtime.threads", "limits.max_connections"]
    );
}

#[test]
fn the_template_is_the_defaults() {
    assert_eq!(Case::new(TEMPLATE).config(), Config::default());
    assert!(Case::new(TEMPLATE).warnings().is_empty());
}

#[test]
fn the_template_names_every_key_and_no_other() {
    let lines = TEMPLATE.lines().map(|line| match line.strip_prefix('#') {
        Some(key) if !key.is_empty() && !key.starts_with(' ') => key,
        Some(_) | None => line,
    });
    let uncommented = lines.collect::<Vec<_>>().join("\n");
    let table = toml::de::DeTable::parse(&uncommented).unwrap();
    let in_template: BTreeSet<String> = document::entries(table.get_ref())
        .into_iter()
        .filter_map(|entry| match entry {
            document::Entry::Value(slot, _) => Some(slot.path()),
            document::Entry::Section(..) => None,
            document::Entry::Wrong(path, problem) => panic!("{path}: {}", problem.message),
        })
        .collect();
    let in_schema: BTreeSet<String> = schema::slots().map(schema::Slot::path).collect();
    assert_eq!(in_template, in_schema);
    assert_eq!(schema::slots().count(), in_schema.len());
}

#[test]
fn the_template_s_examples_are_usable() {
    let example = |text: &str| TEMPLATE.lines().filter_map(|l| l.strip_prefix('#')).any(|l| l == text);
    assert!(example("[[plugin]]") && example("name = \"legacy\"") && example("protocol = \"skygear-v1\""));
    let plugin =
        TEMPLATE.split_once("#[[plugin]]").unwrap().1.replace("\n#", "\n").replace("\n \"", "\n# \"");
    assert_eq!(Case::new(&format!("[[plugin]]{plugin}")).config().plugins.len(), 1);
}

#[test]
fn sizes_have_binary_and_decimal_units() {
    for (text, bytes) in [
        ("0", 0),
        ("17", 17),
        ("1KiB", 1 << 10),
        ("10MiB", 10 << 20),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        ("1kB", 1_000),
        ("1KB", 1_000),
        ("10MB", 10_000_000),
        ("1GB", 1_000_000_000),
    ] {
        assert_eq!(value::size(text), Ok(bytes), "{text}");
    }
    for text in ["", "MiB", "-1", "+1", "1 MiB", "1.5MiB", "1mib", "1M", "1MiBs", "１MiB"] {
        assert!(value::size(text).is_err(), "{text}");
    }
}

#[test]
fn durations_have_one_unit() {
    for (text, milliseconds) in
        [("0s", 0), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)]
    {
        assert_eq!(value::duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "s", "1", "-1s", "1.5s", "1h30m", "1 s", "1S", "1us"] {
        assert!(value::duration(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn shown_sizes_and_durations_are_read_back(number in 0..1_u64 << 50) {
        let size = value::show_size(number);
        prop_assert_eq!(value::size(size.trim_matches('"')), Ok(number));
        let duration = value::show_duration(Duration::from_millis(number));
        prop_assert_eq!(value::duration(duration.trim_matches('"')), Ok(Duration::from_millis(number)));
    }

    #[test]
    fn any_text_is_read_or_refused_with_lines_that_exist(text in "\\PC*|[\\[\\]{}=\"'.,#a-z0-9\n ]*") {
        let case = Case::new(&text);
        let lines = text.lines().count().max(1);
        for mistake in Config::load(&case.sources).err().into_iter().flatten() {
            prop_assert!(mistake.source.line().is_some_and(|line| (1..=lines).contains(&line)), "{mistake:?}");
            prop_assert!(!mistake.to_string().contains('\n'), "{mistake:?}");
        }
    }

    /// Pieces of real files, shuffled: deeper into the reader than noise gets.
    #[test]
    fn shuffled_lines_never_panic(
        lines in prop::collection::vec(prop::sample::select(TEMPLATE.lines().collect::<Vec<_>>()), 0..40),
        cut in 0..200_usize,
    ) {
        let mut text: String = lines.iter().map(|line| format!("{}\n", line.trim_start_matches('#'))).collect();
        text.truncate(text.char_indices().nth_back(cut).map_or(text.len(), |(at, _)| at));
        let case = Case::new(&text);
        if let Err(mistakes) = Config::load(&case.sources) {
            prop_assert!(!mistakes.is_empty());
        }
    }

    /// A secret may stand anywhere in a broken file.
    #[test]
    fn no_mistake_shows_a_secret(
        before in prop::sample::select(vec!["", "[", "\"", "'", "\"\"\"\n", "{ token = ", "[{ token = \"", "[1, \"", "= "]),
        after in prop::sample::select(vec!["", "\"", "'", "]", "\"]", "=", "==\n\"\"\"", "\" }", "\" = 1", " \"x\""]),
        key in prop::sample::select(vec!["secrets.x", "secrets", "admin.tokens", "admin.registration_tokens", "auth.client_keys", "auth.jwt.secret"]),
    ) {
        let case = Case::new(&format!("{key} = {before}canary{after}\n"));
        for mistake in Config::load(&case.sources).err().into_iter().flatten() {
            prop_assert!(!mistake.to_string().contains("canary"), "{mistake}");
        }
    }

    #[test]
    fn any_environment_is_read_or_refused(values in prop::collection::vec("\\PC*", 80)) {
        let variables = schema::slots().filter(|slot| !slot.by_file).filter_map(schema::Slot::variable);
        let environment = variables.zip(values).collect();
        let sources = Sources { environment, ..Sources::default() };
        for mistake in Config::load(&sources).err().into_iter().flatten() {
            prop_assert!(!mistake.to_string().contains('\n'), "{mistake:?}");
        }
    }
}
