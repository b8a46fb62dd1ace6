//! Renders kept results into `docs/performance_comparison.md`, so that the
//! document cannot differ from the data.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::plot::plots;
use crate::results::{Results, SCHEMA};
use crate::table;

/// The document, from the root of the repository.
pub const DOCUMENT: &str = "docs/performance_comparison.md";

/// The data behind it.
pub const KEPT: &str = "docs/performance_comparison.json";

/// What is written stands between these lines.
const MARKERS: (&str, &str) = ("<!-- measured: begin -->", "<!-- measured: end -->");

/// Folder of the plots, beside the document.
const PLOTS: &str = "performance_comparison";

/// Keeps `results` as [`KEPT`] and renders it into [`DOCUMENT`], both in the
/// current folder: the root of the repository.
///
/// # Errors
/// If a file is missing, not of this layout, or cannot be written.
pub fn write(results: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("read {}", results.display()))?;
    let parsed = parse(&text)?;
    let document = fs::read_to_string(DOCUMENT)
        .with_context(|| format!("read {DOCUMENT}; start this at the root of the repository"))?;
    let rendered = render(&document, &parsed)?;
    if results != Path::new(KEPT) {
        fs::write(KEPT, text)?;
    }
    fs::write(DOCUMENT, rendered)?;
    for (name, svg) in images(&parsed) {
        let path = Path::new("docs").join(name);
        fs::create_dir_all(Path::new("docs").join(PLOTS))?;
        fs::write(path, svg)?;
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
pub fn render(document: &str, results: &Results) -> anyhow::Result<String> {
    let (before, rest) = document.split_once(MARKERS.0).context("the document has no first marker")?;
    let (_, after) = rest.split_once(MARKERS.1).context("the document has no last marker")?;
    let mut measured = String::from("\n\n| condition | |\n|---|---|\n");
    for (name, value) in table::conditions(&results.conditions) {
        measured += &format!("| {name} | {value} |\n");
    }
    for table in table::tables(results) {
        measured += &format!("\n{}", table.markdown());
    }
    for plot in plots(results) {
        measured += &format!("\n![{}]({})\n", plot.title, image(plot.id));
    }
    Ok(format!("{before}{}{measured}\n{}{after}", MARKERS.0, MARKERS.1))
}

/// The plots' files, from the document's folder.
pub fn images(results: &Results) -> Vec<(String, String)> {
    plots(results).into_iter().map(|plot| (image(plot.id), plot.file())).collect()
}

fn image(id: &str) -> String {
    format!("{PLOTS}/{id}.svg")
}
