//! What travels between two programs, as messages with named fields. This needs no root, because a
//! proxy sees the bytes. A decoder for each protocol names them.
//!
//! - [`proxy`] forwards and records on a [`tape`].
//! - [`fault`]: what a proxy can break; its [`gate`] decides when.
//! - [`message`]: what a decoder makes of bytes.
//! - [`units`] splits a stream into the units of its protocol; [`cursor`] names the bytes of one unit.
//! - [`decode`]: a decoder for each protocol.
//! - [`both_ends`] ends TLS on both sides of a recording.
//! - [`trace`]: a recording with its messages, for everything that shows or writes it.
//! - [`pcap`] writes it as a capture for Wireshark.

pub mod both_ends;
pub mod cursor;
pub mod decode;
pub mod fault;
pub mod gate;
pub mod json;
pub mod message;
pub mod pcap;
pub mod proxy;
pub mod tape;
pub mod trace;
pub mod units;
