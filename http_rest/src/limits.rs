//! Every limit of this chapter in one place.
//!
//! - The first constants limit the contents of requests and responses.
//! - [`Limits`] holds the server's limits that you can set: each field is also an option of
//!   the server program.
//! - The constants after it limit how much the server keeps, how long the client waits, and
//!   how much it reads.

use std::time::Duration;

use clap::Args;
use tcp_socket::base::limits::{ConnectionLimits, count, defaults, seconds};

// Requests and responses.

/// Maximum length of a station's ID, in bytes.
pub(crate) const MAX_STATION_ID: usize = 32;

/// Maximum length of a station's name, in characters.
pub(crate) const MAX_NAME: usize = 100;

/// Northernmost latitude, in degrees; the southernmost is its negative.
pub(crate) const MAX_LATITUDE: f64 = 90.0;

/// Easternmost longitude, in degrees; the westernmost is its negative.
pub(crate) const MAX_LONGITUDE: f64 = 180.0;

/// Maximum number of readings in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub(crate) const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum number of entries on a page.
pub const MAX_LIMIT: usize = 500;

/// Number of entries on a page if the client does not choose one.
pub(crate) const DEFAULT_LIMIT: usize = 100;

/// Maximum length of an idempotency key, in bytes.
pub(crate) const MAX_KEY: usize = 128;

/// Maximum length of a request ID that is accepted from a client, in bytes.
pub(crate) const MAX_REQUEST_ID: usize = 64;

/// Maximum number of entries in a problem's `errors`. Without it, the response to 10,000
/// invalid readings would be about a megabyte long.
pub(crate) const MAX_FIELD_ERRORS: usize = 50;

/// Maximum number of characters that a problem quotes from a request.
pub(crate) const MAX_QUOTE: usize = 40;

/// Maximum length of a serde message in an error, in characters. If the message is longer, its
/// line and column follow the part that is kept.
pub(crate) const MAX_DETAIL: usize = 200;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// The limits on connections, which are the same in all chapters.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Maximum number of bytes in a request's body; a longer one gets 413 (10,000 readings
    /// take about 1.1 MB)
    #[arg(long, value_name = "BYTES", default_value = "2097152", value_parser = count(0))]
    pub max_body: usize,
    /// Time that a TLS handshake may take; after that, the server closes the connection
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Time that a request's header may take to arrive; after that, the server closes the
    /// connection
    ///
    /// The time starts with the connection or, on a reused one, after the previous response.
    /// So it also limits how long a connection may be idle.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub header_timeout: Duration,
    /// Time from the end of a request's header to the response, including the body's
    /// arrival; after that, the client gets 408
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub request_timeout: Duration,
    /// Time that a write may wait for a client that isn't reading; after that, the server
    /// closes the connection
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,
    /// Maximum number of requests handled at the same time; further ones get 503
    ///
    /// A stream of live readings counts only until it begins.
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = count(0))]
    pub max_in_flight: usize,
    /// Maximum number of idempotency keys remembered, for all clients together; a further
    /// one replaces the oldest
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count(0))]
    pub max_keys: usize,
    /// Time for which an idempotency key is remembered, unless a newer one replaces it
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub key_lifetime: Duration,
    /// Maximum number of readings kept for live streams that reconnect or fall behind
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count(0))]
    pub live_kept: usize,
    /// Time between two heartbeats on a live stream that has nothing else to send
    ///
    /// A heartbeat is an event-stream comment, which clients skip. It shows both ends, and any
    /// proxy between them, that the connection still works.
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        defaults()
    }
}

// What the server keeps.

/// Maximum number of stations; a request that would create more gets 507.
pub const MAX_STATIONS: usize = 1_000;

/// Maximum number of readings kept for each station; a further one replaces the oldest. At
/// 32 bytes per reading, a full store takes 3.2 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Maximum number of readings that a live stream copies at a time. It limits the memory
/// that a stream needs while its client isn't reading.
pub(crate) const CHUNK: usize = 64;

// The client.

/// Maximum time to establish a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time for one attempt, from the request to the end of its response. All
/// attempts together may take [`TOTAL_TIMEOUT`].
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time from a call to its result, including all attempts and pauses.
pub(crate) const TOTAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of attempts after the first.
pub const MAX_RETRIES: usize = 4;

/// Pause before the first retry; it doubles with each further one. A random part (jitter)
/// is added, so that the clients of a restarted server don't all come back at once.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Maximum pause between two attempts; a server's `Retry-After` may ask for more.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Maximum length of a response's body, in bytes. The server's longest one, a page of 500
/// stations, is shorter than 300 kB.
pub const MAX_RESPONSE: usize = 8 * 1024 * 1024;

/// Maximum length of an event of a live stream, in bytes; a reading takes about 150.
pub const MAX_EVENT: usize = 64 * 1024;

/// Time after which a live stream that receives nothing, not even a heartbeat, is
/// considered dead: three times the server's default interval.
pub const SILENCE: Duration = Duration::from_secs(45);

/// First pause before a live stream reconnects; later ones double, up to
/// [`MAX_RECONNECT_PAUSE`].
pub(crate) const MIN_RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum pause before a live stream reconnects; a server's `Retry-After` may ask for
/// more. The pauses start small again after a reading, or after a connection that lasted
/// longer than this maximum.
pub(crate) const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
