//! What several chapters need besides their own protocols.
//!
//! All of these protocols run on top of TCP, so this module is part of the TCP chapter.
//! It knows nothing of that chapter's own protocol.
//!
//! - [`accept`]: accepting connections up to a limit, refusing others, and ending all of
//!   them.
//! - [`linger`]: closing a connection without losing the last message.
//! - [`limits`]: the limits that all servers share, and how options are read.
//! - [`json`]: reading objects and integers as a JSON contract describes them.
//! - [`program`]: what every program needs besides its work: logs, output, the error
//!   line, and how it ends.
//! - [`retry`]: how long to pause between two attempts.
//! - [`text`]: how to show text that came from the other side, and which names to
//!   accept.
//! - [`write_timeout`]: writing to a peer that may have stopped reading.

pub mod accept;
pub mod json;
pub mod limits;
pub mod linger;
pub mod program;
pub mod retry;
pub mod text;
pub mod write_timeout;
