//! # A protocol over TCP
//!
//! TCP carries a stream of bytes, in order and whole, or breaks. It knows no
//! messages, no questions and answers, no versions, no errors but its own, and
//! it notices a dead peer late or never. All that a protocol has to bring, and
//! this one does, in the open: `PROTOCOL.md` in this folder describes each byte.
//!
//! Read `examples/minimal.rs` first: the whole idea in one file. Then, in this order:
//!
//! 1. [`protocol::frame`]: where one message ends and the next begins.
//! 2. [`protocol::frame_buffer`]: collecting frames from a stream that comes in any pieces.
//! 3. `server/requests.rs`: what each kind of frame asks the server for, and its answer.
//!
//! The rest is one idea a file, for the [`server`], for the [`client`], and for both
//! ([`protocol`]). Every bound is in [`limits`].
//!
//! Last, [`base`]: what every chapter needs before its own protocol begins.

pub mod base;
pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{Client, Error};
pub use limits::Limits;
pub use protocol::model::{Metric, Reading};
pub use server::serve;
