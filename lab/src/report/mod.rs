//! The output of a run: `results.json`, tables, plots, an HTML page, and the figures in the
//! documents.

mod cells;
mod chooser;
mod claims;
pub mod comparison;
pub mod diff;
pub mod docs;
mod encryption;
pub mod format;
pub(crate) mod page;
mod plot;
mod plots;
pub mod predictions;
pub mod results;
mod section_tables;
pub mod sections;
pub mod statistic;
pub mod table;
pub mod tables;
