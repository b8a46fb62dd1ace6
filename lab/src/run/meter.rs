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

/// CPU time of each side. It is `None` if there is no such process or its time can't be read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// CPU time of this process, which runs both the client and the measuring loop.
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

    /// Returns the RAM, in bytes, used by the process that the clients connect to.
    ///
    /// # Errors
    /// If there is no such process, or the system is not Linux.
    pub fn memory(&self) -> anyhow::Result<u64> {
        resident(self.broker.or(self.server).context("there is no process whose memory could be read")?)
    }
}

impl Cpu {
    /// Returns the CPU time of all sides.
    pub fn together(self) -> Option<Duration> {
        Some(self.client? + self.server.unwrap_or_default() + self.broker.unwrap_or_default())
    }

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

/// Returns the CPU time that a process has used so far in user and kernel mode. The scheduler
/// counts it in nanoseconds. Threads that have ended are not included.
///
/// # Errors
/// If there is no `/proc/<pid>/task/*/schedstat` (not Linux).
pub(super) fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in
        fs::read_dir(format!("/proc/{process}/task")).context("CPU times are only available on Linux")?
    {
        // A thread may end after it was listed.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += schedstat.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns how many bytes of RAM a process uses (`VmRSS`). Memory of the kernel, such as socket
/// buffers, is not included.
fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))
        .context("memory use is only available on Linux")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the status has no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}
