//! What a process takes, out of /proc.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Memory that a process has in use.
pub(crate) struct Memory {
    /// The most it ever was, since the process began or the peak was reset.
    pub(crate) peak_mib: u64,
    pub(crate) now_mib: u64,
}

impl Memory {
    pub(crate) fn of_this() -> anyhow::Result<Memory> {
        Memory::of("self")
    }

    pub(crate) fn of(pid: impl std::fmt::Display) -> anyhow::Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            kib.and_then(|kib| kib.parse::<u64>().ok())
                .map(|kib| kib >> 10)
        };
        Ok(Memory {
            peak_mib: field("VmHWM:").context("VmHWM")?,
            now_mib: field("VmRSS:").context("VmRSS")?,
        })
    }

    /// Forgets the peak of this process; what it has now, in MiB.
    pub(crate) fn reset_peak() -> anyhow::Result<u64> {
        fs::write("/proc/self/clear_refs", "5")?;
        Ok(Memory::of_this()?.now_mib)
    }
}

/// Processor time of a process and of the children that it waited for, to the hundredth second.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_name, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(4);
    let ticks = ticks.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    // USER_HZ is 100 wherever Linux runs.
    Ok(Duration::from_millis(ticks * 10))
}
