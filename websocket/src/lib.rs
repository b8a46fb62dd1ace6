//! # WebSocket
//!
//! HTTP's server speaks only when it is asked. A WebSocket (RFC 6455) starts as
//! an HTTP request, and when the server agrees, the connection stays open and
//! both sides send messages on it whenever they like: text or bytes, in frames
//! of a few bytes' overhead, in order. It is how a browser takes part in a chat
//! or watches live data.
//!
//! It carries messages and nothing more. The program itself has to match each reply to
//! its request, notice a dead peer, lose nothing when a connection breaks, and keep a slow
//! reader from filling the server's memory. This chapter is about that.
//!
//! Start with `examples/minimal.rs`, then read in this order:
//!
//! 1. `server/handshake.rs`: how an HTTP connection becomes a WebSocket.
//! 2. [`protocol::message`]: the messages that it carries.
//! 3. `server/connection.rs`: the loop that reads, responds, and flushes.
//!
//! After that, there is one idea in each file:
//!
//! - [`protocol`]: the messages, and how they are checked.
//! - [`server`]: routes, and the lifecycle of a connection. Below it are the rooms of the
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
