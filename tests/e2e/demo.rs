//! `cargo xtask demo`, as a person uses it.

use std::process::Command;

use gearway_tests::binaries;
use gearway_tests::process::{Process, Signal, run};

#[tokio::test]
async fn every_line_that_the_demo_prints_works() {
    let curl = std::process::Command::new("curl").arg("--version").output();
    assert!(
        curl.is_ok_and(|curl| curl.status.success()),
        "this test runs the demo's curl lines: install curl"
    );

    let mut command = Command::new(binaries::path("xtask"));
    command.args(["demo", "--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let demo = Process::spawn("demo", command);
    demo.wait_for_line("the end of the list", |line| line.starts_with("Press Ctrl-C").then_some(())).await;
    let lines = demo.lines();
    assert!(lines.iter().any(|line| line.contains("/abc/def")), "no routes table: {lines:?}");
    let curls =
        lines.iter().map(|line| line.trim()).filter(|line| line.starts_with("curl ")).collect::<Vec<_>>();
    assert!(curls.len() >= 6, "{curls:?}");
    for line in curls {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]);
        let finished = run(shell).await;
        assert_eq!(finished.code(), 0, "{line}: {finished:?}");
        assert!(!finished.stdout.trim().is_empty(), "{line} answered nothing");
        // What nobody serves gets this answer; no line shows it.
        assert!(!finished.stdout.contains("{\"result\":{\"status\":\"OK\"}}"), "{line}: {finished:?}");
    }
    demo.signal(Signal::INT);
    assert_eq!(demo.wait_for_exit().await.code(), Some(0));
    let lines = demo.lines();
    let folder = lines.iter().find_map(|line| line.strip_prefix("Data in ")).expect("the demo's folder");
    assert!(!std::path::Path::new(folder.trim()).exists(), "{folder} is left behind");
}
