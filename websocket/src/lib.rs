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
//! Read in this order:
//!
//! 1. [`handshake`]: how an HTTP connection becomes a WebSocket.
//! 2. [`message`]: what is said over it.
//! 3. [`connection`]: the loop that reads, answers and flushes.
//!
//! Then, one idea a file: [`chat`] (one order for all, takeover, resume),
//! [`live`] (many subscribers, slow ones among them), `heartbeat` and `meter` (dead peers, and slow ones),
//! [`origin`] (which pages may connect),
//! [`close`] (close codes, and a close that loses nothing), [`server`] (sockets and
//! stopping), [`client`] (the other end), [`limits`] (every bound in one place),
//! [`model`] (the readings), [`store`] (what is kept).

pub mod chat;
pub mod client;
pub mod close;
pub mod connection;
pub mod handshake;
mod heartbeat;
pub mod limits;
pub mod live;
pub mod message;
mod meter;
pub mod model;
pub mod origin;
pub mod server;
pub mod store;
