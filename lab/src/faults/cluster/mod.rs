//! `faults --cluster`: breaks nodes of a RabbitMQ cluster and of a Redis with Sentinels while a
//! producer publishes jobs.
//!
//! 1. [`fault`]: what breaks, and how the producer is connected.
//! 2. [`experiment`]: one producer, one fault, and what became of its jobs.
//! 3. [`report`]: the table, and `docs/scaling.md`.

pub mod experiment;
pub mod fault;
pub mod report;

use std::fs;
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::Context;
use indicatif::ProgressBar;
use message_queue::brokers::{Cluster, ClusterOptions};

use self::report::Results;
use super::documents::write_file;
use crate::run::conditions::conditions;

/// Starts the clusters, runs all experiments, prints the table, and writes `scaling.json` into the folder.
///
/// # Errors
/// If a cluster does not start, an experiment fails, or the file can't be written.
pub fn command(runs: usize, folder: &Path, progress: &ProgressBar, stop: &AtomicBool) -> anyhow::Result<()> {
    let (mut conditions, began) = (conditions(0), Instant::now());
    if cfg!(debug_assertions) {
        conditions.command = conditions.command.replace(" --release", "");
    }
    let cluster = Cluster::start(ClusterOptions::default())?;
    let start_seconds = began.elapsed().as_secs_f64();
    let memory = experiment::memory(&cluster);
    let cluster = Arc::new(Mutex::new(cluster));
    let runtime = tokio::runtime::Runtime::new()?;
    let mut outcomes = Vec::new();
    progress.set_length((runs * fault::ALL.len()) as u64);
    for run in 1..=runs {
        for fault in &fault::ALL {
            if stop.load(Ordering::Relaxed) {
                conditions.interrupted = true;
                break;
            }
            progress.set_message(fault.name);
            let prefix = format!("{}-{run}", fault.id);
            let outcome = runtime.block_on(experiment::run(&cluster, fault, &prefix));
            outcomes.push(outcome.with_context(|| format!("{}, run {run}", fault.name))?);
            progress.inc(1);
        }
    }
    conditions.duration_seconds = began.elapsed().as_secs_f64();
    let results = Results { conditions, start_seconds, memory, outcomes };
    writeln!(stdout(), "{}", report::table(&results).terminal())?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create the folder {}", folder.display()))?;
    let path = folder.join("scaling.json");
    write_file(&path, &(serde_json::to_string(&results)? + "\n"))?;
    writeln!(stdout(), "written: {}", path.display())?;
    Ok(())
}
