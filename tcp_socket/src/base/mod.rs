//! The code that all chapters share. It depends on none of their protocols.
//!
//! All of these protocols run on top of TCP, so this module is part of the TCP chapter.
//!
//! - [`accept`]: accepting connections up to a limit, refusing the rest, and letting the open
//!   ones finish when the server stops.
//! - [`journal`]: a file of everything a program has executed, for experiments.
//! - [`linger`]: closing a connection without losing the last message.
//! - [`limits`]: the limits that all servers share, and parsers for command-line options.
//! - [`json`]: reading objects and integers as a JSON contract describes them.
//! - [`principals`]: who is calling, and what they may do.
//! - [`program`]: logs, shutdown signals, output, error messages, and exit codes.
//! - [`retry`]: pauses between attempts.
//! - [`text`]: printing text from outside safely, and checking names.
//! - [`tls`]: encryption, for all servers and clients.
//! - [`tour`]: the pauses of the clients' tours, and a simulated station.
//! - [`token`]: tokens, and how a client reads its own.
//! - [`write_timeout`]: writing to a peer that may have stopped reading.

pub mod accept;
pub mod journal;
pub mod json;
pub mod limits;
pub mod linger;
pub mod principals;
pub mod program;
pub mod retry;
pub mod text;
pub mod tls;
pub mod token;
pub mod tour;
pub mod write_timeout;
