//! What every chapter needs before its own protocol begins.
//!
//! The other chapters' protocols run on top of TCP, and their programs use this
//! module in the same way. It knows nothing of the TCP chapter's own protocol.
//!
//! - [`accept`]: connections up to a limit, refusals beyond it, and the end of all.
//! - [`linger`]: closing a connection without losing the last message.
//! - [`json`]: objects and integers as JSON's users understand them.
//! - [`program`]: the shell around a program, which holds its logs, its end, and
//!   its error line.
//! - [`retry`]: how long to pause between two attempts.
//! - [`text`]: how to show text that came from the other side, and which names to
//!   accept.

pub mod accept;
pub mod json;
pub mod linger;
pub mod program;
pub mod retry;
pub mod text;
