//! The bytes on the wire and their checks, for client and server.

pub mod describe;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod model;
pub(crate) mod pace;
