//! # A protocol over TCP
//!
//! TCP carries a stream of bytes. They arrive complete and in order, or the connection
//! breaks. TCP knows nothing about messages, requests and responses, versions, or errors
//! other than its own, and it notices a dead peer late or never. A protocol on top of TCP
//! has to add all this. `tcp_socket/PROTOCOL.md` describes ours byte by byte.
//!
//! Read `examples/minimal.rs` first: it shows the whole idea in one file. Then continue with:
//!
//! 1. [`protocol::frame`]: where one message ends and the next begins, and how frames are
//!    collected from a stream that arrives in arbitrary pieces.
//! 2. `server/requests.rs`: what each kind of frame asks the server to do, and how the server
//!    responds.
//!
//! Every other file holds one idea, for the [`server`], for the [`client`], or for both
//! ([`protocol`]). All limits are in [`limits`].
//!
//! Read [`base`] last. It holds the code that all chapters share.

pub mod base;
pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{Client, Error};
pub use limits::Limits;
pub use protocol::model::{Metric, Reading};
pub use server::serve;
