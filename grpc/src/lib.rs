//! # gRPC
//!
//! With gRPC, a program calls a function in another program. A `.proto` file describes
//! the functions and their messages. A compiler generates types and stubs from it for each
//! language. Messages travel as Protocol Buffers over HTTP/2, so one connection carries many
//! calls at once, and a call can be a stream in either direction or both.
//!
//! Read in this order:
//!
//! 1. `examples/minimal.rs`: the whole idea in one file.
//! 2. `protos/weather/v1/weather.proto`: the contract.
//! 3. `src/server/record.rs`: a unary call.
//! 4. `src/server/watch.rs`: a server-streaming call without a queue.
//!
//! Then, one idea per file:
//!
//! - [`protocol`]: the messages and statuses. `model` says what a valid reading is, and
//!   [`status`] says what each status code means.
//! - [`server`]: connections, services, and stopping. `upload` (client streaming,
//!   backpressure) and `monitor` (both directions at once) are the other two kinds of
//!   call. `call` surrounds every call (deadlines, cancellation, shutdown), and `store`
//!   keeps the readings.
//! - [`client`]: the other side. `channel` holds what all calls share, `error` says
//!   whether a call may have been executed, `retry` decides when to retry, `balance`
//!   spreads calls over several servers, and `watch` and `monitor` show how a stream outlives
//!   its connection.
//! - [`limits`]: every limit in one place.
//!
//! [`status`]: protocol::status

pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{Client, Error, Options};
pub use limits::Limits;
pub use protocol::proto;
pub use server::{Config, serve};
