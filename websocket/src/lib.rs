//! # WebSocket
//!
//! HTTP's server speaks only when it is asked. A WebSocket (RFC 6455) starts as
//! an HTTP request, and when the server agrees, the connection stays open and
//! both sides send messages on it whenever they like: text or bytes, in frames
//! of a few bytes' overhead, in order. It is how a browser takes part in a chat
//! or watches live data.
//!
//! It gives messages and nothing more. That a reply finds its request, that a
//! peer is still alive, that nothing is lost when a connection breaks, that a
//! slow reader does not fill the server's memory: all that is left to the
//! program, and is what this chapter is about.
//!
//! Start with `examples/minimal.rs`, then read in this order:
//!
//! 1. `server/handshake.rs`: how an HTTP connection becomes a WebSocket.
//! 2. [`protocol::message`]: what is said over it.
//! 3. `server/connection.rs`: the loop that reads, answers and flushes.
//!
//! After that, one idea a file:
//!
//! - [`protocol`]: what travels, and its checks.
//! - [`server`]: routes, and the life of a connection. Below it are the rooms of the
//!   chat, live readings, the store, and the origins of pages.
//! - [`client`]: calls, and the streams of a room and of live readings that survive a
//!   broken connection.
//! - `liveness.rs`: how each end notices that the other one is gone or too slow.
//! - [`limits`]: every bound in one place.

pub mod client;
pub mod limits;
mod liveness;
pub mod protocol;
pub mod server;

pub use client::Client;
pub use limits::Limits;
pub use protocol::model::{Metric, Reading};
pub use server::serve;
