//! Renders the stored results into the documents that show them, so that documents and data always
//! agree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

use super::encryption::{encrypted_requests, new_connections};
use super::plots::plots;
use super::results::Results;
use super::table::Table;
use super::tables;

/// A document's path from the root of the repository, the topic between whose markers the results
/// go, and the function that renders them.
type Document = (&'static str, &'static str, fn(&Results) -> String);

/// The documents that show the stored results.
pub const DOCUMENTS: [Document; 6] = [
    ("README.md", "measured", summary),
    ("README.id.md", "measured", summary_in_indonesian),
    ("docs/performance_comparison.md", "measured", comparison),
    ("docs/performance_comparison.md", "sections", sections),
    ("docs/use_cases.md", "measured", costs),
    ("docs/security.md", "measured", encryption),
];

/// Path of the stored results, from the root of the repository.
pub const KEPT: &str = "docs/performance_comparison.json";

/// Folder of the plots, from the root of the repository.
const PLOTS: &str = "docs/performance_comparison";

/// Copies `results` to [`KEPT`] and renders it into the [`DOCUMENTS`]. The current folder has to
/// be the root of the repository.
///
/// # Errors
/// If a file is missing or cannot be written, or if the results have another layout.
pub fn write(results: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("cannot read {}", results.display()))?;
    let parsed = Results::parse(&text)?;
    let mut rendered: BTreeMap<String, String> = BTreeMap::new();
    for (path, topic, render) in DOCUMENTS {
        let document = match rendered.get(path) {
            Some(document) => document.clone(),
            None => fs::read_to_string(path).with_context(|| {
                format!("cannot read {path}; run this in the root folder of the repository")
            })?,
        };
        let text = replaced(&document, topic, &render(&parsed)).with_context(|| path.to_owned())?;
        rendered.insert(path.to_owned(), text);
    }
    if results != Path::new(KEPT) {
        fs::write(KEPT, text)?;
    }
    fs::create_dir_all(PLOTS)?;
    for (path, text) in rendered.into_iter().chain(images(&parsed)) {
        fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// Returns the document with everything between two markers replaced: the lines
/// `<!-- topic: begin -->` and `<!-- topic: end -->`.
///
/// # Errors
/// If the document lacks a marker.
pub fn replaced(document: &str, topic: &str, text: &str) -> anyhow::Result<String> {
    let [begin, end] = ["begin", "end"].map(|place| format!("<!-- {topic}: {place} -->"));
    let (before, rest) =
        document.split_once(&begin).with_context(|| format!("the line {begin} is missing"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the line {end} is missing"))?;
    Ok(format!("{before}{begin}\n\n{text}\n{end}{after}"))
}

/// Returns the path of each plot's file, from the root of the repository, and its content.
pub fn images(results: &Results) -> Vec<(String, String)> {
    plots(results).into_iter().map(|plot| (format!("{PLOTS}/{}.svg", plot.id), plot.file())).collect()
}

/// Renders the conditions, the tables with one row per protocol, the predictions, and all plots.
/// The other tables are too long for a document. They are in a run's report, and the plots show
/// their most important figures.
fn comparison(results: &Results) -> String {
    let mut text = String::from("| condition | |\n|---|---|\n");
    for (name, value) in tables::conditions(&results.conditions) {
        text += &format!("| {name} | {value} |\n");
    }
    let rows = results.protocols.len() + results.missing.len();
    let later: Vec<_> = tables::sections(results).into_iter().map(|table| table.title).collect();
    let short = tables::tables(results).into_iter().filter(|table| table.rows.len() <= rows);
    let short = short.filter(|table| !later.contains(&table.title));
    for table in short {
        text += &format!("\n### {}\n\n{}", table.title, table.markdown());
    }
    for plot in plots(results) {
        text += &format!("\n![{}](performance_comparison/{}.svg)\n", plot.title, plot.id);
        if !plot.note.is_empty() {
            text += &format!("\n{}\n", plot.note);
        }
    }
    text
}

/// Renders the tables about networks, subscribers, streams, and idle connections.
fn sections(results: &Results) -> String {
    let tables = tables::sections(results);
    if tables.is_empty() {
        return "The kept run is older than these measurements, so it has no such figures.\n".into();
    }
    let tables = tables.iter().map(|table| format!("### {}\n\n{}", table.title, table.markdown()));
    tables.collect::<Vec<_>>().join("\n")
}

/// Renders what TLS adds.
fn encryption(results: &Results) -> String {
    let tables = [new_connections(results), encrypted_requests(results)].into_iter();
    let tables = tables.filter(|table| !table.rows.is_empty()).map(Table::without_empty_columns);
    let text: Vec<_> =
        tables.map(|table| format!("### {}\n\n{}", table.title, table.markdown().trim_end())).collect();
    if text.is_empty() {
        return "The kept run has no figures for TLS yet.\n".to_owned();
    }
    text.join("\n\n") + "\n"
}

/// Renders the table of costs.
fn costs(results: &Results) -> String {
    tables::costs(results).markdown()
}

/// Renders the README's small table.
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
