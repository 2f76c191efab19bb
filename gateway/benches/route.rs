//! How long it takes to find a route, and to build the table that it is found in.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use gearway::path::{CanonicalPath, Target, canonicalise};
use gearway::route::{Braces, Pattern, RouteTable, Shape};

const SIZES: [usize; 3] = [10, 10_000, 1_000_000];

/// Names as services have them: four in ten exact, two with a parameter in the middle, two ending in one, two
/// subtrees.
fn name(n: usize) -> String {
    let service = n % 97;
    match n % 10 {
        0..4 => format!("service-{service}/v1/action-{n}"),
        4 | 5 => format!("service-{service}/things-{n}/{{id}}/parts"),
        6 | 7 => format!("service-{service}/things-{n}/{{id}}"),
        _ => format!("service-{service}/files-{n}/"),
    }
}

/// A request for the route of that number.
fn request(n: usize) -> String {
    let path = name(n).replace("{id}", "8f14e45f");
    if path.ends_with('/') { format!("/{path}a/b.txt") } else { format!("/{path}") }
}

fn shapes(count: usize) -> Vec<(Shape, usize)> {
    (0..count)
        .map(|n| (Pattern::parse(&name(n), Braces::Param).expect("a name that parses").shape(), n))
        .collect()
}

fn path(raw: &str) -> CanonicalPath<'_> {
    match canonicalise(raw) {
        Ok(Target::Path(path)) => path,
        other => panic!("{raw} is {other:?}"),
    }
}

/// Requests spread over the whole table, so that a big one is as cold in the caches as it would be in service. The
/// texts themselves follow each other in memory, and are as warm as a request that was just read.
fn requests(count: usize, prefix: &str) -> String {
    let mut random = fastrand::Rng::with_seed(7);
    let mut texts = String::new();
    for _ in 0..1 << 16 {
        texts.push_str(prefix);
        texts.push_str(&request(random.usize(..count)));
        texts.push('\n');
    }
    texts
}

fn find(c: &mut Criterion) {
    let mut group = c.benchmark_group("find");
    for count in SIZES {
        let table = RouteTable::build(shapes(count));
        for (kind, prefix) in [("hit", ""), ("miss", "/nowhere")] {
            let texts = requests(count, prefix);
            let paths: Vec<_> = texts.lines().map(path).collect();
            let mut next = paths.iter().cycle();
            group.bench_function(BenchmarkId::new(kind, count), |b| {
                b.iter(|| black_box(table.find(next.next().expect("a cycle has no end"))));
            });
        }
    }
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build");
    group.sample_size(10);
    for count in SIZES {
        let shapes = shapes(count);
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter_batched(|| shapes.clone(), RouteTable::build, BatchSize::PerIteration);
        });
    }
}

fn read_path(c: &mut Criterion) {
    let mut group = c.benchmark_group("canonicalise");
    for (kind, raw) in
        [("plain", "/service-12/things-4/8f14e45f/parts"), ("encoded", "/caff%C3%A8/100%25/%7Bid%7D")]
    {
        group.bench_function(kind, |b| b.iter(|| black_box(canonicalise(black_box(raw)))));
    }
}

criterion_group!(benches, find, build, read_path);
criterion_main!(benches);
