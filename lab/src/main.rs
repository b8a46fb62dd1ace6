//! The lab's command line. The lab does the same work over every protocol and measures what it
//! costs.
//!
//! ```sh
//! cargo run --release                 # about a minute
//! cargo run --release -- --full       # everything, up to 25 minutes
//! cargo run -- predict                # what do you expect?
//! cargo run -- diff OLD NEW           # what changed between two runs?
//! cargo run --release -- faults       # break everything, and count
//! cargo run -- wire                   # show what travels, byte by byte
//! cargo run -- tap http_rest          # show what travels to a server that you run yourself
//! cargo run -- certificates           # create certificates for the chapters' --tls
//! ```

use std::fs;
use std::io::{Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use lab::compare::compare;
use lab::compare::idle::allowed;
use lab::compare::plan::{IDLE, MESSAGES, NEW_CONNECTIONS, Plan};
use lab::protocols::{self, Protocol};
use lab::report::predictions;
use lab::report::results::{Answers, Results};
use lab::report::{comparison, diff, docs, tables};
use lab::run::brokers;
use lab::run::conditions::conditions;
use lab::run::placement::Placement;
use lab::scenes::command;
use lab::{Child, certificates, faults, runtime, tap};

/// Measures the protocols side by side on this machine, or shows what travels over them.
///
/// Without a command, it measures: each server runs in its own process. The lab prints tables and
/// writes report.html and results.json. Ctrl-C ends the run early and keeps what was measured so far.
#[derive(Parser)]
#[command(name = "lab")]
struct Args {
    #[command(subcommand)]
    command: Option<Mode>,
    /// Measure latency, throughput at one level, CPU time, bytes, and round trips: about a minute (the
    /// default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also measure fixed rates, batches, set-up, memory, a network, fan-out, streams, and idle
    /// connections, with more rounds: up to 25 minutes
    #[arg(long)]
    full: bool,
    /// Measure only these protocols: a comma-separated list of IDs, as in results.json
    #[arg(long, value_delimiter = ',', value_parser = protocol)]
    protocols: Vec<&'static Protocol>,
    /// Also measure over a network that delays each round trip by this many ms: a comma-separated
    /// list, for example 1ms,20ms,100ms. The lab's own proxy delays bytes, not packets
    #[arg(long, value_delimiter = ',', value_parser = milliseconds)]
    delay: Vec<u64>,
    /// Limit that network to this many Mbit/s in each direction
    #[arg(long, value_name = "MBIT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    bandwidth: Option<u64>,
    /// Also measure what TLS adds: to a new connection, and to requests
    #[arg(long)]
    tls: bool,
    /// Also send one reading to this many subscribers at once: a comma-separated list, for example
    /// 1,10,100,1000
    #[arg(long, value_name = "SUBSCRIBERS", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=10_000))]
    fan_out: Vec<u64>,
    /// Also send 20,000 messages over one connection that stays open, with gRPC, WebSocket, and TCP
    #[arg(long)]
    streams: bool,
    /// Also measure what 5,000 idle connections cost, and how they affect 16 that work
    #[arg(long)]
    idle: bool,
    /// Where client and server run in all measurements [default: separate for throughput and fixed
    /// rates, same for everything else]
    #[arg(long)]
    placement: Option<Placement>,
    /// Folder for report.html, results.json, and predictions.json
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Measure nothing, but copy this results.json to docs/performance_comparison.json and render
    /// it into the documents. Without a path, render the stored file again
    #[arg(long, value_name = "RESULTS", num_args = 0..=1, default_missing_value = docs::KEPT)]
    write_docs: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Mode {
    Wire(command::Options),
    Faults(faults::command::Options),
    Tap(tap::Options),
    /// Ask whether you believe nine predictions. The next comparison then shows which of them hold
    Predict,
    Certificates(certificates::Options),
    /// Show which figures changed between two runs by more than their ranges. The exit code is 0 if none
    /// did, 1 if some did, and 2 if the runs can't be compared
    Diff {
        /// The results.json of the earlier run
        old: PathBuf,
        /// The results.json of the later run
        new: PathBuf,
    },
    #[command(flatten)]
    Child(Child),
}

fn protocol(id: &str) -> Result<&'static Protocol, String> {
    protocols::by_id(id).ok_or_else(|| {
        let ids: Vec<_> = protocols::ALL.iter().map(|protocol| protocol.id).collect();
        format!("use one of {}", ids.join(", "))
    })
}

fn milliseconds(delay: &str) -> Result<u64, String> {
    let number = delay.strip_suffix("ms").unwrap_or(delay).parse();
    number.ok().filter(|&ms| ms <= 1000).ok_or_else(|| "use up to 1000ms, for example 20ms".into())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Mode::Diff { old, new }) = &args.command {
        return diff(old, new).unwrap_or_else(|error| {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::from(2)
        });
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Some(Mode::Child(child)) => return child.run(),
        Some(Mode::Faults(options)) => {
            return faults::command::command(options, &progress_bar()?, &*stop_on_interrupt()?);
        }
        Some(Mode::Wire(options)) => return command::run(options),
        Some(Mode::Tap(options)) => return tap::run(options),
        Some(Mode::Predict) => return predict(&args.out),
        Some(Mode::Certificates(options)) => return certificates::run(options, &mut stdout()),
        Some(Mode::Diff { .. }) | None => {}
    }
    if let Some(results) = &args.write_docs {
        return docs::write(results);
    }
    if cfg!(debug_assertions) {
        bail!("refusing to benchmark a debug build; use `cargo run --release`");
    }
    let mut results = measure(args)?;
    results.answers = answers(&args.out)?;
    print(&results)?;
    write_files(&results, &args.out)
}

