//! Reads the CPU time and memory that processes use.

use std::fs;
use std::time::Duration;

use anyhow::Context;

/// The processes whose CPU time is reported separately.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// The server's process.
    pub server: Option<u32>,
    /// The broker's process, if there is one.
    pub broker: Option<u32>,
}

/// CPU time of each side. It is `None` if there is no such process, or no figure.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// CPU time of this process: protocol and measuring loop.
    pub client: Option<Duration>,
    /// CPU time of the server's process.
    pub server: Option<Duration>,
    /// CPU time of the broker's process.
    pub broker: Option<Duration>,
}

impl Meter {
    /// Reads the CPU time that each process has used since its start.
    pub fn read(&self) -> Cpu {
        let of = |process: Option<u32>| process.and_then(|process| cpu_time(process).ok());
        Cpu { client: of(Some(std::process::id())), server: of(self.server), broker: of(self.broker) }
    }

    /// Returns the memory in RAM, in bytes, of the process that the clients connect to.
    ///
    /// # Errors
    /// If there is no such process, or the system is not Linux.
    pub fn memory(&self) -> anyhow::Result<u64> {
        resident(self.broker.or(self.server).context("no process to read the memory of")?)
    }
}

impl Cpu {
    /// Returns the CPU time used since `before`.
    pub fn since(self, before: Self) -> Self {
        let used = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            client: used(self.client, before.client),
            server: used(self.server, before.server),
            broker: used(self.broker, before.broker),
        }
    }
}

/// Returns the CPU time of a process so far, in user and kernel mode, as the scheduler counts
/// it in nanoseconds. Threads that have ended are not included.
///
/// # Errors
/// If there is no `/proc/<pid>/task/*/schedstat` (not Linux).
pub(super) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).context("CPU times need Linux")? {
        // A thread may end between the two steps.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += schedstat.split(' ').next().context("empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns the bytes of memory that a process has in RAM (`VmRSS`). The kernel's own memory,
/// such as socket buffers, is not included.
fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("memory needs Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}
