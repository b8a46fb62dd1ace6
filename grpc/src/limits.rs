//! Every bound of this chapter. Those in [`Limits`] are options of the server, and a
//! test shortens what it wants to see exceeded. The constants are part of the
//! contract, or follow from it.

use std::time::Duration;

use clap::Args;
use tcp_socket::base::limits::{ConnectionLimits, defaults, seconds};

/// The server's limits, with defaults for a small machine.
///
/// What the calls in flight can hold is bounded by `max_calls` times
/// `max_message`: 4 GiB, if each of them keeps back the last byte of a message
/// of the largest size for as long as `request_timeout` lets it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
#[command(mut_arg("max_connections", |max| max.default_value("1024")))]
#[command(mut_arg("drain_timeout", |time| time.default_value("8")))]
pub struct Limits {
    /// What the server allows any connection.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Maximum bytes in one message, decompressed; beyond it RESOURCE_EXHAUSTED.
    ///
    /// 10,000 readings take about 0.5 MB.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = number::<usize>)]
    pub max_message: usize,
    /// Maximum bytes in the header list of a call; beyond it RESOURCE_EXHAUSTED.
    ///
    /// Counted as in RFC 9113, section 6.5.2. The document "gRPC over HTTP2" suggests
    /// 8 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024, value_parser = number::<u32>)]
    pub max_header_list: u32,
    /// Maximum bytes in a header list that the HTTP/2 library keeps.
    ///
    /// It responds to a larger one on its own, with HTTP status 431 and no gRPC status. If
    /// the list keeps growing, the library closes the connection.
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024, value_parser = number::<u32>)]
    pub max_kept_header_list: u32,
    /// Maximum bytes of one call that may arrive before its handler takes them.
    ///
    /// HTTP/2 flow control holds the sender back.
    #[arg(long, value_name = "BYTES", default_value_t = 64 * 1024, value_parser = number::<u32>)]
    pub stream_window: u32,
    /// The same for all calls of a connection together.
    ///
    /// It is many times a stream's, so calls that are not read do not hold up the others.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = number::<u32>)]
    pub connection_window: u32,
    /// Maximum calls in flight on one connection.
    ///
    /// Beyond it a client waits, or its stream is refused with REFUSED_STREAM, which is
    /// safe to send again.
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = number::<u32>)]
    pub max_streams: u32,
    /// Maximum calls in flight on all connections; beyond it RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = number::<usize>)]
    pub max_calls: usize,
    /// Maximum calls on a connection that were given up, less those that were answered.
    ///
    /// Beyond it the connection is closed. A client that opens streams and resets them
    /// at once (rapid reset, CVE-2023-44487) makes the server work without ever having
    /// many streams open.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = number::<usize>)]
    pub max_abandoned: usize,
    /// Seconds from the accept until the client's first bytes are complete.
    ///
    /// These are its preface and the head of its first frame. If they are late, the
    /// connection is closed.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Seconds from a call's headers to its response; beyond it DEADLINE_EXCEEDED.
    ///
    /// Upload is exempt. The limit ends calls whose clients send a request byte by byte.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub request_timeout: Duration,
    /// Maximum seconds of silence in an Upload; beyond it DEADLINE_EXCEEDED.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub upload_idle_timeout: Duration,
    /// Seconds after which a connection without a call is ended, or up to twice as many.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Seconds without input after which the server sends a PING.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub keepalive_interval: Duration,
    /// Seconds to wait for the answer to a PING before the connection is closed.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        defaults()
    }
}

/// Reads a limit in bytes or in pieces. HTTP/2's windows hold numbers of 31 bits.
fn number<T: TryFrom<u32>>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number: &u32| (1..=MAX_NUMBER).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("not a whole number from 1 to {MAX_NUMBER}"))
}

const MAX_NUMBER: u32 = (1 << 31) - 1;

/// Maximum bytes in the ID of a station or a threshold.
pub(crate) const MAX_ID: usize = 32;

/// Maximum readings in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub(crate) const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum stations kept; a batch that would create more is refused.
pub(crate) const MAX_STATIONS: usize = 1_000;

/// Maximum readings kept for each station; beyond it the oldest are dropped. At 24 bytes
/// a reading a full store takes 2.4 GB.
pub(crate) const READINGS_PER_STATION: usize = 100_000;

/// Maximum thresholds in one `Monitor`.
pub(crate) const MAX_THRESHOLDS: usize = 100;

/// Maximum field violations in one response; a batch of 10,000 invalid readings would
/// otherwise get a response of a megabyte.
pub(crate) const MAX_VIOLATIONS: usize = 50;

/// Maximum bytes of a response's header list, with its trailers, counted as in RFC 9113,
/// section 6.5.2. grpc-java accepts no more by default.
pub const MAX_RESPONSE_HEADERS: usize = 8 * 1024;

/// Maximum bytes of the field violations in a status. `grpc-status-details-bin` holds
/// them in base64, which adds a third. The rest of [`MAX_RESPONSE_HEADERS`] is left for
/// the message, which is sent in `grpc-message` and in the details, and for the other
/// fields.
pub(crate) const MAX_VIOLATION_BYTES: usize = 5_000;

/// Maximum bytes of a status message, which percent-encoding can triple. Only messages of
/// the libraries below this server are ever longer.
pub(crate) const MAX_MESSAGE: usize = 400;

/// Maximum bytes of an invalid ID that an error quotes.
pub(crate) const MAX_QUOTED: usize = 40;

/// Maximum bytes of a request ID and of a method name in the log.
pub(crate) const MAX_LOGGED: usize = 100;

/// Maximum bytes of one call that wait to be written to the socket.
pub(crate) const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Time for the last responses to be sent, and for a peer to say goodbye on a
/// connection without calls.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(1);

/// Maximum number of readings copied out of the store at once: enough that locking costs
/// little, few enough that a stream holds little.
pub(crate) const CHUNK: usize = 64;

/// Maximum attempts of the client after the first.
pub const MAX_RETRIES: usize = 4;

/// Pause of the client before the first retry; it doubles for each one after. A random
/// part (jitter) is added, so that the clients of a server that was restarted do not all
/// come back at once.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Maximum pause of the client between two attempts to reopen a stream.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Time that the client waits beyond a stream's deadline for the server's own status: the
/// two clocks do not start at the same moment.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Maximum requests of a `Monitor` that wait for the connection; more make the caller
/// wait.
pub(crate) const REQUESTS_AHEAD: usize = 16;
