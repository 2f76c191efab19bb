//! What the kernel says a process has used.

use std::time::Duration;

use anyhow::Context;

/// A process and its children, as they are now.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        for thread in threads(parent) {
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{thread}/children"));
            pids.extend(children.unwrap_or_default().split_ascii_whitespace().flat_map(str::parse::<u32>));
        }
        next += 1;
    }
    pids
}

/// User and system time of these processes, to the nanosecond. Threads that have ended are not counted: a proxy has none that
/// come and go with requests.
pub(crate) fn cpu(pids: &[u32]) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for &pid in pids {
        for thread in threads(pid) {
            let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) else {
                continue;
            };
            let ran = text.split(' ').next().and_then(|field| field.parse().ok());
            total += Duration::from_nanos(ran.context("an unreadable schedstat")?);
        }
    }
    anyhow::ensure!(total > Duration::ZERO, "the kernel says nothing of these processes' time: {pids:?}");
    Ok(total)
}

/// What of these processes is in memory, in KiB.
pub(crate) fn resident(pids: &[u32]) -> u64 {
    pids.iter().map(|&pid| status_field(pid, "VmRSS:")).sum()
}

/// The most that was in memory since [`forget_peak`], in KiB.
pub(crate) fn peak_resident(pids: &[u32]) -> u64 {
    pids.iter().map(|&pid| status_field(pid, "VmHWM:")).sum()
}

/// Lets the peak begin again from what is in memory now.
pub(crate) fn forget_peak(pids: &[u32]) -> anyhow::Result<()> {
    for pid in pids {
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak of memory")?;
    }
    Ok(())
}

pub(crate) fn threads(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn status_field(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let pids = family(std::process::id());
        assert!(cpu(&pids).unwrap() > Duration::ZERO);
        assert!(resident(&pids) > 0);
        assert!(peak_resident(&pids) > 0);
    }
}
