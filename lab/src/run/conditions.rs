//! Records the conditions of a run, which are shown beside every result.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Libraries whose versions the results report.
const LIBRARIES: [&str; 7] = ["tokio", "axum", "reqwest", "tokio-tungstenite", "tonic", "lapin", "redis"];

/// Time for which the machine is watched before a run.
const WATCHED: Duration = Duration::from_millis(500);

/// The machine counts as busy if other programs use more than this share of the cores' time.
const BUSY: f64 = 0.1;

/// The lock file, which has the versions of the libraries in this build.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Where, when, and how a run was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conditions {
    /// The command that started the run.
    pub command: String,
    /// Start of the run, in seconds since the Unix epoch.
    pub started_at: u64,
    /// Duration of the run, in seconds.
    pub duration_seconds: f64,
    /// Whether the run was stopped early, so that it has fewer rounds than planned, or none.
    pub interrupted: bool,
    /// Number of rounds planned.
    pub rounds: usize,
    /// The processor, and whether the machine is virtual.
    pub machine: String,
    /// Number of cores that the lab may use.
    pub cores: usize,
    /// Memory of the machine, in bytes.
    pub memory_bytes: Option<u64>,
    /// The operating system's name and the release of its kernel.
    pub system: String,
    /// Share of all cores' time that other programs used just before the run, 0 to 1.
    pub busy_before: Option<f64>,
    /// Version of the compiler.
    pub rustc: String,
    /// Versions of the libraries and brokers that were measured.
    pub versions: Vec<(String, String)>,
}

impl Conditions {
    /// Returns whether other programs used so much of the machine that the figures are noisy.
    pub fn was_busy(&self) -> bool {
        self.busy_before.is_some_and(|share| share > BUSY)
    }
}

/// Returns the conditions that are known before the run. Call this before any thread is pinned.
pub fn conditions(rounds: usize) -> Conditions {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let separator = if arguments.is_empty() { "" } else { " -- " };
    Conditions {
        command: format!("cargo run --release{separator}{}", arguments.join(" ")),
        started_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        duration_seconds: 0.0,
        interrupted: false,
        rounds,
        machine: machine(),
        cores: available_parallelism().map_or(1, usize::from),
        memory_bytes: memory(),
        system: system(),
        busy_before: busy(),
        rustc: rustc(),
        versions: LIBRARIES.into_iter().filter_map(library).chain(brokers()).collect(),
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Returns the share of all cores' time that other programs use while this one sleeps. It
/// includes time that a hypervisor takes away (proc_stat(5)). The load average would mislead:
/// it still includes the build that has just ended.
fn busy() -> Option<f64> {
    let (idle, all) = core_time()?;
    std::thread::sleep(WATCHED);
    let (idle_after, all_after) = core_time()?;
    Some(1.0 - (idle_after - idle) / (all_after - all))
}

/// Returns the idle time of all cores, and their total time.
fn core_time() -> Option<(f64, f64)> {
    let stat = read("/proc/stat")?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal. The fields that follow are parts of
    // user and nice.
    let times: Vec<f64> = fields.take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some((times.get(3)? + times.get(4)?, times.iter().sum()))
}

fn machine() -> String {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let flags = field("flags").unwrap_or_default();
    if flags.split(' ').any(|flag| flag == "hypervisor") {
        format!("{model}, a virtual machine")
    } else {
        model
    }
}

fn memory() -> Option<u64> {
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

fn system() -> String {
    let name = read("/etc/os-release").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, kernel {}", name.as_deref().unwrap_or(std::env::consts::OS), kernel.trim())
}

/// Returns the version of the compiler, which `cargo run` has just used.
fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    version.map_or_else(|| "unknown".into(), |version| version.trim().to_owned())
}

fn library(name: &str) -> Option<(String, String)> {
    let (_, entry) = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some((name.to_owned(), entry.split_once('"')?.0.to_owned()))
}

/// Returns the versions of the installed brokers, if they can be read quickly.
fn brokers() -> Vec<(String, String)> {
    let printed = Command::new("redis-server").arg("--version").output().ok();
    let redis = printed.and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        Some(("redis-server".to_owned(), text.split_once("v=")?.1.split(' ').next()?.to_owned()))
    });
    // The folder's name contains the version. Running the program would take seconds.
    let folders = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let rabbitmq = names.find_map(|name| {
        let version = name.strip_prefix("rabbitmq_server-")?;
        Some(("rabbitmq-server".to_owned(), version.to_owned()))
    });
    redis.into_iter().chain(rabbitmq).collect()
}
