//! What travels: the messages, the statuses, and what a valid reading is.

pub(crate) mod model;
pub mod status;

pub use model::is_token;

/// What the build script generated from `weather.proto`: messages, the service
/// as a trait, and a client stub.
#[allow(missing_docs, clippy::all, clippy::missing_errors_doc, reason = "generated")]
#[allow(rustdoc::broken_intra_doc_links, reason = "the proto's comments are for all languages")]
pub mod proto {
    tonic::include_proto!("weather.v1");

    /// The proto as descriptors, for the reflection service.
    pub(crate) const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weather_descriptor.bin"));
}

/// The metadata that names a call in the logs of both sides.
pub(crate) const REQUEST_ID: &str = "x-request-id";
