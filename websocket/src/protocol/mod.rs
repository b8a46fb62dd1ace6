//! The messages between client and server, and how they are checked.
//!
//! - [`message`]: the messages, in two tables.
//! - `parse`: how the server reads a request, and the reasons for refusing one.
//! - [`model`]: the readings in them.

pub mod message;
pub mod model;
pub(crate) mod parse;

/// The subprotocol: version 1 of the messages in [`message`].
pub(crate) const SUBPROTOCOL: &str = "weather.v1.json";

/// Private close code: another connection took over the member's name.
pub(crate) const TAKEN_OVER: u16 = 4001;

/// Returns 128 random bits in hexadecimal.
///
/// # Errors
/// If the system has no random numbers.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
