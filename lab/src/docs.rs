//! Renders kept results into the documents that quote them, so that these cannot
//! differ from the data.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::plot::plots;
use crate::predictions;
use crate::results::{Results, SCHEMA};
use crate::tables;

/// A document, from the root of the repository, and what it quotes.
type Document = (&'static str, fn(&Results) -> String);

/// The documents that quote the kept results.
pub const DOCUMENTS: [Document; 4] = [
    ("README.md", summary),
    ("README.id.md", summary_in_indonesian),
    ("docs/performance_comparison.md", everything),
    ("docs/use_cases.md", costs),
];

/// The data behind them.
pub const KEPT: &str = "docs/performance_comparison.json";

/// What is rendered stands between these lines.
const MARKERS: (&str, &str) = ("<!-- measured: begin -->", "<!-- measured: end -->");

/// Folder of the plots, from the root of the repository.
const PLOTS: &str = "docs/performance_comparison";

/// Keeps `results` as [`KEPT`] and renders it into [`DOCUMENTS`], all in the current
/// folder: the root of the repository.
///
/// # Errors
/// If a file is missing, not of this layout, or cannot be written.
pub fn write(results: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("read {}", results.display()))?;
    let parsed = parse(&text)?;
    let mut rendered = Vec::new();
    for (path, measured) in DOCUMENTS {
        let document = fs::read_to_string(path)
            .with_context(|| format!("read {path}; start this at the root of the repository"))?;
        let text = replaced(&document, &measured(&parsed)).with_context(|| path.to_owned())?;
        rendered.push((path.to_owned(), text));
    }
    if results != Path::new(KEPT) {
        fs::write(KEPT, text)?;
    }
    fs::create_dir_all(PLOTS)?;
    for (path, text) in rendered.into_iter().chain(images(&parsed)) {
        fs::write(&path, text).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

/// Reads a `results.json`.
///
/// # Errors
/// If it has another layout.
pub fn parse(text: &str) -> anyhow::Result<Results> {
    let results: Results = serde_json::from_str(text).context("this is no results.json of this version")?;
    ensure!(results.schema == SCHEMA, "results of layout {}, this is {SCHEMA}", results.schema);
    Ok(results)
}

/// The document with everything between its markers replaced.
///
/// # Errors
/// If it has no markers.
pub fn replaced(document: &str, measured: &str) -> anyhow::Result<String> {
    let (before, rest) = document.split_once(MARKERS.0).context("there is no first marker")?;
    let (_, after) = rest.split_once(MARKERS.1).context("there is no last marker")?;
    Ok(format!("{before}{}\n\n{measured}\n{}{after}", MARKERS.0, MARKERS.1))
}

/// The plots' files, from the root of the repository.
pub fn images(results: &Results) -> Vec<(String, String)> {
    plots(results).into_iter().map(|plot| (format!("{PLOTS}/{}.svg", plot.id), plot.file())).collect()
}

/// The conditions, all tables and all plots.
fn everything(results: &Results) -> String {
    let mut text = String::from("| condition | |\n|---|---|\n");
    for (name, value) in tables::conditions(&results.conditions) {
        text += &format!("| {name} | {value} |\n");
    }
    for table in tables::tables(results).into_iter().chain([predictions::table(results)]) {
        text += &format!("\n### {}\n\n{}", table.title, table.markdown());
    }
    for plot in plots(results) {
        text += &format!("\n![{}](performance_comparison/{}.svg)\n", plot.title, plot.id);
    }
    text
}

/// A row for each protocol.
fn costs(results: &Results) -> String {
    tables::costs(results).markdown()
}

/// Renders the small table of the README.
fn summary(results: &Results) -> String {
    let columns = ["protocol", "latency, µs", "more than the echo", "CPU time, µs", "more than the echo"];
    summary_with(results, columns)
}

/// Renders the same table with Indonesian headers.
fn summary_in_indonesian(results: &Results) -> String {
    let columns = ["protokol", "latensi, µs", "di atas echo", "waktu CPU, µs", "di atas echo"];
    summary_with(results, columns)
}

fn summary_with(results: &Results, columns: [&'static str; 5]) -> String {
    format!("{}\n", tables::summary(results, columns).markdown().trim_end())
}
