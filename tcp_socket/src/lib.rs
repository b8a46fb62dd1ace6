//! # A protocol over TCP
//!
//! TCP carries a stream of bytes, in order and whole, or breaks. It knows no
//! messages, no questions and answers, no versions, no errors but its own, and
//! it notices a dead peer late or never. All that a protocol has to bring, and
//! this one does, in the open: `PROTOCOL.md` in this folder describes each byte.
//!
//! Read in this order:
//!
//! 1. [`frame`]: where one message ends and the next begins.
//! 2. `connection`: one connection at the server.
//! 3. [`client`]: the other end.
//!
//! Then, one idea a file: [`handshake`] (versions), [`message`] (what is in a
//! frame), [`server`] (accept, refuse, stop), [`replies`] (a batch that is sent
//! twice counts once), `link` (reconnecting), [`store`] and [`model`] (what is kept),
//! [`limits`] (every bound in one place), [`describe`] (bytes as people read them).

pub mod client;
mod connection;
pub mod describe;
pub mod frame;
pub mod handshake;
pub mod limits;
mod link;
pub mod message;
pub mod model;
pub mod replies;
pub mod server;
pub mod store;
