//! What travels, and its checks. Client and server both use it.

pub mod frame;
pub mod frame_buffer;
pub mod handshake;
pub mod message;
pub mod model;
pub(crate) mod pace;
