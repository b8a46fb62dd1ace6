//! The lab: the same work over every protocol, measured side by side.
//!
//! ```sh
//! cargo run --release
//! ```
//!
//! Read [`protocols`] first, a short file for each protocol; then [`measure`], the
//! loops that all of them go through; then [`compare`], which decides what runs
//! when. [`results`] is what comes out, and [`tables`], [`plot`] and [`report`] show
//! it. `lab/README.md` tells how each figure is made and what it does not say.

pub mod broker;
pub mod compare;
pub mod conditions;
pub mod docs;
pub mod measure;
pub mod placement;
pub mod plan;
pub mod plot;
pub mod predictions;
pub mod protocols;
pub mod proxy;
pub mod report;
pub mod results;
pub mod server;
pub mod spread;
pub mod table;
pub mod tables;
pub mod target;
pub mod words;

pub use placement::{pin, runtime};
pub use server::{Server, owner_is_gone, role};
pub use spread::Spread;
