//! `cargo run --release -- faults`: breaks each protocol in each way, and counts the consequences.

use std::fs;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use indicatif::ProgressBar;

use super::breakage::{self, Breakage};
use super::experiment::{Plan, run};
use super::row::Row;
use super::rows;
use super::{cluster, documents, page, tables};
use crate::run::brokers::{INSTALL, is_installed};
use crate::run::conditions::conditions;

/// Number of the request at which the fault strikes.
const REQUESTS: u64 = 100;

/// Break each protocol in each way, and count what is lost, doubled, or unknown
///
/// In each experiment, a client records numbered readings through a proxy. Around the 100th, something
/// breaks: the connection, the server, a worker, the broker, or the client. The server writes down what
/// it executes, so the lab can compare what each client said with what happened. It prints a table for
/// each fault and writes faults.html, with a timeline of each experiment, and faults.json.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Run all experiments, with 1 and with 16 calls in flight: at most half an hour
    #[arg(long, conflicts_with_all = ["protocols", "faults"])]
    full: bool,
    /// Run only these protocols, with every fault unless --faults selects some: a comma-separated list of
    /// IDs, as in faults.json
    #[arg(long, value_delimiter = ',', value_parser = row)]
    protocols: Vec<&'static Row>,
    /// Run only these faults, with every protocol unless --protocols selects some: a comma-separated list
    /// of IDs, as in faults.json
    #[arg(long, value_delimiter = ',', value_parser = fault)]
    faults: Vec<&'static Breakage>,
    /// Number of calls in flight
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    in_flight: u64,
    /// Break nodes of a RabbitMQ cluster and of a Redis with Sentinels instead, and
    /// write scaling.json: five minutes for each run
    #[arg(long, conflicts_with_all = ["full", "protocols", "faults", "in_flight"])]
    cluster: bool,
    /// How often to repeat the faults of a cluster
    #[arg(long, default_value_t = 1, requires = "cluster", value_parser = clap::value_parser!(u64).range(1..=20))]
    runs: u64,
    /// Folder for faults.html and faults.json
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Break nothing, but copy this faults.json to docs/faults.json and render it into docs/faults.md.
    /// Without a path, render the stored file again
    #[arg(long, value_name = "RESULTS", num_args = 0..=1, default_missing_value = documents::KEPT)]
    write_docs: Option<PathBuf>,
}

fn row(id: &str) -> Result<&'static Row, String> {
    let ids = || rows::ALL.iter().map(|row| row.id).collect::<Vec<_>>().join(", ");
    rows::by_id(id).ok_or_else(|| format!("use one of {}", ids()))
}

fn fault(id: &str) -> Result<&'static Breakage, String> {
    let ids = || breakage::ALL.iter().map(|breakage| breakage.id).collect::<Vec<_>>().join(", ");
    breakage::by_id(id).ok_or_else(|| format!("use one of {}", ids()))
}

impl Options {
    /// Returns the plan, without the rows whose broker is not installed.
    fn plan(&self) -> anyhow::Result<Plan> {
        let all_rows = rows::ALL.iter().filter_map(|row| rows::by_id(row.id));
        let is_wanted = |row: &&Row| match &self.protocols[..] {
            [] => self.full || row.by_default || !self.faults.is_empty(),
            some => some.iter().any(|wanted| wanted.id == row.id),
        };
        let mut rows = Vec::new();
        for row in all_rows.filter(is_wanted) {
            match row.broker().filter(|kind| !is_installed(*kind)) {
                None => rows.push(row),
                Some(kind) => writeln!(
                    stderr(),
                    "{}: {kind} is not installed; to add it, run {INSTALL} -- faults",
                    row.name
                )?,
            }
        }
        let is_wanted = |breakage: &&Breakage| match &self.faults[..] {
            [] => self.full || breakage.by_default || !self.protocols.is_empty(),
            some => some.contains(breakage),
        };
        let faults = breakage::ALL.iter().filter(is_wanted).collect();
        let in_flight = if self.full { vec![1, 16] } else { vec![self.in_flight] };
        Ok(Plan { rows, faults, in_flight, requests: REQUESTS })
    }
}

/// Runs the experiments, prints the tables, and writes the files.
///
/// # Errors
/// If an experiment fails, or a file can't be written.
pub fn command(options: &Options, progress: &ProgressBar, stop: &AtomicBool) -> anyhow::Result<()> {
    match &options.write_docs {
        Some(kept) if options.cluster && kept == Path::new(documents::KEPT) => {
            return cluster::report::write(Path::new(cluster::report::KEPT));
        }
        Some(results) if options.cluster => return cluster::report::write(results),
        Some(results) => return documents::write(results),
        None => {}
    }
    if message_queue::brokers::install_is_wanted() {
        message_queue::brokers::install()?;
    }
    if options.cluster {
        return cluster::command(options.runs as usize, &options.out, progress, stop);
    }
    let results = run(&options.plan()?, conditions(0), progress, stop)?;
    let mut out = stdout().lock();
    for table in tables::tables(&results) {
        writeln!(out, "{}", table.terminal().trim_end())?;
    }
    writeln!(out)?;
    for surprise in results.surprises() {
        writeln!(out, "{surprise}")?;
    }
    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot create the folder {}", options.out.display()))?;
    let json = serde_json::to_string(&results)? + "\n";
    for (name, text) in [("faults.json", json), ("faults.html", page::html(&results))] {
        let path = options.out.join(name);
        documents::write_file(&path, &text)?;
        writeln!(out, "written: {}", path.display())?;
    }
    anyhow::ensure!(results.failed.is_empty(), "these experiments failed:\n{}", results.failed.join("\n"));
    Ok(())
}
