//! `cargo run --release -- faults`: shows what each protocol does when something breaks.
//!
//! Read in this order:
//!
//! 1. [`row`] and [`rows`]: the clients, and what each of them promises when it says "done".
//! 2. [`breakage`]: what breaks.
//! 3. `stage.rs` and `experiment.rs`: one client, one fault.
//! 4. [`count`] and [`results`]: what the client said, compared with what was executed.
//!
//! [`cluster`] breaks nodes of clusters instead.
//!
//! The server records what it executes in its [`journal`](tcp_socket::base::journal), so the counts do
//! not depend on what the client says.

pub mod breakage;
pub mod client;
pub mod cluster;
pub mod command;
pub mod count;
pub mod documents;
mod experiment;
mod over_tls;
mod page;
pub mod predictions;
pub mod programs;
pub mod results;
pub mod row;
pub mod rows;
mod stage;
pub mod tables;
mod unsafe_clients;

pub use experiment::{Plan, run};
