//! What the kernel knows of a process: memory and computing time. Linux only; elsewhere there is no answer.

use std::fs;

use serde::{Deserialize, Serialize};

/// The resident memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// At the time of asking, in KiB.
    pub(crate) now: u64,
    /// The most it ever was, in KiB.
    pub(crate) peak: u64,
}

/// The memory of this process.
pub(crate) fn memory() -> Option<Memory> {
    parse_status(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_status(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?
            .trim()
            .strip_suffix(" kB")?
            .parse()
            .ok()
    };
    Some(Memory {
        now: field("VmRSS")?,
        peak: field("VmHWM")?,
    })
}

/// The seconds that the threads of a process have computed.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// User and system time, fields 14 and 15, in hundredths of a second: Linux keeps that unit towards programs whatever
/// its own clock does.
fn parse_stat(text: &str) -> Option<f64> {
    // The name in field 2 may hold spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_by_name() {
        let text = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1000 kB\n";
        let expected = Memory {
            now: 1000,
            peak: 2048,
        };
        assert_eq!(parse_status(text), Some(expected));
        // A field that only begins like it, and another unit.
        assert_eq!(parse_status("VmHWMx:\t1 kB\nVmRSS:\t1 kB\n"), None);
        assert_eq!(parse_status("VmHWM:\t1 MB\nVmRSS:\t1 kB\n"), None);
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn stat_is_read_behind_the_name() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194304 90 0 0 0 150 25 0 0 20 0 3 0 100 5 5";
        assert_eq!(parse_stat(text), Some(1.75));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_has_a_memory() {
        if let Some(Memory { now, peak }) = memory() {
            // A test binary with libtorch: more than a megabyte, and never more than its peak.
            assert!(1024 < now && now <= peak, "{now} {peak}");
        }
    }
}
