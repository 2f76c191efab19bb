//! What a process holds, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

/// Linux counts a process's time for `/proc` in these, whatever its own are.
const TICKS_PER_SECOND: u64 = 100;

/// Memory and descriptors of a process at one instant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Vitals {
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// The most that it ever was, in KiB.
    pub peak_rss_kib: u64,
    pub descriptors: usize,
    /// The processors' time that it has had.
    pub cpu: Duration,
}

impl Vitals {
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or_default()
        };
        Ok(Self {
            rss_kib: kib("VmRSS"),
            peak_rss_kib: kib("VmHWM"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            cpu: cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?),
        })
    }
}

/// From `/proc/PID/stat`, where user and system time stand behind the name in parentheses.
fn cpu(stat: &str) -> Duration {
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// By how much `y` grows when `x` grows by 1, by least squares.
#[must_use]
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_slope() {
        assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
        assert!(slope(&[(1.0, 1.0)]).abs() < 1e-9);
    }

    #[test]
    fn a_process_has_user_and_system_time() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 150 50 9 9 20 0 1 0";
        assert_eq!(cpu(stat), Duration::from_secs(2));
    }

    #[test]
    fn this_process_holds_something() {
        let vitals = Vitals::of(std::process::id()).unwrap();
        assert!(
            vitals.rss_kib > 0 && vitals.peak_rss_kib >= vitals.rss_kib && vitals.descriptors > 2,
            "{vitals:?}"
        );
    }
}
