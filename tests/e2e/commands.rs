//! The commands as people and shells meet them: tables, colours, completions, manual pages.

use std::process::{Command, Output, Stdio};

use gearway_tests::gateway::{Gateway, gearway};
use gearway_tests::process::run;
use gearway_tests::wait::until;
use gearway_tests::{Registration, ScriptedWorker};
use serde_json::{Value, json};

use crate::terminal;

/// Everything that `gearway --help` lists.
const COMMANDS: [&str; 13] = [
    "serve",
    "dev",
    "conform",
    "check",
    "routes",
    "workers",
    "deliveries",
    "tokens",
    "trigger",
    "healthcheck",
    "config-template",
    "completion",
    "man",
];

/// What a command prints on a terminal.
fn on_terminal(mut command: Command) -> String {
    let (master, terminal) = terminal::open();
    command.stdin(Stdio::null());
    command.stdout(terminal.try_clone().expect("a copy")).stderr(terminal);
    let mut child = command.spawn().expect("it runs");
    // It holds the other side.
    drop(command);
    let printed = terminal::read_to_end(master);
    assert!(child.wait().expect("an end").success(), "{printed}");
    printed
}

fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    table.lines().map(cells).collect()
}

#[tokio::test]
async fn routes_and_workers_tell_what_an_operator_asks() {
    let gateway = Gateway::start("[auth]\nclient_keys = [\"key\"]\n[secrets]\ngh = \"s\"\n").await;
    let worker = ScriptedWorker::start("worker");
    let registration = Registration::new("orders")
        .set("version", json!("1.2"))
        .set("max_concurrency", json!(8))
        .handler_with(json!({"name": "foo/", "methods": ["GET", "DELETE"]}))
        .handler_with(
            json!({"name": "hook", "methods": ["POST"], "verify": {"scheme": "github", "secret": "gh"}}),
        )
        .handler_with(json!({"name": "keyed", "methods": ["GET"], "key_required": true}))
        .handler_with(json!({"name": "mine", "methods": ["GET"], "user_required": true}));
    let registered = worker.register(&gateway, &registration).await;
    for _ in 0..3 {
        drop(gateway.get("/foo/a").await.expect_status(200));
    }
    drop(gateway.get("/keyed").await.expect_status(401));

    let table = gateway.cli(&["routes"]).await;
    assert_eq!(table.code(), 0, "{table:?}");
    assert!(!table.output().contains('\x1b'), "colours, and no terminal: {table:?}");
    let table = rows(&table.stdout);
    let headings = ["PATH", "METHODS", "WORKER", "AUTH", "REPLICAS", "STATE", "REQUESTS", "P50 MS", "P99 MS"];
    assert_eq!(table[0], headings);
    let row = |path: &str, methods: &str| {
        let found = table.iter().find(|row| row[0] == path && row[1] == methods);
        found.unwrap_or_else(|| panic!("{methods} {path}: {table:?}")).clone()
    };
    assert_eq!(row("/foo/", "DELETE")[2..], ["orders", "-", "1", "live", "0", "-", "-"]);
    let asked = row("/foo/", "GET");
    assert_eq!(asked[2..7], ["orders", "-", "1", "live", "3"]);
    for quantile in &asked[7..] {
        assert!(quantile.parse::<f64>().is_ok_and(|ms| ms > 0.0), "{asked:?}");
    }
    assert_eq!(row("/hook", "POST")[3], "github");
    assert_eq!(row("/keyed", "GET")[3..7], ["key", "1", "live", "1"]);
    assert_eq!(row("/mine", "GET")[3], "user");
    let json = gateway.cli(&["routes", "--json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let foo = json["routes"].as_array().expect("routes").iter().find(|route| route["path"] == "/foo/");
    let get = &foo.expect("/foo/")["methods"][1];
    assert_eq!((&get["method"], &get["requests"]), (&json!("GET"), &json!(3)));
    assert!(get["p50_ms"].as_f64() <= get["p99_ms"].as_f64() && get["p50_ms"].is_number(), "{get}");

    // One that fails, and then is out of the choice.
    worker.always(gearway_tests::Answer::close());
    drop(gateway.get("/foo/a").await.expect_status(502));
    worker.server().refuse().await;
    drop(gateway.get("/foo/a").await.expect_status(503));
    let table = gateway.cli(&["workers"]).await;
    let table = rows(&table.stdout);
    let column = |name: &str| {
        let place = table[0].iter().position(|heading| heading == name);
        table[1][place.unwrap_or_else(|| panic!("{name}: {table:?}"))].as_str()
    };
    for (name, value) in [
        ("ID", &*registered.worker_id),
        ("NAME", "orders"),
        ("VERSION", "1.2"),
        ("STATE", "ejected"),
        ("IN FLIGHT", "0"),
        ("LIMIT", "8"),
        ("CALLS", "4"),
        ("FAILURES", "1"),
    ] {
        assert_eq!(column(name), value, "{name}");
    }
    let left: u64 = column("LEASE LEFT MS").parse().expect("a number");
    assert!((1..=600_000).contains(&left), "{left}");
    let json = gateway.cli(&["workers", "--json"]).await;
    let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
    let row = &json["workers"][0];
    assert_eq!((&row["state"], &row["calls"], &row["failures"]), (&json!("ejected"), &json!(4), &json!(1)));
    assert!(row["lease_left_ms"].is_number() && row["in_flight"] == 0, "{row}");
}

/// It says 200 to what it does not know, and an operator who takes its port would be told that a token is revoked.
#[tokio::test]
async fn the_public_listener_is_not_taken_for_the_admin_listener() {
    let gateway = Gateway::start("[workers]\nlease = \"100ms\"\n").await;
    let public = format!("http://{}", gateway.public_address());
    until("the gateway takes no worker to be still to come", async || {
        (gateway.post("/unknown", "").await.status == 200).then_some(())
    })
    .await;
    for words in [
        ["healthcheck"].as_slice(),
        &["routes"],
        &["routes", "forget", "/foo"],
        &["tokens", "create", "--user", "alice"],
        &["tokens", "revoke", "1"],
        &["deliveries", "list"],
    ] {
        let arguments = [words, &["--admin", &public]].concat();
        let finished = gateway.cli(&arguments).await;
        assert_eq!(finished.code(), 1, "{words:?}: {finished:?}");
        assert!(finished.stderr.contains("is a gateway's public listener"), "{words:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{words:?}");
    }
}

#[tokio::test]
async fn colours_are_for_terminals_and_trouble() {
    let gateway = Gateway::start("[workers]\npark = \"50ms\"\n").await;
    let (well, ill) = (ScriptedWorker::start("well"), ScriptedWorker::start("ill"));
    well.register(&gateway, &Registration::new("well").handler("well")).await;
    ill.register(&gateway, &Registration::new("ill").handler("ill")).await;
    ill.server().refuse().await;
    drop(gateway.get("/ill").await.expect_status(503));
    let command = |words: &'static str, colours: bool| {
        let admin = gateway.admin();
        let mut command = gearway(&[words]);
        command.env("GEARWAY_ADMIN", format!("http://{}", admin.address));
        command.env("GEARWAY_ADMIN_TOKEN", admin.token);
        if !colours {
            command.env("NO_COLOR", "1");
        }
        command
    };
    for words in ["workers", "routes"] {
        let (coloured, plain) = (command(words, true), command(words, false));
        let piped = run(command(words, true)).await;
        let shown = tokio::task::spawn_blocking(move || (on_terminal(coloured), on_terminal(plain))).await;
        let (coloured, plain) = shown.expect("no panic");
        let line = |text: &str, name: &str| {
            let found = text.lines().find(|line| line.contains(name));
            found.unwrap_or_else(|| panic!("{name}: {text}")).to_owned()
        };
        assert!(line(&coloured, "ill").starts_with("\x1b[31m"), "{coloured:?}");
        assert!(!line(&coloured, "well").contains('\x1b'), "{coloured:?}");
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert!(piped.stdout.contains("ill") && !piped.output().contains('\x1b'), "{piped:?}");
    }
}

fn shell(program: &str, arguments: &[&str], script: &str) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).arg(script).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("it takes `{program}`: {error}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{program}: {output:?}");
    output
}

