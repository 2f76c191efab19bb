//! Which processors run what, where a proxy has one thread: the proxy has one to itself, load and worker have the others.
//!
//! Left to itself, the scheduler moves all three between the processors. Whether a proxy shares its own with those that it wakes
//! changes its cost by a tenth, for seconds at a time.

use anyhow::Context;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::procfs;

/// While this lives, what this thread starts runs apart from the proxies.
pub(crate) struct Placement {
    all: CpuSet,
    proxy: CpuSet,
}

impl Placement {
    /// [`None`] with one processor: then there is nothing to choose.
    pub(crate) fn begin() -> anyhow::Result<Option<Self>> {
        let all = sched_getaffinity(None)?;
        let mut others = all;
        let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu)) else { return Ok(None) };
        others.unset(last);
        if others.count() == 0 {
            return Ok(None);
        }
        sched_setaffinity(None, &others).context("cannot choose processors")?;
        let mut proxy = CpuSet::new();
        proxy.set(last);
        Ok(Some(Self { all, proxy }))
    }

    /// Moves all threads of a proxy that has just been started to the proxies' processor.
    pub(crate) fn move_proxy(&self, pids: &[u32]) -> anyhow::Result<()> {
        for thread in pids.iter().flat_map(|&pid| procfs::threads(pid)) {
            let thread = i32::try_from(thread).ok().and_then(Pid::from_raw).context("a thread's number")?;
            sched_setaffinity(Some(thread), &self.proxy).context("cannot choose a proxy's processor")?;
        }
        Ok(())
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        // It was allowed before.
        sched_setaffinity(None, &self.all).ok();
    }
}
