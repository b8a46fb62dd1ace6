//! The messages between client and server, and how the server checks them.
//!
//! - [`message`]: the messages, in two tables.
//! - `parse`: how the server reads a request, and why it may refuse it.
//! - [`model`]: the readings in the messages.

pub mod message;
pub mod model;
pub(crate) mod parse;

/// The name of the subprotocol: version 1 of the messages in [`message`].
pub(crate) const SUBPROTOCOL: &str = "weather.v1.json";

/// Our own close code: another connection took over the member's name.
pub(crate) const TAKEN_OVER: u16 = 4001;

/// Our own close code: the server must know who is calling, and does not. HTTP has 401 for it.
pub(crate) const UNAUTHENTICATED: u16 = 4401;

/// Our own close code: the caller may not do what it asked for. HTTP has 403 for it.
pub(crate) const FORBIDDEN: u16 = 4403;

/// Returns 128 random bits in hexadecimal.
///
/// # Errors
/// Fails if the system cannot provide random numbers.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
