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
//! 2. [`frame_buffer`]: collecting frames from a stream that comes in any pieces.
//! 3. `requests`: what each kind of frame asks the server for, and its answer.
//!
//! Then, one idea a file. At the server: `connection` (one task reads, answers and
//! writes), `watches` (readings as they are recorded), [`server`] (accept, refuse,
//! stop), [`replies`] (a batch that is sent twice counts once), [`store`] (what is
//! kept, and why a slow watcher slows nobody), [`limits`] (every bound in one place).
//! At the client: [`client`] (the calls), `calls` (which of them waits for which
//! answer), `link` (the connection, heartbeats, reconnecting). For both: [`handshake`]
//! (versions), [`message`] (what is in a frame), [`model`] (the readings), `pace` (how
//! slowly bytes may arrive).
//!
//! Last, [`base`]: what every chapter needs before its own protocol begins.

pub mod base;
mod calls;
pub mod client;
mod connection;
pub mod frame;
pub mod frame_buffer;
pub mod handshake;
pub mod limits;
mod link;
pub mod message;
pub mod model;
mod pace;
pub mod replies;
mod requests;
pub mod server;
pub mod store;
mod watches;
