//! All limits of this chapter, with their reasons: first those of the protocol, then the
//! server's, some of which its operator can choose, and last the client's.

use std::time::Duration;

use clap::{Args, value_parser};

use crate::base::limits::{ConnectionLimits, count, defaults, seconds};

// The protocol: both sides keep to these limits.

/// Maximum length of a station ID, in bytes.
pub const MAX_STATION_ID: usize = 32;

/// Maximum number of readings in a batch.
pub const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum length of the text in an `ERROR`, in bytes.
pub const MAX_ERROR_TEXT: usize = 512;

/// Maximum number of bytes in the payload of a frame from the server: `PROTOCOL.md`,
/// section 9.
pub(crate) const MAX_SERVER_PAYLOAD: u32 = 64 * 1024;

// The server: these limits are the same for every server.

/// Maximum number of stations; a batch that would create more is refused.
pub const MAX_STATIONS: usize = 1_000;

/// Maximum number of readings kept for each station; the oldest are dropped. At 24 bytes
/// a reading, a full store takes 2.4 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Number of replies kept for each client: those to its highest batch ID and to the IDs just
/// below it.
pub const REPLIES_KEPT: usize = 1024;

/// Number of clients whose replies are kept. If there are more, the server forgets one that is
/// not connected now, beginning with the one that connected longest ago. At 4 bytes a reply,
/// the replies take up to 32 MiB.
pub const CLIENTS_REMEMBERED: usize = 8192;

/// Highest batch ID that a client may begin with. It leaves room for higher ones.
pub const MAX_FIRST_BATCH: u64 = 1 << 63;

/// Maximum distance of a batch ID above the highest one recorded. Without this limit, one
/// wrong number would make all later ones too old.
pub const MAX_BATCH_JUMP: u64 = 1 << 32;

/// Number of unsent bytes at which the server stops handling a connection's input.
pub(crate) const OUTPUT: usize = 64 * 1024;

/// Maximum number of readings in one `READING` frame.
pub(crate) const READINGS_PER_FRAME: usize = 256;

/// The limits that the operator of a server can choose. The defaults suit a small machine.
///
/// Each field is also a command-line option of the server, with the same name.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// The limits that all servers share.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Maximum number of bytes in a frame's payload; a larger one gets `FRAME_TOO_LARGE`
    ///
    /// The largest batch, 10,000 runs of one reading each, takes up to 520,008 bytes. Each
    /// connection may hold one frame: by default, that is at most 2 GiB for all connections
    /// together.
    #[arg(long, value_name = "BYTES", default_value = "524288")]
    pub max_payload: u32,
    /// Time for a new connection to send its `HELLO`; after that, it gets `HANDSHAKE_TIMEOUT`
    ///
    /// A TLS handshake before it may take the same time; after that, the server closes the
    /// connection.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Close a connection on which no byte arrives for this many seconds
    ///
    /// The client gets `IDLE_TIMEOUT`. A client that has nothing else to send can stay
    /// connected with a `PING` now and then.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub idle_timeout: Duration,
    /// Time that a frame may take to arrive, however slow it is
    ///
    /// A frame that takes longer must arrive at `--min-frame-rate` or faster.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub frame_grace: Duration,
    /// Minimum rate for a frame after its `--frame-grace`; a slower one gets `FRAME_TOO_SLOW`
    ///
    /// This keeps a client from occupying a connection with one byte now and then. By default,
    /// the largest frame may take 141 s.
    #[arg(long, value_name = "BYTES_PER_SECOND", default_value = "4000", value_parser = value_parser!(u32).range(1..))]
    pub min_frame_rate: u32,
    /// Time in which a client must read some of what the server sends
    ///
    /// Otherwise, the server cuts the connection. It sends no `ERROR`, since the client would
    /// not read that either.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub write_timeout: Duration,
    /// Maximum number of watches on one connection; further ones get `TOO_MANY_WATCHES`
    #[arg(long, value_name = "COUNT", default_value = "64", value_parser = count(0))]
    pub max_watches: usize,
    /// Maximum number of readings that a watch may lag behind
    ///
    /// The server skips older ones and tells the client how many.
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count(0))]
    pub watch_backlog: usize,
}

impl Default for Limits {
    fn default() -> Self {
        defaults()
    }
}

// The client.

/// Maximum time to wait for a connection and its handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time from a call to its result, including reconnects, unless
/// [`Client::with_timeout`](crate::Client::with_timeout) sets a different one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of calls in flight; further ones wait for their turn. A call that was given
/// up counts until its response arrives or the connection is lost. The maximum is far below
/// [`REPLIES_KEPT`], so the server still recognizes a batch that is resent after hundreds of
/// newer ones.
pub const MAX_IN_FLIGHT: usize = 256;

/// Maximum number of updates that a watch holds for a slow reader. Readings beyond it are
/// skipped and counted.
pub const WATCH_QUEUE: usize = 64;

/// Lowest rate, in bytes per second, at which the client expects frames to travel in
/// either direction. A frame may take the server's idle timeout plus its length divided by
/// this rate.
pub(crate) const MIN_FRAME_RATE: u32 = 4_000;

/// Time in which the server must read some of what the client sends.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before the first attempt to reconnect, without its random part. It doubles with each
/// further attempt.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Maximum pause between two attempts to reconnect.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Maximum time for closing a connection gracefully.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
