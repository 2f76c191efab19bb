//! How the cost grows: with routes, connections, workers, and the size of bodies.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::load::{Load, Outcome};
use crate::measure::{self, BUSY, request_to};
use crate::plot;
use crate::procfs;
use crate::proxy::{Gateway, Kind, Program, Worker};

/// One registration holds so many handlers.
const BATCH: usize = 20_000;
/// How many different routes are asked for, spread over the whole table.
const ASKED: usize = 4096;

/// One plot, and the figures that it draws.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x: String,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) x: f64,
    /// CPU µs a request.
    pub(crate) y: f64,
    pub(crate) p99_us: f64,
    pub(crate) resident_mib: f64,
    /// How long the last registration took, where there were many.
    pub(crate) registration_ms: Option<f64>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Growth {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) curves: Vec<Curve>,
}

impl Growth {
    /// Writes a plot of each curve, and the figures.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)?;
        for curve in &self.curves {
            let file = folder.join(format!("{}.svg", curve.name));
            std::fs::write(&file, plot::svg(curve)).with_context(|| file.display().to_string())?;
        }
        let file = folder.join("growth.json");
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&file, text).with_context(|| file.display().to_string())
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for curve in &self.curves {
            text += &format!("\n{}\n", curve.title);
            for line in &curve.lines {
                for point in &line.points {
                    let Point { x, y, p99_us, resident_mib, registration_ms } = point;
                    text += &format!(
                        "  {:<8} {} {x:>9}: {y:>9.1} µs CPU, p99 {p99_us:>9.0} µs, {resident_mib:>7.1} MiB",
                        line.name, curve.x
                    );
                    if let Some(took) = registration_ms {
                        text += &format!(", last registration {took:.0} ms");
                    }
                    text += "\n";
                }
            }
        }
        text
    }
}

