//! The bench, at the smallest scale: everything starts, answers right, and is written down. How fast it is, is not asked.

use std::path::Path;
use std::process::Command;

use gearway_tests::binaries;
use serde_json::Value;

fn bench(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gearway-bench"))
        .arg("--gearway")
        .arg(binaries::path("gearway"))
        .args(arguments)
        .output()
        .expect("the bench runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).expect("a file")).expect("JSON")
}

#[test]
fn every_row_is_measured_and_can_be_read_again() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("run.json");
    let path = file.to_str().expect("a path");
    bench(&["--rounds", "1", "--turn", "40ms", "--idle-connections", "50", "--json", path]);
    let report = read(&file);
    let rows = report["rows"].as_array().expect("rows");
    let found: Vec<_> = rows.iter().map(|row| (row["row"].as_str(), row["threads"].as_u64())).collect();
    for threads in [1, 2] {
        for row in ["get", "1k", "64k", "1m"] {
            assert!(found.contains(&(Some(row), Some(threads))), "{row} with {threads} threads: {found:?}");
        }
    }
    for row in rows {
        for proxy in ["nginx", "haproxy", "gearway"] {
            let turn = &row["proxies"][proxy][0];
            for figure in ["requests", "requests_per_second", "p50_us", "p99_us", "peak_mib", "alone_p50_us"]
            {
                assert!(turn[figure].as_f64().is_some_and(|value| value > 0.0), "{proxy} {figure}: {row}");
            }
            // The kernel may not have counted a turn as short as this one.
            for figure in ["cpu_us", "alone_cpu_us"] {
                assert!(turn[figure].is_number(), "{proxy} {figure}: {row}");
            }
        }
    }
    for proxy in ["nginx", "haproxy", "gearway"] {
        assert!(report["idle_kib"][proxy].is_number(), "{}", report["idle_kib"]);
    }

    let shown = bench(&["--read", path, "--markdown", "--compare", path]);
    for wanted in ["| POST, 64 KiB, 2 threads | gearway |", "reached", "(+0%)"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

#[test]
fn growth_is_measured_and_drawn() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plots = folder.path().to_str().expect("a path");
    bench(&["--growth", "--most", "100", "--turn", "30ms", "--plots", plots]);
    let growth = read(&folder.path().join("growth.json"));
    let curves = growth["curves"].as_array().expect("curves");
    assert_eq!(curves.len(), 4, "{growth}");
    for curve in curves {
        let name = curve["name"].as_str().expect("a name");
        let drawn = std::fs::read_to_string(folder.path().join(format!("{name}.svg"))).expect("a plot");
        let points = curve["lines"].as_array().into_iter().flatten();
        let points: usize = points.map(|line| line["points"].as_array().map_or(0, Vec::len)).sum();
        assert!(points >= 2 && drawn.matches("<circle").count() == points, "{name}: {drawn}");
    }
}
