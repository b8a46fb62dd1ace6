//! The limits that all servers share, as a group of options, and how options are read.

use std::time::Duration;

use clap::{Args, Command};

use super::linger::LingerLimits;

/// Highest number that an option accepts. It is far beyond any machine, and so small that
/// sums of such numbers can't overflow.
const MAX_COUNT: u64 = 1_000_000_000_000;

/// Shortest and longest time that an option accepts, in seconds. The longest, 46 days, fits
/// into 32 bits of milliseconds, and can be added to any time of the clock.
const SECONDS: (f64, f64) = (0.001, 4_000_000.0);

/// What a server allows its connections, whatever its protocol.
#[derive(Debug, Clone, Args)]
pub struct ConnectionLimits {
    /// Maximum number of open connections; the server refuses further ones and says why
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count(1))]
    pub max_connections: usize,
    /// Maximum number of refused connections that are kept until they have read why
    ///
    /// Further ones are closed at once, and may not learn the reason.
    #[arg(long, value_name = "COUNT", default_value = "256", value_parser = count(0))]
    pub max_refusals: usize,
    /// Maximum number of bytes to read and discard after the last message on a connection
    ///
    /// Closing a socket with unread input makes the kernel send a reset, which can destroy
    /// that message on its way.
    #[arg(long, value_name = "BYTES", default_value = "67108864", value_parser = count(0))]
    pub linger_bytes: usize,
    /// Maximum time for which input is read and discarded after the last message
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub linger_time: Duration,
    /// Time that connections have to finish after a shutdown signal
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain_timeout: Duration,
}

impl ConnectionLimits {
    /// How a connection is closed.
    pub fn linger(&self) -> LingerLimits {
        LingerLimits { bytes: self.linger_bytes, time: self.linger_time }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        defaults()
    }
}

/// Returns the defaults of a group of options, so that each default is written only once:
/// at its option.
pub fn defaults<Options: Args>() -> Options {
    let matches = Options::augment_args(Command::new("")).get_matches_from([""]);
    Options::from_arg_matches(&matches).expect("every option has a default")
}

/// Reads a count or a number of bytes that is at least `minimum`.
pub fn count(minimum: u64) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| (minimum..=MAX_COUNT).contains(number));
        let number = number.and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| format!("not a whole number from {minimum} to {MAX_COUNT}"))
    }
}

/// Reads a time in seconds, such as `10` or `0.5`.
///
/// # Errors
/// If the text is not a number, or the time is too short or too long.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let (shortest, longest) = SECONDS;
    let seconds = text.parse().ok().filter(|seconds| (shortest..=longest).contains(seconds));
    let seconds = seconds.map(Duration::from_secs_f64);
    seconds.ok_or_else(|| format!("not a number from {shortest} to {longest}"))
}