/// Its completion takes an interactive line editor, so one runs on a terminal of its own: each line is typed and completed, and what stands
/// there then is printed.
const TYPED_IN_ZSH: &str = r#"
    zmodload zsh/zpty
    zpty inner zsh -f -i
    zpty -w inner "PROMPT=; autoload -Uz compinit; compinit -D -u; source $1
        show() { print -r -- \"[[\$BUFFER]]\"; zle kill-whole-line }; zle -N show; bindkey '^X' show; print ready-\$((1 + 1))"
    zpty -r inner seen '*ready-2*'
    for line in "${@:2}"; do
        zpty -w -n inner "$line"$'\t\x18'
        zpty -r inner seen '*\[\[*\]\]*'
        print -r -- "${${seen##*\[\[}%%\]\]*}"
    done
    zpty -d inner
"#;

/// Each shell takes the script, and completes with it.
#[tokio::test]
async fn shells_complete() {
    let dir = tempfile::tempdir().expect("a folder");
    let script = async |shell: &str| {
        let printed = run(gearway(&["completion", shell])).await;
        assert_eq!(printed.code(), 0, "{printed:?}");
        for command in COMMANDS {
            assert!(printed.stdout.contains(command), "{shell}: {command}");
        }
        let file = dir.path().join(format!("gearway.{shell}"));
        std::fs::write(&file, printed.stdout).expect("a writable file");
        file.to_str().expect("UTF-8").to_owned()
    };
    let words = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = |line: &str| line.split(['\t', ':']).next().unwrap_or_default().trim().to_owned();
        text.lines().map(first).collect::<Vec<_>>()
    };

    let file = script("bash").await;
    let complete = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        format!(
            "source {file}; COMP_WORDS=({line}); COMP_CWORD={}; _gearway gearway '{last}' '{before}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1,
        )
    };
    let bash = |line: &str| words(&shell("bash", &["--norc", "-c"], &complete(line)));
    assert_eq!(bash("gearway wor"), ["workers"]);
    assert_eq!(bash("gearway routes for"), ["forget"]);
    assert_eq!(bash("gearway serve --public"), ["--public-listen"]);

    let file = script("fish").await;
    let fish = |line: &str| {
        words(&shell("fish", &["--no-config", "-c"], &format!("source {file}; complete -C '{line}'")))
    };
    assert_eq!(fish("gearway wor"), ["workers"]);
    assert_eq!(fish("gearway routes for"), ["forget"]);
    assert_eq!(fish("gearway serve --public"), ["--public-listen"]);

    let file = script("zsh").await;
    let mut zsh = Command::new("zsh");
    zsh.args(["-f", "-c", TYPED_IN_ZSH, "zsh", &file]);
    zsh.args(["gearway wor", "gearway routes for", "gearway serve --public"]);
    let typed = run(zsh).await;
    assert_eq!(typed.code(), 0, "{typed:?}");
    let lines: Vec<_> = typed.stdout.lines().collect();
    assert_eq!(lines, ["gearway workers ", "gearway routes forget ", "gearway serve --public-listen="]);

    script("elvish").await;
    script("powershell").await;
}

