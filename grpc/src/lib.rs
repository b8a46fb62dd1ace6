//! # gRPC
//!
//! gRPC is calling a function of another program: the functions and their
//! messages are written down in a `.proto` file, from which each language
//! generates its types and stubs. Messages travel as Protocol Buffers over
//! HTTP/2, so that one connection carries many calls at once, and a call can be
//! a stream in either direction or both.
//!
//! Read in this order:
//!
//! 1. `protos/weather/v1/weather.proto`: the contract.
//! 2. [`record`]: a unary call.
//! 3. [`watch`]: a server-streaming call without a queue.
//!
//! Then, one idea a file: [`upload`] (client streaming, back-pressure), [`monitor`]
//! (both directions at once), [`call`] (deadlines, cancellation, shutdown: around
//! every call), [`status`] (what each status code means, and rich errors), [`client`]
//! (the other end), [`retry`] (when a client may try again), [`server`] and
//! [`socket`] (sockets, services and stopping), [`limits`] (every bound in one place),
//! [`model`] (what a valid reading is), [`store`] (what is kept).

pub mod call;
pub mod client;
pub mod limits;
pub mod model;
pub mod monitor;
pub mod record;
pub mod retry;
pub mod server;
mod services;
pub mod socket;
pub mod status;
pub mod store;
pub mod upload;
pub mod watch;

/// What the build script generated from `weather.proto`: messages, the service
/// as a trait, and a client stub.
#[allow(missing_docs, clippy::all, clippy::missing_errors_doc, reason = "generated")]
#[allow(rustdoc::broken_intra_doc_links, reason = "the proto's comments are for all languages")]
pub mod proto {
    tonic::include_proto!("weather.v1");

    /// The proto as descriptors, for the reflection service.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weather_descriptor.bin"));
}
