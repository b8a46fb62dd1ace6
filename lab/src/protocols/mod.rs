//! The protocols: how to serve each of them, how to connect to it, and how to record a batch of
//! readings.
//!
//! Read `tcp_socket.rs` first. The files of the other protocols have the same three parts: a
//! [`Protocol`], the conversion of a reading into the protocol's own type, and a [`Recorder`].

mod batch;
mod blocking_echo;
mod broadcast;
mod echo;
mod fan_out;
pub(crate) mod grpc;
pub(crate) mod http_rest;
pub(crate) mod message_queue;
mod protocol;
mod rabbitmq;
mod redis;
mod streams;
pub(crate) mod tcp_socket;
mod tokio_echo;
pub(crate) mod websocket;

pub(crate) use batch::sample;
pub use batch::{INFORMATION, STATION};
pub use fan_out::{FAN_OUT, FanOut};
pub use protocol::{Address, Connected, Kind, Listening, Protocol, Recorder, Served, Subscription};
pub use streams::{STREAMS, Streamed};

/// All protocols in the order of the tables: the baselines first.
pub const ALL: [&Protocol; 11] = [
    &blocking_echo::PROTOCOL,
    &tokio_echo::PROTOCOL,
    &tcp_socket::PROTOCOL,
    &websocket::PROTOCOL,
    &grpc::UNARY,
    &grpc::STREAM,
    &http_rest::PROTOCOL,
    &redis::REQUEST_REPLY,
    &rabbitmq::REQUEST_REPLY,
    &redis::APPEND,
    &rabbitmq::PUBLISH,
];

/// Returns the protocol with this ID.
pub fn by_id(id: &str) -> Option<&'static Protocol> {
    ALL.into_iter().find(|protocol| protocol.id == id)
}

/// Returns what the server with this ID serves, which may also be a fan-out's or a stream's.
pub(crate) fn served_by(id: &str) -> Option<&'static Served> {
    let fan_out = FAN_OUT.iter().map(|way| &way.protocol);
    let streams = STREAMS.iter().map(|stream| &stream.protocol);
    ALL.into_iter()
        .chain(fan_out)
        .chain(streams)
        .find(|protocol| protocol.id == id)
        .map(|protocol| &protocol.served)
}
