//! Servers as processes of their own, and what they use up.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, ensure};

use crate::placement::pin;

/// This very program again, as a server.
///
/// It runs with the arguments `serve <role>`: its `main` asks [`role`], listens,
/// prints `listening on <address>` and serves until [`owner_is_gone`]. Dropped, it is
/// killed.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts it on a core of its own or, with `None`, on those of the caller.
    ///
    /// # Errors
    /// If it does not start, or ends without listening.
    pub fn start(role: &str, core: Option<usize>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", role]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C in a terminal reaches a whole process group. It is for the lab to
        // decide when its servers stop.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let spawn = move || {
            // A child inherits the cores of the thread that starts it.
            ensure!(core.is_none_or(pin), "no core {core:?} to be had");
            command.spawn().context("start the server")
        };
        let mut child =
            thread::spawn(spawn).join().map_err(|_| anyhow::anyhow!("the spawning thread panicked"))??;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the server's output")?).read_line(&mut line)?;
        let address =
            line.trim().strip_prefix("listening on ").context("the server did not start")?.to_owned();
        Ok(Self { child, address })
    }

    /// What it printed after `listening on`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// CPU time that it has used so far, in user and kernel mode; see [`cpu_time`].
    ///
    /// # Errors
    /// Where there is no `/proc/<pid>/task/*/schedstat` (not Linux).
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing that it holds is wanted any more, and to be polite would take it the
        // time that it grants its connections to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of a process so far, in user and kernel mode, by the scheduler's own
/// account in nanoseconds. Threads that have ended are not in it.
///
/// # Errors
/// Where there is no `/proc/<pid>/task/*/schedstat` (not Linux).
pub fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in fs::read_dir(format!("/proc/{process}/task")).context("CPU times need Linux")? {
        // A thread may end between the two steps.
        let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += schedstat.split(' ').next().context("empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Bytes of memory that a process has in RAM (`VmRSS`). The kernel's own, such as
/// the buffers of sockets, are not in it.
///
/// # Errors
/// Where there is no `/proc/<pid>/status` (not Linux).
pub fn resident(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("memory needs Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes * 1024)
}

/// The role that [`Server::start`] gave this process; `None` if a person started it.
pub fn role() -> Option<String> {
    std::env::args().skip_while(|argument| argument != "serve").nth(1)
}

/// Completes when the process that started this one has ended or dropped its
/// [`Server`]: the pipe to stdin closes, however the end came.
pub async fn owner_is_gone() {
    let end = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = end.await;
}
