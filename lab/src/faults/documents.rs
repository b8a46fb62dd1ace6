//! Renders a kept run into `docs/faults.md`, so that the document and the data always agree.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::predictions;
use super::results::Results;
use super::row::Keeps;
use super::rows::ALL;
use super::tables::{outcome, overviews, times};
use crate::report::docs::replaced;
use crate::report::tables::conditions;

/// Path of the kept run, from the root of the repository.
pub const KEPT: &str = "docs/faults.json";

/// Path of the document, from the root of the repository.
pub const DOCUMENT: &str = "docs/faults.md";

/// Copies `results` to [`KEPT`] and renders it into [`DOCUMENT`]. The current folder has to be the root
/// of the repository.
///
/// # Errors
/// If a file is missing or cannot be written, or if the results have another layout.
pub fn write(results: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(results).with_context(|| format!("cannot read {}", results.display()))?;
    let parsed = Results::parse(&text)?.without_details();
    let document = fs::read_to_string(DOCUMENT)
        .with_context(|| format!("cannot read {DOCUMENT}; run this in the root folder of the repository"))?;
    let rendered = render(&document, &parsed)?;
    write_file(Path::new(KEPT), &(serde_json::to_string(&parsed)? + "\n"))?;
    write_file(Path::new(DOCUMENT), &rendered)
}

/// Returns the document with the results between its markers.
///
/// # Errors
/// If it lacks a marker.
pub fn render(document: &str, results: &Results) -> anyhow::Result<String> {
    let document = replaced(document, "promises", &promises())?;
    replaced(&document, "faults", &measured(results))
}

/// Renders what each row promises, with links to the code and the test.
fn promises() -> String {
    let mut text =
        String::from("| client | \"done\" means | kept | a request that arrives twice | code, test |\n");
    text += "|---|---|---|---|---|\n";
    for row in &ALL {
        let kept = match row.keeps {
            Keeps::WhileItRuns => "while the server runs",
            Keeps::Always => "always",
            Keeps::Perhaps => "perhaps",
        };
        let twice = if row.recognizes { "counts once" } else { "counts twice" };
        let (path, test) = row.test;
        text += &format!(
            "| {} | {} | {kept} | {twice} | [code](../{}), [`{test}`](../{path}) |\n",
            row.name, row.done, row.code
        );
    }
    text
}

/// Renders the conditions and the tables.
fn measured(results: &Results) -> String {
    let mut text = String::from("| condition | |\n|---|---|\n");
    for (name, value) in conditions(&results.conditions) {
        text += &format!("| {name} | {value} |\n");
    }
    text += "\n### What came of the requests\n";
    for table in overviews(results, outcome) {
        text += &format!("\n**{}**\n\n{}\n", table.title, table.markdown().trim_end());
    }
    text += "\n### When the client knew, and when it worked again\n";
    for table in overviews(results, times) {
        text += &format!("\n**{}**\n\n{}\n", table.title, table.markdown().trim_end());
    }
    text += &format!("\n### Which predictions hold\n\n{}", predictions::table(results).markdown().trim_end());
    text += "\n";
    text
}

/// Writes a file, and names it if that fails.
pub(super) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
