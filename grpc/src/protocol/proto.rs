//! The code that the build script generates from `weather.proto`: the messages, the
//! service as a trait, and a client stub.

tonic::include_proto!("weather.v1");

/// The proto as descriptors, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weather_descriptor.bin"));

/// The service's methods: the path of a call, whether its request is a stream, and
/// whether its response is.
pub(crate) const METHODS: &[(&str, bool, bool)] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));
