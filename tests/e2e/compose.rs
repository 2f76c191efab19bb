//! What can be said of `docker-compose.yml` without a container.

use gearway_tests::binaries::workspace;
use yaml_rust2::{Yaml, YamlLoader};

#[test]
fn the_compose_file_runs_the_gateway_and_its_workers() {
    let text = std::fs::read_to_string(workspace().join("docker-compose.yml")).expect("docker-compose.yml");
    let documents = YamlLoader::load_from_str(&text).expect("YAML");
    let [compose] = &documents[..] else { panic!("{} documents", documents.len()) };
    let services = compose["services"].as_hash().expect("services");
    let service =
        |name: &str| services.get(&Yaml::String(name.into())).unwrap_or_else(|| panic!("no service {name}"));
    let gateway = service("gateway");
    let health =
        gateway["healthcheck"]["test"].as_vec().expect("a healthcheck").iter().filter_map(Yaml::as_str);
    assert_eq!(health.collect::<Vec<_>>(), ["CMD", "gearway", "healthcheck"]);
    let published =
        gateway["ports"].as_vec().expect("ports").iter().filter_map(Yaml::as_str).collect::<Vec<_>>();
    assert_eq!(published, ["${PUBLIC_PORT:-3000}:3000"], "the admin listener stays inside");
    for name in ["gateway", "seed-page", "payment-webhook", "python", "node"] {
        let service = service(name);
        assert_eq!(field(service, "read_only").as_bool(), Some(true), "{name}: a read-only root");
        let user = field(service, "user").as_str().unwrap_or_default();
        assert!(!user.is_empty() && !user.starts_with('0') && user != "root", "{name} runs as {user:?}");
        let secrets = field(service, "secrets").as_vec().expect("secrets").iter().filter_map(Yaml::as_str);
        assert_eq!(secrets.collect::<Vec<_>>(), ["registration-token"], "{name}");
        let dockerfile = field(service, "build")["dockerfile"].as_str().expect("a Dockerfile");
        assert!(workspace().join(dockerfile).is_file(), "{name}");
    }
    assert_eq!(services.len(), 5);
    for name in ["seed-page", "payment-webhook", "python", "node"] {
        let gateway = &field(service(name), "environment")["GEARWAY_GATEWAY"];
        let merged = &field(service(name), "environment")["<<"]["GEARWAY_GATEWAY"];
        let gateway = if gateway.is_badvalue() { merged } else { gateway };
        assert_eq!(gateway.as_str(), Some("http://gateway:3001"), "{name}");
        let waits = &field(service(name), "depends_on")["gateway"]["condition"];
        assert_eq!(waits.as_str(), Some("service_healthy"), "{name}");
    }
}

/// The service's own field, or that of what it is merged with.
fn field<'a>(service: &'a Yaml, name: &str) -> &'a Yaml {
    match &service[name] {
        Yaml::BadValue if !service["<<"].is_badvalue() => field(&service["<<"], name),
        value => value,
    }
}
