use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn command(line: &str) -> Command {
    parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

#[test]
fn the_arguments_contradict_nothing() {
    Cli::command().debug_assert();
}

#[test]
fn what_is_asked_for_defaults_to_the_list() {
    for line in ["gearway routes", "gearway routes list", "gearway routes --json list"] {
        let Command::Routes(args) = command(line) else { panic!("{line}") };
        assert!(matches!(args.action.unwrap_or(RoutesAction::List), RoutesAction::List), "{line}");
    }
}

#[test]
fn how_to_reach_the_gateway_stands_anywhere() {
    for line in [
        "gearway workers --admin http://a:1 --token t --json drain w1",
        "gearway workers drain w1 --admin http://a:1 --token t --json",
        "gearway workers drain --json w1 --admin=http://a:1 --token=t",
    ] {
        let Command::Workers(args) = command(line) else { panic!("{line}") };
        assert_eq!(args.admin.admin.as_deref(), Some("http://a:1"), "{line}");
        assert_eq!(args.admin.token.as_deref(), Some("t"), "{line}");
        assert!(args.admin.json, "{line}");
        assert!(matches!(args.action, Some(WorkersAction::Drain { id }) if id == "w1"), "{line}");
    }
}

#[test]
fn a_token_is_made_for_a_user() {
    let Command::Tokens(args) = command("gearway tokens create --user alice --ttl 30d") else { panic!() };
    let Some(TokensAction::Create { user, ttl }) = args.action else { panic!() };
    assert_eq!((user.as_str(), ttl.as_deref()), ("alice", Some("30d")));
}

#[test]
fn the_workers_command_keeps_its_own_arguments() {
    let Command::Dev(args) = command("gearway dev --config g.toml -- python app.py --config other") else {
        panic!()
    };
    assert_eq!(args.command, ["python", "app.py", "--config", "other"]);
    assert_eq!(args.gateway.file.config, Some(PathBuf::from("g.toml")));
    let Command::Dev(args) = command("gearway dev") else { panic!() };
    assert!(args.command.is_empty());
}

#[test]
fn flags_of_serve_become_overrides() {
    let line = "gearway serve --data-dir d --public-listen 127.0.0.1:0 --admin-listen 127.0.0.1:1";
    let Command::Serve(args) = command(line) else { panic!() };
    let overrides = args.sources().overrides;
    assert_eq!(overrides.data_dir.as_deref(), Some("d"));
    assert_eq!(overrides.public_listen.as_deref(), Some("127.0.0.1:0"));
    assert_eq!(overrides.admin_listen.as_deref(), Some("127.0.0.1:1"));
}

#[test]
fn mistakes_of_usage_have_their_own_exit_code() {
    for line in [
        "gearway nonsense",
        "gearway serve --nonsense",
        "gearway serve extra",
        "gearway tokens create",
        "gearway workers drain",
        "gearway routes forget",
        "gearway completion nonsense",
        "gearway dev python",
        "gearway conform",
        "gearway conform not-a-url",
        "gearway conform http://127.0.0.1:9000/ -- ./worker",
        "gearway conform --idle soon -- ./worker",
        "gearway",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let version = parse("gearway --version").unwrap_err();
    assert_eq!((version.kind(), version.exit_code()), (ErrorKind::DisplayVersion, 0));
}

#[test]
fn texts_of_workers_do_not_steer_the_terminal() {
    assert_eq!(output::printable("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    assert_eq!(output::printable("caffè ☕"), "caffè ☕");
}
