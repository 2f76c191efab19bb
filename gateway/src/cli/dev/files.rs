use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use notify::event::{EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

/// An editor's way of saving, or a branch being checked out, is over when nothing happened for this long.
const QUIET: Duration = Duration::from_millis(200);
/// Something that never comes to rest is not waited for.
const LONGEST_BURST: Duration = Duration::from_secs(2);
/// More changes at a time say nothing more.
const BACKLOG: usize = 1024;
/// What tools write, and what a restart must not wait for.
const NOT_SOURCE: [&str; 5] = ["target", "node_modules", "__pycache__", "gearway-data", "venv"];
/// What programs write beside their sources while they run.
const NOT_SOURCE_SUFFIXES: [&str; 13] = [
    "~",
    ".db",
    ".db-journal",
    ".db-shm",
    ".db-wal",
    ".lock",
    ".log",
    ".pid",
    ".pyc",
    ".sock",
    ".sqlite",
    ".sqlite3",
    ".tmp",
];

/// Tells of changes to the files below a directory. Directories of tools are not watched at all: `node_modules` alone
/// can have more of them than the system lets one process watch.
pub(super) struct Watch {
    root: PathBuf,
    watcher: RecommendedWatcher,
    changes: mpsc::Receiver<PathBuf>,
    burst: Option<Burst>,
}

/// Changes that are still coming.
struct Burst {
    first: PathBuf,
    began: Instant,
    latest: Instant,
}

impl Watch {
    pub(super) fn begin(root: &Path) -> anyhow::Result<Self> {
        let (sender, changes) = mpsc::channel(BACKLOG);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if !is_change(event.kind) {
                return;
            }
            for path in event.paths {
                // When it is full, there are changes enough to see.
                sender.try_send(path).ok();
            }
        })
        .context("cannot watch files")?;
        let mut watch = Self { root: root.to_owned(), watcher, changes, burst: None };
        watch.watch(root).with_context(|| format!("cannot watch {}", root.display()))?;
        watch.watch_below(root);
        Ok(watch)
    }

    /// Waits for a change and for the quiet after it. Returns the file that changed first, relative to the root. A call
    /// that is given up loses nothing: the next one goes on.
    pub(super) async fn changed(&mut self) -> PathBuf {
        loop {
            let change = match &self.burst {
                None => Ok(self.next().await),
                Some(burst) => {
                    let end = (burst.latest + QUIET).min(burst.began + LONGEST_BURST);
                    timeout_at(end, self.next()).await
                }
            };
            let now = Instant::now();
            match (change, self.burst.take()) {
                (Err(_), Some(burst)) => return burst.first,
                (Ok(Some(first)), None) => self.burst = Some(Burst { first, began: now, latest: now }),
                (Ok(Some(_)), Some(burst)) => self.burst = Some(Burst { latest: now, ..burst }),
                (Ok(None) | Err(_), burst) => self.burst = burst,
            }
        }
    }

    async fn next(&mut self) -> Option<PathBuf> {
        let Some(path) = self.changes.recv().await else { return std::future::pending().await };
        let relative = path.strip_prefix(&self.root).ok()?.to_owned();
        if !is_source(&relative) {
            return None;
        }
        if path.is_dir() {
            // Files may have been written into it before it was watched, which is a change as well.
            self.watch(&path).ok();
            self.watch_below(&path);
        }
        Some(relative)
    }

    fn watch(&mut self, directory: &Path) -> notify::Result<()> {
        self.watcher.watch(directory, RecursiveMode::NonRecursive)
    }

    fn watch_below(&mut self, directory: &Path) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let is_directory = entry.file_type().is_ok_and(|file_type| file_type.is_dir());
            if is_directory && is_source(Path::new(&entry.file_name())) {
                // A directory that cannot be watched, or is gone again, only misses restarts.
                self.watch(&entry.path()).ok();
                self.watch_below(&entry.path());
            }
        }
    }
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Create(_) | EventKind::Remove(_) => true,
        EventKind::Modify(kind) => !matches!(kind, ModifyKind::Metadata(_)),
        EventKind::Any | EventKind::Access(_) | EventKind::Other => false,
    }
}

fn is_source(relative: &Path) -> bool {
    let mut names = relative.iter().map(|name| name.to_string_lossy());
    names.all(|name| {
        !name.starts_with('.')
            && !NOT_SOURCE.contains(&&*name)
            && !NOT_SOURCE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_what_lies_beside_them() {
        for source in ["app.py", "src/main.rs", "lib/targets.js", "templates/a.html", "targeted/x"] {
            assert!(is_source(Path::new(source)), "{source}");
        }
        for other in [
            "target/debug/app",
            ".git/HEAD",
            "node_modules/a/index.js",
            "src/__pycache__/app.pyc",
            "gearway-data/gearway.db",
            "app.py~",
            ".app.py.swp",
            "app.log",
            "data.sqlite3",
        ] {
            assert!(!is_source(Path::new(other)), "{other}");
        }
    }

    #[tokio::test]
    async fn changes_are_seen_in_new_directories_and_not_in_those_of_tools() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("target/debug")).unwrap();
        fs::create_dir_all(root.join("src/deep")).unwrap();
        let mut watch = Watch::begin(&root).unwrap();

        fs::write(root.join("target/debug/app"), "x").unwrap();
        fs::write(root.join("app.log"), "x").unwrap();
        fs::write(root.join("src/deep/a.py"), "x").unwrap();
        assert_eq!(watch.changed().await, Path::new("src/deep/a.py"));

        fs::create_dir(root.join("new")).unwrap();
        assert_eq!(watch.changed().await, Path::new("new"));
        fs::write(root.join("new/b.py"), "x").unwrap();
        assert_eq!(watch.changed().await, Path::new("new/b.py"));
    }

    #[tokio::test]
    async fn a_change_survives_waits_that_are_given_up() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let mut watch = Watch::begin(&root).unwrap();
        fs::write(root.join("a.py"), "x").unwrap();
        let impatient = async {
            loop {
                if let Ok(file) = tokio::time::timeout(QUIET / 4, watch.changed()).await {
                    return file;
                }
            }
        };
        assert_eq!(impatient.await, Path::new("a.py"));
    }
}
