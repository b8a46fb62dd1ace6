//! The lab's command line. The lab does the same work over every protocol and measures what it
//! costs.
//!
//! ```sh
//! cargo run --release                 # about a minute
//! cargo run --release -- --full       # everything, about a quarter of an hour
//! cargo run --release -- faults       # break everything, and count
//! cargo run -- wire                   # show what travels, byte by byte
//! cargo run -- tap http_rest          # show what travels to a server that you run yourself
//! cargo run -- certificates           # create certificates for the chapters' --tls
//! ```

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use lab::compare::compare;
use lab::compare::plan::Plan;
use lab::protocols::{self, Protocol};
use lab::report::results::Results;
use lab::report::{comparison, docs, tables};
use lab::run::brokers;
use lab::run::conditions::conditions;
use lab::run::placement::Placement;
use lab::scenes::command;
use lab::{Child, certificates, faults, runtime, tap};

/// Measures the protocols side by side on this machine, or shows what travels over them.
///
/// Without a command, it measures: each server runs in its own process. The lab prints tables and writes report.html and
/// results.json. Ctrl-C ends the run early and keeps what was measured so far.
#[derive(Parser)]
#[command(name = "lab")]
struct Args {
    #[command(subcommand)]
    command: Option<Mode>,
    /// Measure latency, throughput at one level, CPU time, and bytes: about a minute (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also measure fixed rates, batches, set-up, and memory, with more rounds: about 15 minutes
    #[arg(long)]
    full: bool,
    /// Measure only these protocols: a comma-separated list of IDs, as in results.json
    #[arg(long, value_delimiter = ',', value_parser = protocol)]
    protocols: Vec<&'static Protocol>,
    /// Where client and server run in all measurements [default: separate for throughput and fixed
    /// rates, same for everything else]
    #[arg(long)]
    placement: Option<Placement>,
    /// Folder for report.html and results.json
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
    Certificates(certificates::Options),
    #[command(flatten)]
    Child(Child),
}

fn protocol(id: &str) -> Result<&'static Protocol, String> {
    protocols::by_id(id).ok_or_else(|| {
        let ids: Vec<_> = protocols::ALL.iter().map(|protocol| protocol.id).collect();
        format!("use one of {}", ids.join(", "))
    })
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
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
        Some(Mode::Certificates(options)) => return certificates::run(options, &mut stdout()),
        None => {}
    }
    if let Some(results) = &args.write_docs {
        return docs::write(results);
    }
    if cfg!(debug_assertions) {
        bail!("refusing to benchmark a debug build; use `cargo run --release`");
    }
    let results = measure(args)?;
    print(&results)?;
    write_files(&results, &args.out)
}

fn measure(args: &Args) -> anyhow::Result<Results> {
    // Some systems allow fewer descriptors by default than 256 connections need.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        writeln!(stderr(), "could not raise the limit on open files: {error}")?;
    }
    let plan = if args.full { Plan::full() } else { Plan::quick() };
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
