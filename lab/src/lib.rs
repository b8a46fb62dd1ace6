//! # The lab
//!
//! The lab does the same work over every protocol and measures what it costs:
//!
//! ```sh
//! cargo run --release
//! ```
//!
//! Read in this order:
//!
//! 1. `src/protocols/tcp_socket.rs`: one protocol, as the lab sees it.
//! 2. [`compare::measure`]: the loops that measure every protocol.
//! 3. `src/compare/mod.rs`: what is measured, and in which order.
//! 4. [`report::results`]: the layout of the results.
//!
//! Then read folder by folder. Each of them uses only those before it:
//!
//! - [`protocols`]: how to serve each protocol, and how to connect to it.
//! - [`wire`]: a proxy that records what two programs send, and decoders that name each byte.
//! - [`run`]: what has to run for a measurement (server processes and brokers), and on which
//!   cores.
//! - [`report`]: tables, plots, an HTML page, and the figures in the documents.
//! - [`compare`]: the measurements themselves.
//! - [`scenes`]: a short scene over each protocol, and views of what travels in it.
//! - [`faults`]: what happens when something breaks.
//! - [`certificates`]: a small certificate authority for the chapters' `--tls`.
//! - [`tap`]: shows what travels between programs that you run yourself.
//!
//! `lab/README.md` explains how each figure is made and what it does not say.

pub mod certificates;
pub mod compare;
pub mod faults;
pub mod protocols;
pub mod report;
pub mod run;
pub mod scenes;
pub mod tap;
pub mod wire;

pub use report::statistic::Spread;
pub use run::placement::{pin, runtime};
pub use run::server::{Server, owner_is_gone, role};

mod child;

pub use child::{Child, run_as_child};
