//! What the measurements share: servers as processes of their own, a core for
//! each, CPU time, and medians.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;

/// Puts the calling thread, and all threads and processes that it starts from
/// now on, on one core, counted from 0. False where the system has no such
/// choice, or no such core.
///
/// Call it before a runtime is built, so that the runtime counts its cores right.
pub fn pin(core: usize) -> bool {
    core_affinity::get_core_ids()
        .and_then(|cores| cores.get(core).copied())
        .is_some_and(core_affinity::set_for_current)
}

/// A runtime of one thread, for the one core that [`pin`] leaves.
///
/// # Errors
/// If the system refuses what a runtime needs.
pub fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// This very program again, as a server.
///
/// It runs with the arguments `serve <role>`: its `main` asks [`role`], listens,
/// prints `listening on <address>` and serves until [`owner_is_gone`].
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

    /// CPU time that it has used so far, in user and kernel mode, by the
    /// scheduler's own account in nanoseconds. Threads that have ended are not in it.
    ///
    /// # Errors
    /// Where there is no `/proc/<pid>/task/*/schedstat` (not Linux).
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).context("CPU times need Linux")? {
            let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
            nanoseconds += schedstat.split(' ').next().context("empty schedstat")?.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // The server takes this as its sign to stop.
        let _ = self.child.wait();
    }
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

/// The middle value, and the lowest and highest beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median; of an even number of values the mean of the middle two.
    pub median: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
}

impl Spread {
    /// Of at least one value, none of them NaN; otherwise all three are NaN.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.as_slice() {
            [] => Self { median: f64::NAN, low: f64::NAN, high: f64::NAN },
            all @ [low, .., high] if all.len() % 2 == 0 => {
                Self { median: f64::midpoint(all[middle - 1], all[middle]), low: *low, high: *high }
            }
            all => Self { median: all[middle], low: all[0], high: all[all.len() - 1] },
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}
