//! # HTTP/REST
//!
//! A client sends a *method* (`GET`, `POST`, …) for a *resource* (`/readings`), and the
//! server responds with a *status code* and, usually, a body. REST models a service as a
//! set of such resources. Methods, statuses, and headers mean what HTTP says, so every
//! proxy, cache, and browser understands them, and so does `curl`.
//!
//! Read in this order:
//!
//! 1. `examples/minimal.rs`: the whole idea in one file.
//! 2. [`protocol::model`]: what travels.
//! 3. `src/server/mod.rs`: which function responds to which request.
//! 4. `src/server/readings.rs`: how a batch is recorded and read back.
//!
//! The other files add one idea each. They belong to four modules:
//!
//! - [`protocol`]: what travels, and how it is checked.
//! - [`server`]: a file for each resource, and one for each idea, such as
//!   `conditional.rs` (`ETag`s) or `idempotency.rs` (a `POST` that is safe to repeat).
//! - [`client`]: `error.rs` says whether a failed call may have been executed, `retry.rs`
//!   decides when to try again, and `watch.rs` lets a live stream outlive its connection.
//! - [`limits`]: every limit in one place.

pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{Client, Error};
pub use limits::Limits;
pub use protocol::model::{Metric, Reading, Station};
pub use server::serve;
