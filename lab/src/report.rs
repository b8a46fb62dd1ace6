//! The results as one HTML file that needs nothing else: no network, no script.

use crate::plot::{STYLE, plots};
use crate::results::Results;
use crate::table::{Table, escaped};
use crate::tables::{conditions, tables};

/// The page around them.
const PAGE: &str = include_str!("report.html");

/// The whole file.
pub fn html(results: &Results) -> String {
    let conditions = conditions(&results.conditions).iter().fold(String::new(), |lines, (name, value)| {
        format!("{lines}<tr><th>{name}</th><td>{}</td></tr>\n", escaped(value))
    });
    let plots = plots(results).iter().fold(String::new(), |all, plot| {
        format!("{all}<figure><figcaption>{}</figcaption>{}</figure>\n", escaped(&plot.title), plot.inline())
    });
    let tables: String = tables(results).iter().map(Table::html).collect();
    PAGE.replace("/* style of the plots */", STYLE)
        .replace("<!-- conditions -->", &conditions)
        .replace("<!-- plots -->", &plots)
        .replace("<!-- tables -->", &tables)
}
