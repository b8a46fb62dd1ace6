//! A decoder for each protocol.

use super::message::Decoder;

pub mod amqp;
mod amqp_arguments;
pub mod grpc;
mod head;
pub mod hpack;
pub mod http1;
pub mod http2;
mod http2_frame;
pub mod protobuf;
pub mod resp;
mod sse;
pub mod tcp_socket;
pub mod websocket;

/// A function that returns a decoder for a new connection.
pub type NewDecoder = fn() -> Box<dyn Decoder>;
