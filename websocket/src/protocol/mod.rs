//! What travels, and its checks.
//!
//! - [`message`]: the messages, in two tables.
//! - `parse`: how a request is read, and which errors it gets.
//! - [`model`]: the readings inside.

pub mod message;
pub mod model;
pub(crate) mod parse;

/// The language of the connection: the messages of [`message`], first version.
pub(crate) const SUBPROTOCOL: &str = "weather.v1.json";

/// Private close code: the member of a room speaks through another connection now.
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
