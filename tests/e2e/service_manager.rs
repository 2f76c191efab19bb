//! What systemd is told, and what it gives. Contract section 1.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gearway_tests::process::{Process, Signal};
use gearway_tests::{Gateway, Request, binaries};
use tempfile::TempDir;

/// Plays the service manager's end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _dir: TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        Self { socket, path, _dir: dir }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("a path that is text")
    }

    /// The next message, as its variables.
    fn told(&self) -> BTreeMap<String, String> {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message in time");
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_follows_a_gateway_through_its_life() {
    let manager = Manager::new();
    let gateway = Gateway::builder().env("NOTIFY_SOCKET", manager.path()).start().await;
    assert_eq!(manager.told(), variables(&[("READY", "1")]));

    for text in ["", "nonsense = 1"] {
        gateway.write_config(text);
        gateway.sighup();
        let reloading = manager.told();
        assert_eq!(reloading["RELOADING"], "1");
        assert!(reloading["MONOTONIC_USEC"].parse::<u64>().is_ok_and(|time| time > 0), "{reloading:?}");
        assert_eq!(manager.told(), variables(&[("READY", "1")]), "also when the file was bad");
    }

    gateway.write_config("");
    let successor = gateway.upgrade().await.to_string();
    let mut told = [manager.told(), manager.told()];
    told.sort_by_key(BTreeMap::len);
    assert_eq!(told[0], variables(&[("MAINPID", &successor)]), "by the one that is listened to");
    assert_eq!(told[1], variables(&[("MAINPID", &successor), ("READY", "1")]), "by the new one");
    assert_eq!(gateway.process().wait_for_exit().await.code(), Some(0));

    gateway.signal(Signal::TERM);
    assert_eq!(manager.told(), variables(&[("STOPPING", "1")]), "the one before has not said so");
}

/// Starts a gateway with listening sockets, as systemd does it: Python's `os` has what that takes.
fn activate(dir: &Path, names: Option<&str>, sockets: usize) -> Process {
    const SCRIPT: &str = r#"
import os, socket, sys
names, count, program, *arguments = sys.argv[1:]
listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(count))]
print("ADDRESSES", *("%s:%d" % one.getsockname() for one in listening), flush=True)
copies = [os.dup(os.dup(one.fileno())) for one in listening]
for place, copy in enumerate(copies):
    os.dup2(copy, 3 + place, inheritable=True)
os.environ.update(LISTEN_FDS=count, LISTEN_PID=str(os.getpid()))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execv(program, [program, *arguments])
"#;
    let mut command = std::process::Command::new("python3");
    command.current_dir(dir).args(["-c", SCRIPT, names.unwrap_or_default(), &sockets.to_string()]);
    command.arg(binaries::path("gearway")).args(["serve", "--data-dir"]).arg(dir.join("data"));
    // What is not given must not collide with what runs on this machine.
    command.args(["--public-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    Process::spawn("gearway", command)
}

async fn given_addresses(process: &Process) -> Vec<String> {
    let addresses = |line: &str| line.strip_prefix("ADDRESSES ").map(str::to_owned);
    let line = process.wait_for_line("its addresses", addresses).await;
    line.split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn sockets_of_the_service_manager_are_used() {
    for (names, sockets, public, admin) in [
        (Some("admin:public"), 2, Some(1), Some(0)),
        (Some("gearway.socket:gearway.socket"), 2, Some(0), Some(1)),
        (None, 2, Some(0), Some(1)),
        (Some("public"), 1, Some(0), None),
        (Some("admin"), 1, None, Some(0)),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let gateway = activate(dir.path(), names, sockets);
        let given = given_addresses(&gateway).await;
        gateway.wait_for_line("it listens", |line| line.contains("\"listening\"").then_some(())).await;
        let status = async |place: usize, path: &str| {
            let address = given[place].parse().expect("an address");
            Request::get(path).send(address).await.status
        };
        if let Some(place) = public {
            // Unknown to both: the public listener answers as the seed does, the admin listener does not know it.
            assert_eq!(status(place, "/nowhere").await, 200, "{names:?}");
        }
        if let Some(place) = admin {
            assert_eq!(status(place, "/readyz").await, 200, "{names:?}");
        }
    }
}

/// An upgrade keeps them, although no configuration names their addresses.
#[tokio::test]
async fn sockets_of_the_service_manager_are_handed_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let gateway = activate(dir.path(), Some("public:admin"), 2);
    let given = given_addresses(&gateway).await;
    gateway.wait_for_line("it listens", |line| line.contains("\"listening\"").then_some(())).await;
    gateway.signal(Signal::USR2);
    let successor = gateway
        .wait_for_line("it hands over", |line| {
            let line = serde_json::from_str::<serde_json::Value>(line).ok()?;
            (line["message"] == "handed over").then(|| u32::try_from(line["pid"].as_u64()?).ok())?
        })
        .await;
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
    let admin = given[1].parse().expect("an address");
    assert_eq!(Request::get("/readyz").send(admin).await.status, 200);
    gearway_tests::gateway::signal_pid(successor, Signal::KILL);
}

#[tokio::test]
async fn a_socket_too_many_is_refused() {
    for (names, sockets) in [(Some("public:public"), 2), (Some("public:extra"), 2), (None, 3)] {
        let dir = tempfile::tempdir().expect("a folder");
        let gateway = activate(dir.path(), names, sockets);
        assert_eq!(gateway.wait_for_exit().await.code(), Some(1));
        let lines = gateway.all_lines().await.join("\n");
        assert!(lines.contains("FileDescriptorName"), "{lines}");
    }
}