/// What man(1) shows: one page for everything, and one a command.
#[tokio::test]
async fn the_manual_has_a_page_for_each_command() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().to_str().expect("UTF-8");
    let written = run(gearway(&["man", "--dir", folder])).await;
    assert_eq!(written.code(), 0, "{written:?}");
    let page = |name: &str| {
        let file = format!("{folder}/{name}.1");
        // Warnings are errors: a page that a formatter has to guess at.
        let output = shell("groff", &["-Kutf8", "-man", "-Tascii", "-P-c", "-ww", "-rLL=200n"], &file);
        // Bold is a letter, a backspace and the letter again.
        let text = String::from_utf8(output.stdout).expect("ASCII");
        let mut plain = String::new();
        for c in text.chars() {
            match c {
                '\u{8}' => plain.truncate(plain.len() - 1),
                c => plain.push(c),
            }
        }
        plain
    };
    let top = page("gearway");
    for command in COMMANDS {
        assert!(top.contains(&format!("gearway-{command}(1)")), "{command}: {top}");
        let own = page(&format!("gearway-{command}"));
        assert!(own.contains("NAME") && own.contains("SYNOPSIS") && own.contains("EXIT STATUS"), "{own}");
    }
    for text in ["SIGHUP", "SIGUSR2", "GEARWAY_CONFIG", "OTEL_EXPORTER_OTLP_ENDPOINT", "EXIT STATUS"] {
        assert!(top.contains(text), "{text}: {top}");
    }
    assert!(page("gearway-serve").contains("--public-listen"));
    assert!(page("gearway-routes-forget").contains("PATH"));
    let printed = run(gearway(&["man"])).await;
    let file = std::fs::read_to_string(format!("{folder}/gearway.1")).expect("a page");
    assert_eq!((printed.code(), printed.stdout), (0, file));
}
