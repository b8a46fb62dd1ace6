//! Under which conditions a run is made: printed beside every result.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::results::Conditions;

/// Libraries whose versions are told.
const LIBRARIES: [&str; 7] = ["tokio", "axum", "reqwest", "tokio-tungstenite", "tonic", "lapin", "redis"];

/// How long the machine is watched before a run.
const WATCHED: Duration = Duration::from_millis(500);

/// The versions that this very build is made of.
const LOCK: &str = include_str!("../../Cargo.lock");

/// What is known before the run. Call it before any thread is pinned.
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

/// The share of all cores' time that others use while this program sleeps, what a
/// hypervisor takes away included (proc_stat(5)). The load average would not do: it
/// still holds the build that has just ended.
fn busy() -> Option<f64> {
    let (idle, all) = core_time()?;
    std::thread::sleep(WATCHED);
    let (idle_after, all_after) = core_time()?;
    Some(1.0 - (idle_after - idle) / (all_after - all))
}

/// Of all cores: the time that passed idle, and all time.
fn core_time() -> Option<(f64, f64)> {
    let stat = read("/proc/stat")?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of these.
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

/// The compiler on this machine; `cargo run` has just used it.
fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    version.map_or_else(|| "unknown".into(), |version| version.trim().to_owned())
}

fn library(name: &str) -> Option<(String, String)> {
    let (_, entry) = LOCK.split_once(&format!("name = \"{name}\"\nversion = \""))?;
    Some((name.to_owned(), entry.split_once('"')?.0.to_owned()))
}

/// The brokers that are installed, where that is quick to tell.
fn brokers() -> Vec<(String, String)> {
    let printed = Command::new("redis-server").arg("--version").output().ok();
    let redis = printed.and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        Some(("redis-server".to_owned(), text.split_once("v=")?.1.split(' ').next()?.to_owned()))
    });
    // The name of a folder, since to ask the program takes seconds.
    let folders = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
    let mut names = folders.filter_map(|folder| folder.file_name().into_string().ok());
    let rabbitmq = names.find_map(|name| {
        let version = name.strip_prefix("rabbitmq_server-")?;
        Some(("rabbitmq-server".to_owned(), version.to_owned()))
    });
    redis.into_iter().chain(rabbitmq).collect()
}

/// A moment, given in seconds since the Unix epoch, as `2026-01-31 13:59 UTC`.
pub fn utc(seconds: u64) -> String {
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Years that begin in March end with the leap day: one formula for all months
    // (Howard Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}
