//! The limits that all servers share, as command-line options, and parsers for such options.

use std::time::Duration;

use clap::{Args, Command};

use super::linger::LingerLimits;

/// Maximum number that an option accepts: more than any machine can use, but small enough
/// that sums of such numbers can't overflow.
const MAX_COUNT: u64 = 1_000_000_000_000;

/// Shortest and longest time that an option accepts, in seconds. The longest is 46 days: in
/// milliseconds, it fits into 32 bits, and adding it to the current time can't overflow.
const SECONDS: (f64, f64) = (0.001, 4_000_000.0);

/// Limits on the connections of a server, whatever its protocol.
#[derive(Debug, Clone, Args)]
pub struct ConnectionLimits {
    /// Maximum number of open connections; the server refuses further ones and says why
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count(1))]
    pub max_connections: usize,
    /// Maximum number of refused connections that stay open until the client has read why
    ///
    /// Further ones are closed at once, so their clients may not learn the reason.
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = count(0))]
    pub max_refusals: usize,
    /// Maximum number of bytes to read and discard after the last message on a connection
    ///
    /// Closing a socket with unread input makes the kernel send a reset, which can destroy
    /// that message before the client reads it.
    #[arg(long, value_name = "BYTES", default_value = "67108864", value_parser = count(0))]
    pub linger_bytes: usize,
    /// Maximum time to read and discard input after the last message
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub linger_time: Duration,
    /// Time that connections have to finish after a shutdown signal
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
}

impl ConnectionLimits {
    /// Returns the limits for closing a connection.
    pub fn linger(&self) -> LingerLimits {
        LingerLimits { bytes: self.linger_bytes, time: self.linger_time }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        defaults()
    }
}

/// Returns a group of options with their defaults. This way, each default is written only
/// once: at its option.
pub fn defaults<Options: Args>() -> Options {
    let matches = Options::augment_args(Command::new("")).get_matches_from([""]);
    Options::from_arg_matches(&matches).expect("every option has a default")
}

/// Returns a parser for a count or a number of bytes that must be at least `minimum`.
pub fn count(minimum: u64) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| (minimum..=MAX_COUNT).contains(number));
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| format!("not a whole number from {minimum} to {MAX_COUNT}"))
    }
}

/// Parses a time in seconds, such as `10` or `0.5`.
///
/// # Errors
/// If the text is not a number, or the time is too short or too long.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let (shortest, longest) = SECONDS;
    let seconds = text.parse().ok().filter(|seconds| (shortest..=longest).contains(seconds));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| format!("not a number from {shortest} to {longest}"))
}