/// Measures all four; `most` bounds them all, for a look at a small scale.
pub(crate) fn run(
    nginx: &Kind,
    gearway: &Kind,
    turn: Duration,
    most: usize,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Vec<Curve>> {
    let Program::Gearway(program) = &gearway.program else { anyhow::bail!("{} is no gateway", gearway.name) };
    Ok(vec![
        routes(program, turn, most, tell)?,
        connections(&[nginx, gearway], turn, most, tell)?,
        workers(program, turn, most, tell)?,
        bodies(&[nginx, gearway], turn, most, tell)?,
    ])
}

fn routes(program: &Path, turn: Duration, most: usize, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Curve> {
    let worker = Worker::start(1)?;
    let port = *worker.ports.first().context("a worker listens")?;
    let gateway = Gateway::start(program, 1, "")?;
    let pids = gateway.running.family();
    let (mut points, mut registered) = (Vec::new(), 0);
    for count in [1, 100, 10_000, 100_000, 1_000_000].into_iter().filter(|count| *count <= most) {
        let mut took = Duration::ZERO;
        while registered < count {
            let upto = count.min(registered + BATCH);
            let handlers: Vec<Value> = (registered..upto).map(|n| handler(&route(n))).collect();
            let start = Instant::now();
            gateway.register(&format!("worker-{registered}"), port, &handlers)?;
            took = start.elapsed();
            registered = upto;
            tell(&format!("{registered} routes"));
        }
        let step = count.div_ceil(ASKED);
        let paths = (0..count).step_by(step).map(|n| format!("/{}", route(n)));
        let request = request_to(paths, 0)?;
        let mut point = point(gateway.public, &pids, count, BUSY, &request, turn)?;
        point.registration_ms = Some(took.as_secs_f64() * 1e3);
        points.push(point);
    }
    Ok(curve("routes", "Cost by the number of routes", "routes", [("gearway", points)]))
}

fn route(n: usize) -> String {
    format!("service-{}/v1/action-{n}", n % 97)
}

fn handler(name: &str) -> Value {
    json!({"name": name, "methods": ["GET", "POST"], "key_required": true, "user_required": true})
}

fn connections(
    kinds: &[&Kind],
    turn: Duration,
    most: usize,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Curve> {
    // Each takes a descriptor in a proxy, and a second one while it asks. The proxy has the limit that this process has.
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let descriptors = usize::try_from(limit.saturating_sub(1_000)).unwrap_or(usize::MAX);
    let worker = Worker::start(1)?;
    let mut lines = Vec::new();
    for kind in kinds {
        let proxy = kind.start(1, &worker)?;
        let request = echo(0)?;
        let mut points = Vec::new();
        for count in [1, 10, 100, 1_000, 10_000].into_iter().filter(|count| *count <= most) {
            ensure!(
                descriptors > count,
                "{count} connections take more than the limit of {limit} descriptors"
            );
            tell(&format!("{}, {count} connections", kind.name));
            let load = Load::open(proxy.address, count, &request)?.at_once(descriptors - count);
            let measured = measure::measured(load, &proxy.pids, &request, turn)?;
            points.push(point_of(count, &proxy.pids, &measured));
        }
        lines.push((kind.name.as_str(), points));
    }
    Ok(curve("connections", "Cost by the number of busy connections", "connections", lines))
}

fn workers(program: &Path, turn: Duration, most: usize, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Curve> {
    let counts = [1, 10, 100, 1_000].into_iter().filter(|count| *count <= most);
    let worker = Worker::start(most.min(1_000))?;
    let gateway = Gateway::start(program, 1, "")?;
    let pids = gateway.running.family();
    let (mut points, mut registered) = (Vec::new(), 0);
    for count in counts {
        let mut took = Duration::ZERO;
        for port in worker.ports.get(registered..count).context("as many ports as workers")? {
            let start = Instant::now();
            gateway.register("echo", *port, &[handler("echo")])?;
            took = start.elapsed();
        }
        registered = count;
        tell(&format!("{count} workers"));
        let mut point = point(gateway.public, &pids, count, BUSY, &echo(0)?, turn)?;
        point.registration_ms = Some(took.as_secs_f64() * 1e3);
        points.push(point);
    }
    Ok(curve("workers", "Cost by the number of workers of one route", "workers", [("gearway", points)]))
}

fn bodies(kinds: &[&Kind], turn: Duration, most: usize, tell: &mut dyn FnMut(&str)) -> anyhow::Result<Curve> {
    const KIB: usize = 1024;
    let sizes = [0, 1, 4, 16, 64, 256, 1024, 4 * 1024, 10 * 1024];
    let worker = Worker::start(1)?;
    let mut lines = Vec::new();
    for kind in kinds {
        let proxy = kind.start(1, &worker)?;
        let mut points = Vec::new();
        for size in sizes.into_iter().map(|size| size * KIB).filter(|size| *size <= most.saturating_mul(KIB))
        {
            tell(&format!("{}, bodies of {size} bytes", kind.name));
            // So many that what is in flight stays well below the gateway's budget.
            let connections = (64 * KIB * KIB / (size + 1)).clamp(4, BUSY);
            let request = echo(size)?;
            points.push(point(proxy.address, &proxy.pids, size, connections, &request, turn)?);
        }
        lines.push((kind.name.as_str(), points));
    }
    Ok(curve("bodies", "Cost by the size of the body, echoed", "bytes", lines))
}

fn echo(length: usize) -> anyhow::Result<crate::load::Request> {
    request_to((0..BUSY).map(|_| "/echo".to_owned()), length)
}

fn point(
    to: std::net::SocketAddr,
    pids: &[u32],
    x: usize,
    connections: usize,
    request: &crate::load::Request,
    turn: Duration,
) -> anyhow::Result<Point> {
    let measured = measure::load(to, pids, request, connections, turn)?;
    Ok(point_of(x, pids, &measured))
}

fn point_of(x: usize, pids: &[u32], (outcome, cpu): &(Outcome, Duration)) -> Point {
    Point {
        x: x as f64,
        y: measure::per_request(*cpu, outcome),
        p99_us: measure::microseconds(outcome, 0.99),
        resident_mib: procfs::resident(pids) as f64 / 1024.0,
        registration_ms: None,
    }
}

fn curve<'a>(
    name: &str,
    title: &str,
    x: &str,
    lines: impl IntoIterator<Item = (&'a str, Vec<Point>)>,
) -> Curve {
    let lines = lines.into_iter().map(|(name, points)| Line { name: name.to_owned(), points }).collect();
    Curve { name: name.to_owned(), title: title.to_owned(), x: x.to_owned(), lines }
}
