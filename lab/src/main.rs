//! The lab: the same work over every protocol, side by side.
//!
//! ```sh
//! cargo run --release                 # about a minute
//! cargo run --release -- --full       # everything, about a quarter of an hour
//! ```

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use lab::compare::compare;
use lab::conditions::conditions;
use lab::placement::Placement;
use lab::plan::Plan;
use lab::protocols::{self, Protocol};
use lab::{broker, docs, report, runtime, tables};

/// Measures the protocols side by side on this machine.
///
/// Each server is a process of its own. Prints tables, and writes report.html and
/// results.json. Ctrl-C ends early, with what was measured so far.
#[derive(Parser)]
#[command(name = "lab")]
struct Args {
    #[command(subcommand)]
    command: Option<Mode>,
    /// Latency, one level of throughput, CPU time and bytes, in about a minute: the default
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Also fixed rates, batches, set-up and memory, with more rounds: a quarter of an hour
    #[arg(long)]
    full: bool,
    /// Only these, by their ids in results.json and separated by commas
    #[arg(long, value_delimiter = ',', value_parser = protocol)]
    protocols: Vec<&'static Protocol>,
    /// The same placement on cores for all measurements [default: same for latency
    /// and CPU time, separate for throughput and fixed rates]
    #[arg(long)]
    placement: Option<Placement>,
    /// Where report.html and results.json go
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Measures nothing: keeps this results.json as docs/performance_comparison.json and
    /// renders it into the documents; without a path, renders the one that is kept
    #[arg(long, value_name = "RESULTS", num_args = 0..=1, default_missing_value = docs::KEPT)]
    write_docs: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Mode {
    /// A server for the lab itself; stops when its stdin ends
    #[command(hide = true)]
    Serve {
        /// The protocol's id
        protocol: String,
    },
}

fn protocol(id: &str) -> Result<&'static Protocol, String> {
    protocols::by_id(id).ok_or_else(|| {
        let ids: Vec<_> = protocols::ALL.iter().map(|protocol| protocol.id).collect();
        format!("there are {}", ids.join(", "))
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
    if let Some(Mode::Serve { protocol }) = &args.command {
        return runtime()?.block_on(protocols::serve(protocol));
    }
    if let Some(results) = &args.write_docs {
        return docs::write(results);
    }
    if cfg!(debug_assertions) {
        bail!("a debug build measures the compiler's haste; use: cargo run --release");
    }
    // 256 connections and their other ends need more than the usual 1024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        writeln!(stderr(), "the descriptor limit stays as it is: {error}")?;
    }
    let plan = if args.full { Plan::full() } else { Plan::quick() };
    let protocols = if args.protocols.is_empty() { protocols::ALL.to_vec() } else { args.protocols.clone() };
    broker::install_if_wanted(&protocols)?;
    for missing in broker::runnable(&protocols, broker::is_installed).1 {
        writeln!(stderr(), "{}: {}; to add it: {}", missing.name, missing.reason, missing.command)?;
    }
    let conditions = conditions(plan.rounds);
    if conditions.was_busy() {
        writeln!(stderr(), "other programs keep this machine busy: expect noise")?;
    }
    let stop = stop_on_interrupt()?;
    let results = compare(&plan, &protocols, args.placement, conditions, &progress_bar()?, &stop)?;

    let mut out = stdout();
    for (name, value) in tables::conditions(&results.conditions) {
        writeln!(out, "{name:<12} {value}")?;
    }
    for table in tables::tables(&results) {
        writeln!(out, "\n{}", table.terminal().trim_end())?;
    }
    fs::create_dir_all(&args.out).with_context(|| format!("make the folder {}", args.out.display()))?;
    for (name, text) in [
        ("results.json", serde_json::to_string_pretty(&results)? + "\n"),
        ("report.html", report::html(&results)),
    ] {
        let path = args.out.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        writeln!(
            out,
            "{}{}",
            if name == "results.json" { "\nwritten: " } else { "         " },
            path.display()
        )?;
    }
    Ok(())
}

fn progress_bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {percent:>3} %, {eta} left, {wide_msg}")?;
    Ok(ProgressBar::no_length().with_style(style))
}

/// Becomes true at the first Ctrl-C; the second ends the process at once.
fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let runtime = runtime()?;
    // A thread of its own: it sleeps until then, and costs the measurements nothing.
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if told.swap(true, Relaxed) {
                    std::process::exit(130);
                }
                let _ = writeln!(stderr(), "\nending early; once more to end at once");
            }
        });
    });
    Ok(stop)
}
