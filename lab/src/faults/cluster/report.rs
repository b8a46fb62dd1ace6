//! The table of a run, and how a kept run is rendered into `docs/scaling.md`.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::experiment::Outcome;
use super::fault;
use crate::faults::documents::write_file;
use crate::report::docs::replaced;
use crate::report::table::Table;
use crate::report::tables::conditions;
use crate::run::conditions::Conditions;

/// Path of the kept run, from the root of the repository.
pub const KEPT: &str = "docs/scaling.json";

/// Path of the document, from the root of the repository.
pub const DOCUMENT: &str = "docs/scaling.md";

/// A run of all experiments.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where and when it was made.
    pub conditions: Conditions,
    /// Time until all nodes were ready and had formed clusters, in seconds.
    pub start_seconds: f64,
    /// The memory of each node after the start, in bytes.
    pub memory: Vec<(String, u64)>,
    /// The outcome of each experiment.
    pub outcomes: Vec<Outcome>,
}

/// Returns the table of all faults. A cell has one figure for each run.
pub fn table(results: &Results) -> Table {
    let columns = ["fault", "acknowledged", "lost", "twice", "longest pause, s", "recovery, s"];
    let note = "One figure for each run. Acknowledged: jobs that the broker confirmed to the producer. Lost: those \
                that are gone. Twice: jobs that are in the queue more than once, with the same ID. Longest pause: \
                time between two confirms. Recovery: time from the fault until the end of that pause.";
    let mut table = Table::new("Faults in a cluster".into(), note, &columns);
    for fault in &fault::ALL {
        let outcomes: Vec<_> = results.outcomes.iter().filter(|outcome| outcome.fault == fault.id).collect();
        let cell = |figure: &dyn Fn(&Outcome) -> String| {
            let figures: Vec<_> = outcomes.iter().map(|outcome| figure(outcome)).collect();
            if figures.is_empty() { "–".to_owned() } else { figures.join("/") }
        };
        table.rows.push(vec![
            fault.name.to_owned(),
            cell(&|outcome| outcome.acknowledged.to_string()),
            cell(&|outcome| outcome.lost.to_string()),
            cell(&|outcome| outcome.twice.to_string()),
            cell(&|outcome| format!("{:.2}", outcome.pause)),
            cell(&|outcome| format!("{:.2}", outcome.recovery)),
        ]);
    }
    table
}

/// Copies `results` to [`KEPT`] and renders it into [`DOCUMENT`]. The current folder has to be the root
/// of the repository.
///
/// # Errors
/// If a file is missing or cannot be written, or if the results have another layout.
pub fn write(results: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("cannot read {}", results.display()))?;
    let parsed: Results = serde_json::from_str(&text).context("this file has another layout")?;
    let document = fs::read_to_string(DOCUMENT)
        .with_context(|| format!("cannot read {DOCUMENT}; run this in the root folder of the repository"))?;
    write_file(Path::new(DOCUMENT), &render(&document, &parsed)?)?;
    write_file(Path::new(KEPT), &(serde_json::to_string(&parsed)? + "\n"))
}

/// Returns the document with the results between its markers.
///
/// # Errors
/// If the document lacks a marker.
pub fn render(document: &str, results: &Results) -> anyhow::Result<String> {
    let mut text = table(results).markdown() + "\n| condition | |\n|---|---|\n";
    for (name, value) in conditions(&results.conditions) {
        text += &format!("| {name} | {value} |\n");
    }
    text += &format!("| start of both clusters | {:.1} s |\n", results.start_seconds);
    for (names, what) in [("n", "a RabbitMQ node"), ("r", "a Redis"), ("s", "a Sentinel")] {
        let nodes = results.memory.iter().filter(|(name, _)| name.starts_with(names));
        let memory: Vec<_> = nodes.map(|(_, bytes)| format!("{:.0}", *bytes as f64 / 1e6)).collect();
        text += &format!("| memory of {what} after the start | {} MB |\n", memory.join("/"));
    }
    replaced(document, "clusters", &text)
}
