//! # WebSocket
//!
//! An HTTP server speaks only when it is asked. A WebSocket (RFC 6455) begins as an HTTP
//! request, but once the server has agreed, the connection stays open, and both sides send
//! messages whenever they like. The messages are text or bytes, arrive in order, and cost a
//! few bytes of overhead each. This is how a browser takes part in a chat or watches live
//! data.
//!
//! WebSocket carries messages and nothing more. The program itself has to match each response
//! to its request, notice a dead peer, lose nothing when a connection breaks, and keep a slow
//! reader from filling the server's memory. This chapter shows how.
//!
//! Start with `examples/minimal.rs`, then read in this order:
//!
//! 1. `server/handshake.rs`: how an HTTP connection becomes a WebSocket.
//! 2. [`protocol::message`]: the messages that it carries.
//! 3. `server/connection.rs`: the loop that reads, responds, and flushes.
//!
//! Each of the other files has one idea:
//!
//! - [`protocol`]: the messages, and how the server checks them.
//! - [`server`]: the routes, and the lifecycle of a connection. Its files also hold the chat
//!   rooms, the live readings, the store, and the check of a page's origin.
//! - [`client`]: calls, and the streams of chat events and live readings that survive a
//!   broken connection.
//! - `liveness.rs`: how each end notices that the other one is gone or too slow.
//! - [`limits`]: every limit in one place.

pub mod client;
pub mod limits;
mod liveness;
pub mod protocol;
pub mod server;

pub use client::Client;
pub use limits::Limits;
pub use protocol::model::{Metric, Reading};
pub use server::serve;
