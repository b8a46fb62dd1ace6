//! Every limit of this chapter. Those in [`Limits`] are options of the server, so a test
//! can lower a limit and then exceed it. The constants are fixed: many of them are part
//! of the contract.

use std::time::Duration;

use clap::Args;
use tcp_socket::base::limits::{ConnectionLimits, defaults, seconds};

/// The server's limits, with defaults for a small machine.
///
/// The messages of all calls in flight occupy at most `max_calls` times `max_message`.
/// The worst case is 4 GiB: every client sends all but the last byte of the largest
/// message, and then waits.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
#[command(mut_arg("max_connections", |max| max.default_value("1024")))]
#[command(mut_arg("drain_timeout", |time| time.default_value("8")))]
pub struct Limits {
    /// Limits on connections, which all chapters share.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Maximum number of bytes in one message, decompressed; a larger one gets
    /// RESOURCE_EXHAUSTED.
    ///
    /// 10,000 readings take at most 0.55 MB.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = number::<usize>)]
    pub max_message: usize,
    /// Maximum number of bytes in a call's header list; a larger one gets
    /// RESOURCE_EXHAUSTED.
    ///
    /// Counted as in RFC 9113, section 6.5.2. The document "gRPC over HTTP2" suggests
    /// 8 KiB.
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024, value_parser = number::<u32>)]
    pub max_header_list: u32,
    /// Maximum number of bytes in a header list that the HTTP/2 library passes on.
    ///
    /// It refuses a larger one on its own, with HTTP status 431 and no gRPC status. If
    /// the list keeps growing, it closes the connection.
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024, value_parser = number::<u32>)]
    pub max_kept_header_list: u32,
    /// Maximum number of bytes of one call that may arrive before its handler reads them.
    ///
    /// Beyond it, HTTP/2 flow control makes the sender wait.
    #[arg(long, value_name = "BYTES", default_value_t = 64 * 1024, value_parser = number::<u32>)]
    pub stream_window: u32,
    /// Maximum number of unread bytes of all calls on a connection together.
    ///
    /// The default is 16 times that of one call, so a few unread calls do not hold up the
    /// others.
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024, value_parser = number::<u32>)]
    pub connection_window: u32,
    /// Maximum number of calls in flight on one connection.
    ///
    /// Beyond it, a client waits, or the server refuses its stream with REFUSED_STREAM.
    /// Such a call is safe to retry.
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = number::<u32>)]
    pub max_streams: u32,
    /// Maximum number of calls in flight on all connections; further ones get
    /// RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "COUNT", default_value_t = 4096, value_parser = number::<usize>)]
    pub max_calls: usize,
    /// Maximum number of abandoned calls on a connection; each completed call makes up for
    /// one.
    ///
    /// Beyond it, the server closes the connection. A client that opens streams and
    /// resets them at once (rapid reset, CVE-2023-44487) makes the server work without
    /// ever having many streams open.
    #[arg(long, value_name = "COUNT", default_value_t = 200, value_parser = number::<usize>)]
    pub max_abandoned: usize,
    /// Time that a new connection has to deliver its first bytes.
    ///
    /// These are the client's preface and the header of its first frame. If they are
    /// late, the server closes the connection. A TLS handshake before them has as much time.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Maximum time from a call's headers to its response; then DEADLINE_EXCEEDED.
    ///
    /// Upload is exempt. This limit ends calls whose clients send a request byte by byte.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub request_timeout: Duration,
    /// Maximum time of silence in an Upload; then DEADLINE_EXCEEDED.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub upload_idle_timeout: Duration,
    /// Time without calls after which a connection is closed; it can take twice as long.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Time without input after which the server sends a PING.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub keepalive_interval: Duration,
    /// Time to wait for the acknowledgement of a PING; then the connection is closed.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub keepalive_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        defaults()
    }
}

/// Parses a limit that counts bytes or items. An HTTP/2 window has 31 bits, and no limit
/// may be larger.
fn number<T: TryFrom<u32>>(text: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|number: &u32| (1..=MAX_NUMBER).contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("not a whole number from 1 to {MAX_NUMBER}"))
}

const MAX_NUMBER: u32 = (1 << 31) - 1;

/// Maximum number of bytes in the ID of a station or a threshold.
pub(crate) const MAX_ID: usize = 32;

/// Maximum number of readings in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub(crate) const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum number of stations kept; a batch that would create more is refused.
pub(crate) const MAX_STATIONS: usize = 1_000;

/// Maximum number of readings kept for each station; beyond it, the oldest are dropped. A
/// reading takes 24 bytes, and the capacity of each station's queue grows to 131,072, so
/// a full store takes 3.1 GB.
pub(crate) const READINGS_PER_STATION: usize = 100_000;

/// Maximum number of thresholds in one `Monitor`.
pub(crate) const MAX_THRESHOLDS: usize = 100;

/// Maximum number of field violations in one response; a batch of 10,000 invalid readings
/// would otherwise get a response of a megabyte.
pub(crate) const MAX_VIOLATIONS: usize = 50;

/// Maximum number of bytes in a response's header list, including its trailers, counted
/// as in RFC 9113, section 6.5.2. By default, grpc-java accepts no more.
pub const MAX_RESPONSE_HEADERS: usize = 8 * 1024;

/// Maximum number of bytes for the field violations in a status.
/// `grpc-status-details-bin` holds them in base64, which adds a third. The rest of
/// [`MAX_RESPONSE_HEADERS`] is for the status message, which is sent both in
/// `grpc-message` and in the details, and for the other header fields.
pub(crate) const MAX_VIOLATION_BYTES: usize = 5_000;

/// Maximum number of bytes in a status message, which percent-encoding can triple. Only
/// messages from the libraries that this server uses are ever longer.
pub(crate) const MAX_MESSAGE: usize = 400;

/// Maximum number of bytes that an error quotes of an invalid ID.
pub(crate) const MAX_QUOTED: usize = 40;

/// Maximum number of calls on a connection that are refused because the server does not know the
/// caller. After one more, it closes the connection.
pub(crate) const MAX_UNKNOWN: usize = 100;

/// Maximum number of characters of a request ID and of a method name in the log.
pub(crate) const MAX_LOGGED: usize = 100;

/// Maximum number of bytes of one call that wait to be written to the socket.
pub(crate) const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Time allowed for sending the last responses, and for a peer to close its connection
/// after a GOAWAY.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of readings copied out of the store at once: enough that locking costs
/// little, and few enough that a stream needs little memory.
pub(crate) const CHUNK: usize = 64;

/// Maximum number of retries of the client after its first attempt.
pub const MAX_RETRIES: usize = 4;

/// Pause of the client before the first retry. It doubles with each further retry. A
/// random part (jitter) keeps the clients of a restarted server from all coming back at
/// once.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Time between two health checks of a server that is one of several.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum time for a health check. Then the server counts as not serving.
pub const CHECK_TIMEOUT: Duration = Duration::from_millis(300);

/// Maximum number of calls that wait until the client has chosen a server for them.
pub(crate) const CALLS_AHEAD: usize = 1024;

/// Maximum pause of the client between two attempts to reopen a stream.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Time that the client waits beyond a stream's deadline for the server's own status: the
/// two clocks do not start at the same moment.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// Maximum number of requests of a `Monitor` that wait to be sent; beyond it, the caller
/// waits.
pub(crate) const REQUESTS_AHEAD: usize = 16;
