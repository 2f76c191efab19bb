//! `/metrics` as Prometheus reads it: by the parser of its own Python client.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use gearway_tests::{Gateway, Request, installed};
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

#[derive(Debug, Deserialize)]
pub(crate) struct Family {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

#[derive(Debug)]
pub(crate) struct Families(Vec<Family>);

impl Families {
    /// # Panics
    /// When Prometheus could not read it.
    pub(crate) async fn of(gateway: &Gateway) -> Self {
        let text = Request::get("/metrics").send(gateway.admin_address()).await.expect_status(200);
        let environment = installed::python("metrics/requirements.txt").await;
        let mut command = Command::new(environment.join("bin/python"));
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("metrics/families.py"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("the environment's Python runs");
        let mut input = process.stdin.take().expect("stdin is piped");
        input.write_all(&text.body).await.expect("it reads");
        drop(input);
        let output = process.wait_with_output().await.expect("an end");
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), text.text());
        Self(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Family> {
        self.0.iter()
    }

    pub(crate) fn get(&self, name: &str) -> &Family {
        let names: Vec<_> = self.0.iter().map(|family| &family.name).collect();
        self.0.iter().find(|family| family.name == name).unwrap_or_else(|| panic!("no {name} in {names:?}"))
    }

    /// The value of the only sample of that name with these labels, and perhaps others.
    pub(crate) fn value(&self, family: &str, sample: &str, labels: &[(&str, &str)]) -> f64 {
        let family = self.get(family);
        let has = |sample: &Sample| {
            labels.iter().all(|(name, value)| sample.labels.get(*name).is_some_and(|found| found == value))
        };
        let found: Vec<_> =
            family.samples.iter().filter(|found| found.name == sample && has(found)).collect();
        assert_eq!(found.len(), 1, "{sample} {labels:?}: {family:#?}");
        found[0].value
    }

    /// Every series by its name and labels.
    pub(crate) fn series(&self) -> BTreeSet<String> {
        let all = self.0.iter().flat_map(|family| &family.samples);
        all.map(|sample| format!("{}{:?}", sample.name, sample.labels)).collect()
    }
}
