//! The page that shows a run: `report.html`.

use maud::html;

use super::chooser::{self, chooser};
use super::page::{figure, page};
use super::plots::plots;
use super::results::Results;
use super::table::Table;
use super::tables::{conditions, tables};

/// Returns the whole page.
pub fn html(results: &Results) -> String {
    let content = html! {
        p {
            "The lab does the same work over every protocol: a client sends one reading of a weather station, and the "
            "server checks it, stores it, and confirms it. The baselines are two bare TCP echoes, which only return "
            "the reading's 23 bytes of information."
        }
        h2 { "Conditions" }
        table.conditions {
            @for (name, value) in conditions(&results.conditions) { tr { th { (name) } td { (value) } } }
        }
        h2 { "Which one should I use?" }
        (chooser(results))
        h2 { "Plots" }
        @for plot in plots(results) { (figure(&plot.title, &plot.inline(), plot.note)) }
        h2 { "Figures" }
        @for table in tables(results) { (Table::html(&table)) }
    };
    page("Protocols side by side", "", chooser::SCRIPT, &content)
}