fn diff(old: &Path, new: &Path) -> anyhow::Result<ExitCode> {
    let read = |path: &Path| {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Results::parse(&text).with_context(|| path.display().to_string())
    };
    let (table, compared) = diff::diff(&read(old)?, &read(new)?)?;
    if !table.rows.is_empty() {
        writeln!(stdout(), "{}", table.terminal())?;
    }
    writeln!(stdout(), "{} of {compared} figures changed", table.rows.len())?;
    Ok(ExitCode::from(u8::from(!table.rows.is_empty())))
}

fn predict(folder: &Path) -> anyhow::Result<()> {
    let answers = predictions::ask(stdin().lock(), stdout())?;
    let path = folder.join(predictions::FILE);
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    fs::write(&path, serde_json::to_string(&answers)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(stdout(), "\nwritten: {}\nnow measure: cargo run --release -- --full", path.display())?;
    Ok(())
}

/// Returns the answers that [`predict`] has kept, if any.
fn answers(folder: &Path) -> anyhow::Result<Answers> {
    let path = folder.join(predictions::FILE);
    let Ok(text) = fs::read_to_string(&path) else { return Ok(Vec::new()) };
    serde_json::from_str(&text)
        .with_context(|| format!("{} is damaged; run cargo run -- predict again", path.display()))
}

fn measure(args: &Args) -> anyhow::Result<Results> {
    // Some systems allow fewer descriptors by default than 256 connections need.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        writeln!(stderr(), "could not raise the limit on open files: {error}")?;
    }
    let plan = plan(args);
    if let Some(wanted) = plan.idle.filter(|&wanted| allowed(wanted) < wanted) {
        let fewer = allowed(wanted);
        writeln!(
            stderr(),
            "the limit on open files allows only {fewer} of {wanted} idle connections; ulimit -n shows it"
        )?;
    }
    let protocols = if args.protocols.is_empty() { protocols::ALL.to_vec() } else { args.protocols.clone() };
    brokers::install_if_wanted(&protocols)?;
    for missing in brokers::runnable(&protocols, brokers::is_installed).1 {
        writeln!(stderr(), "{}: {}; to add it, run {}", missing.name, missing.reason, missing.command)?;
    }
    let conditions = conditions(plan.rounds);
    if conditions.was_busy() {
        writeln!(stderr(), "other programs keep this machine busy, so expect noisy figures")?;
    }
    let stop = stop_on_interrupt()?;
    compare(&plan, &protocols, args.placement, conditions, &progress_bar()?, &stop)
}

fn plan(args: &Args) -> Plan {
    let mut plan = if args.full { Plan::full() } else { Plan::quick() };
    if !args.delay.is_empty() {
        plan.delays.clone_from(&args.delay);
    }
    if !args.fan_out.is_empty() {
        plan.subscribers.clone_from(&args.fan_out);
    }
    if args.streams {
        plan.messages = Some(MESSAGES);
    }
    if args.idle {
        plan.idle = Some(IDLE);
    }
    if args.tls {
        plan.new_connections = NEW_CONNECTIONS;
    }
    plan.bandwidth = args.bandwidth.map(|megabits| megabits * 1_000_000);
    if plan.bandwidth.is_some() && plan.delays.is_empty() {
        plan.delays.push(0);
    }
    plan
}

fn print(results: &Results) -> anyhow::Result<()> {
    let mut out = stdout();
    for (name, value) in tables::conditions(&results.conditions) {
        writeln!(out, "{name:<12} {value}")?;
    }
    for table in tables::tables(results) {
        writeln!(out, "\n{}", table.terminal().trim_end())?;
    }
    Ok(())
}

fn write_files(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let json = serde_json::to_string_pretty(results)? + "\n";
    for (label, name, text) in
        [("\nwritten:", "results.json", json), ("        ", "report.html", comparison::html(results))]
    {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        writeln!(stdout(), "{label} {}", path.display())?;
    }
    Ok(())
}

fn progress_bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}%, {eta} left, {wide_msg}")?;
    Ok(ProgressBar::no_length().with_style(style))
}

/// Returns a flag that the first Ctrl-C sets. The second Ctrl-C ends the process at once.
fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let interrupted = stop.clone();
    let runtime = runtime()?;
    // The thread sleeps until Ctrl-C, so it doesn't disturb the measurements.
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if interrupted.swap(true, Relaxed) {
                    std::process::exit(130);
                }
                let _ = writeln!(stderr(), "\nstopping early; press Ctrl-C again to stop at once");
            }
        });
    });
    Ok(stop)
}
