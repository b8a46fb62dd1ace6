//! Every bound of this chapter in one place, with its reason: those of the protocol,
//! those of the server (its operator can choose some), and those of the client.

use std::time::Duration;

use clap::builder::{RangedU64ValueParser, TypedValueParser};
use clap::{Args, value_parser};

use crate::base::linger::LingerLimits;

// The protocol: both sides keep to these.

/// Maximum length of a station id, in bytes.
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

// The server: what every server of this protocol has in common.

/// Maximum number of stations; a batch that would create more is refused.
pub const MAX_STATIONS: usize = 1_000;

/// Maximum number of readings kept for each station. The oldest give way. At 24 bytes
/// a reading, a full store takes 2.4 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Number of replies kept for each client: those to its highest batch id and the ids
/// below.
pub const REPLIES_KEPT: usize = 1024;

/// Number of clients remembered. Beyond it, the server forgets the one that connected
/// longest ago and has no connection. With 4 bytes a reply they take up to 32 MiB.
pub const CLIENTS_REMEMBERED: usize = 8192;

/// Highest batch id that a client may begin with. It leaves room for all that follow.
pub const MAX_FIRST_BATCH: u64 = 1 << 63;

/// Maximum distance of a batch id from the highest one recorded before it. Otherwise
/// one wrong number would make all others too old.
pub const MAX_BATCH_JUMP: u64 = 1 << 32;

/// With this much unsent output, in bytes, a connection handles no more input.
pub(crate) const OUTPUT: usize = 64 * 1024;

/// Number of times that a write is tried within [`Limits::write_timeout`].
pub(crate) const WRITE_ATTEMPTS: u32 = 8;

/// Maximum number of readings in one `READING`.
pub(crate) const READINGS_PER_FRAME: usize = 256;

/// What the operator of a server can choose. The defaults suit a small machine.
///
/// Each field is also an option of the server's command line, with the field's name.
#[derive(Debug, Clone, Args)]
pub struct Limits {
    /// Maximum number of bytes in a frame's payload; beyond it `FRAME_TOO_LARGE`
    ///
    /// The largest batch, 10,000 readings of changing stations, takes 520,008. A
    /// connection may hold one frame: by default that is at worst 2 GiB for all
    /// connections together.
    #[arg(long, value_name = "BYTES", default_value_t = Self::default().max_payload)]
    pub max_payload: u32,
    /// Maximum number of open connections; beyond it `TOO_MANY_CONNECTIONS`
    #[arg(long, value_name = "COUNT", default_value_t = Self::default().max_connections, value_parser = count())]
    pub max_connections: usize,
    /// Maximum number of refused connections that are kept until they have read why
    ///
    /// More are told why and closed at once, and may lose what they were told.
    #[arg(long, value_name = "COUNT", default_value_t = Self::default().max_refusals, value_parser = count())]
    pub max_refusals: usize,
    /// Time from the connection to its whole `HELLO`; beyond it `HANDSHAKE_TIMEOUT`
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().handshake_timeout), value_parser = seconds())]
    pub handshake_timeout: Duration,
    /// Close a connection on which no byte arrives for this many seconds
    ///
    /// The client is told `IDLE_TIMEOUT`. A client with nothing to say sends a `PING`
    /// now and then.
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().idle_timeout), value_parser = seconds())]
    pub idle_timeout: Duration,
    /// Seconds that any frame may take to arrive
    ///
    /// A frame that takes longer has to keep to `min_frame_rate`.
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().frame_grace), value_parser = seconds())]
    pub frame_grace: Duration,
    /// Lowest rate at which a frame may arrive after `frame_grace`
    ///
    /// Below it `FRAME_TOO_SLOW`. So one byte now and then does not hold a connection,
    /// and by default a slow link has two minutes for the largest frame.
    #[arg(long, value_name = "BYTES_PER_SECOND", default_value_t = Self::default().min_frame_rate, value_parser = value_parser!(u32).range(1..))]
    pub min_frame_rate: u32,
    /// Time in which a client that has something to read must read some of it
    ///
    /// Beyond it the connection is cut without an `ERROR`, for which there is no room.
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().write_timeout), value_parser = seconds())]
    pub write_timeout: Duration,
    /// Maximum number of watches of one connection; beyond it `TOO_MANY_WATCHES`
    #[arg(long, value_name = "COUNT", default_value_t = Self::default().max_watches, value_parser = count())]
    pub max_watches: usize,
    /// Maximum number of readings that a watch may lag behind
    ///
    /// Older ones are skipped, and the watcher is told how many.
    #[arg(long, value_name = "COUNT", default_value_t = Self::default().watch_backlog, value_parser = count())]
    pub watch_backlog: usize,
    /// Maximum number of bytes to discard after the last frame to a client
    ///
    /// The module `base::linger` says why a server reads on at all.
    #[arg(long, value_name = "BYTES", default_value_t = Self::default().linger_bytes, value_parser = count())]
    pub linger_bytes: usize,
    /// Maximum time to discard input after the last frame to a client
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().linger_time), value_parser = seconds())]
    pub linger_time: Duration,
    /// Time that the connections have to finish after a shutdown signal
    #[arg(long, value_name = "SECONDS", default_value = show(Self::default().drain_timeout), value_parser = seconds())]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload: 512 * 1024,
            max_connections: 4096,
            max_refusals: 256,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            frame_grace: Duration::from_secs(10),
            min_frame_rate: 4_000,
            write_timeout: Duration::from_secs(10),
            max_watches: 64,
            watch_backlog: 10_000,
            linger_bytes: 64 * 1024 * 1024,
            linger_time: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// How a connection is closed.
    pub(crate) fn linger(&self) -> LingerLimits {
        LingerLimits { bytes: self.linger_bytes, time: self.linger_time }
    }
}

/// The option of a count. Far more than any machine has room for would overflow.
fn count() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=1_000_000_000)
}

/// The option of a time, in whole seconds. 4,000,000 of them still fit into 32 bits of
/// milliseconds, as they are in `WELCOME`.
fn seconds() -> impl TypedValueParser<Value = Duration> {
    value_parser!(u64).range(1..=4_000_000).map(Duration::from_secs)
}

/// The default of a time, as it is typed. clap wants it for as long as the program runs.
fn show(time: Duration) -> &'static str {
    time.as_secs().to_string().leak()
}

// The client.

/// Maximum time to wait for a connection and its handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time from a call to its result, reconnecting included, unless
/// [`Client::with_timeout`](crate::Client::with_timeout) sets another one.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of calls in flight. More wait for their turn. A call that was given
/// up counts until its answer comes or the connection is lost. It is far below
/// [`REPLIES_KEPT`], so that the server still knows a batch that is sent again after
/// hundreds of newer ones.
pub const MAX_IN_FLIGHT: usize = 256;

/// Maximum number of updates that a watch holds for a slow reader. What comes on top is
/// skipped and counted.
pub const WATCH_QUEUE: usize = 64;

/// Lowest rate, in bytes per second, at which the client expects frames to travel in
/// either direction. A frame may take that long beyond the server's idle timeout.
pub(crate) const MIN_FRAME_RATE: u32 = 4_000;

/// Pause before the first attempt to reconnect. It doubles for each one after.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Maximum pause between two attempts to reconnect.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Maximum time for the orderly end of a connection.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
