//! `docs/deploy/metrics.nginx.conf`: how a Prometheus on another machine reads the metrics, with nothing at hand that could do more.

use gearway_tests::port::ReservedPort;
use gearway_tests::tls::Certificate;
use gearway_tests::{Gateway, Request, binaries, installed, wait};
use tokio::process::Command;

/// base64 of `prometheus:secret`.
const AUTHORIZATION: &str = "Basic cHJvbWV0aGV1czpzZWNyZXQ=";

#[tokio::test]
async fn a_window_shows_the_metrics_and_nothing_else() {
    let Some(nginx) = installed::debian("nginx", "nginx").await else { return };
    let gateway = Gateway::start("").await;
    let certificate = Certificate::make();
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, port) = (folder.path(), ReservedPort::take());
    let written = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a writable folder");
    written("metrics.pem", &certificate.cert_pem);
    written("metrics.key", &certificate.key_pem);
    written("metrics.htpasswd", "prometheus:{PLAIN}secret\n");
    let window = std::fs::read_to_string(binaries::workspace().join("docs/deploy/metrics.nginx.conf"))
        .expect("the example")
        .replace("/etc/nginx/", &format!("{}/", dir.display()))
        .replace("127.0.0.1:3001", &gateway.admin_address().to_string())
        .replace("listen 9464", &format!("listen {}", port.address()));
    written("window.conf", &window);
    // Otherwise the workers of root's nginx run as somebody who may not enter this folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {}/{name};", dir.display()));
    let dir = dir.display();
    written(
        "nginx.conf",
        &format!(
            "{user} daemon off; master_process off; pid {dir}/pid; error_log stderr crit;\nevents {{ }}\n\
             http {{ access_log off; {} include {dir}/window.conf; }}\n",
            paths.concat()
        ),
    );
    let address = port.address();
    drop(port);
    let mut nginx = Command::new(nginx);
    nginx.args(["-e", "stderr", "-c"]).arg(folder.path().join("nginx.conf")).kill_on_drop(true);
    let _running = nginx.spawn().expect("nginx runs");
    wait::until("nginx listens", async || certificate.http1(address).await.ok()).await;

    let ask = async |request: Request| {
        let mut connection = certificate.http1(address).await.expect("a handshake");
        connection.request(&request).await.expect("an answer")
    };
    let shown = |request: Request| request.header("Authorization", AUTHORIZATION);
    let metrics = ask(shown(Request::get("/metrics"))).await.expect_status(200);
    assert!(metrics.text().contains("gearway_build_info"), "{metrics:?}");
    assert_eq!(ask(Request::get("/metrics")).await.status, 401);
    let admin_token = gateway.admin().token;
    assert_eq!(ask(Request::get("/metrics").bearer(&admin_token)).await.status, 401);
    for target in ["/", "/v1/workers", "/v1/routes", "/openapi.json", "/metrics/", "/metrics/../v1/routes"] {
        assert_eq!(ask(shown(Request::get(target))).await.status, 404, "{target}");
    }
    for method in ["POST", "PUT", "DELETE"] {
        let request = shown(Request::new(method, "/metrics").body(""));
        assert_eq!(ask(request).await.status, 403, "{method}");
    }
}
