//! # HTTP/REST
//!
//! A client sends a *method* (`GET`, `POST`, …) for a *resource* (`/readings`), and the
//! server responds with a *status code* and, usually, a body. REST models a service as
//! such resources. It leaves the meaning of methods, statuses, and headers to HTTP, so
//! every proxy, cache, browser, and `curl` already understands it.
//!
//! Read in this order:
//!
//! 1. `examples/minimal.rs`: the whole idea in one file.
//! 2. [`protocol::model`]: what travels.
//! 3. `src/server/mod.rs`: which function responds to which request.
//! 4. `src/server/readings.rs`: record a batch, read it back.
//!
//! Then, one idea a file:
//!
//! - [`protocol`]: what travels, and its checks.
//! - [`server`]: its folder has a file for each resource, and one for each idea, such as
//!   `conditional.rs` (`ETag`s) or `idempotency.rs` (a `POST` that you may repeat).
//! - [`client`]: the other end. `error.rs` says what may have been executed, `retry.rs`
//!   when a client may try again, and `watch.rs` how a live stream outlives its connection.
//! - [`limits`]: every bound in one place.

pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{Client, Error};
pub use limits::Limits;
pub use protocol::model::{Metric, Reading, Station};
pub use server::serve;
