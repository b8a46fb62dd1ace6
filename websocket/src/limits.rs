//! Every bound of this chapter in one place, with its reason.
//!
//! - [`Limits`]: what the server allows a connection. Each field is an option of the
//!   server's program, with the same name.
//! - [`Timeouts`]: how patient the client is.
//! - The constants bound contents and memory. A peer that exceeds one gets an error or
//!   the close code named here.

use std::time::Duration;

use clap::Args;
use tcp_socket::base::limits::{ConnectionLimits, count, defaults, seconds};

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("max_connections", |max| max.default_value("10000")))]
pub struct Limits {
    /// What the server allows any connection.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Time for all the HTTP on a connection, from its first packet to the end of the
    /// handshake or of the last page; beyond it the connection is closed
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Maximum number of bytes in one message, however many frames it comes in, and so
    /// also in one frame; beyond it close code 1009 (10,000 readings take about 1.1 MB)
    #[arg(long, value_name = "BYTES", default_value = "2097152", value_parser = count(0))]
    pub max_message: usize,
    /// Time between two pings, and between two `heartbeat` messages
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub heartbeat: Duration,
    /// Time without a single byte from the peer after which it is considered dead
    ///
    /// The server checks this at each heartbeat. With the defaults, it closes the connection
    /// with code 1008 after 20 to 30 s.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub dead_after: Duration,
    /// Minimum average rate, in bytes per second, at which a message must arrive and a
    /// client must read
    ///
    /// A message is held to it once it has been arriving for `dead_after`; if it is slower,
    /// the server closes the connection with code 1008. For a client that reads, see
    /// `write_timeout`.
    #[arg(long, value_name = "BYTES", default_value = "1000")]
    pub min_rate: u64,
    /// Time after which the server gives up sending to a peer that reads nothing, or
    /// less than `min_rate`
    ///
    /// It resets the connection, because a close frame could not reach the peer either.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub write_timeout: Duration,
    /// Time for which a chat member whose connection broke keeps name and place
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub away: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        defaults()
    }
}

/// How patient a client is.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Maximum time from the first packet to the end of the handshake.
    pub connect: Duration,
    /// Maximum wait for the response to a request, in addition to the time that both
    /// take at `min_rate`.
    pub answer: Duration,
    /// Time between two pings.
    pub heartbeat: Duration,
    /// Time without a single byte from the server after which the client closes the connection,
    /// at the next heartbeat.
    pub dead_after: Duration,
    /// Minimum average rate, in bytes per second, at which a message must arrive. It applies
    /// once the message has been arriving for `dead_after`.
    pub min_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            min_rate: 1_000,
        }
    }
}

// The contents of messages. More is refused with the code `invalid`.

/// Maximum length of the ID of a station or of a room, in bytes.
pub(crate) const MAX_ID: usize = 32;

/// Maximum number of readings in one batch.
pub(crate) const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub(crate) const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum number of readings that one `readings` request returns.
pub(crate) const MAX_READ_BACK: usize = 500;

/// Maximum length of a chat message's text, in bytes of UTF-8.
pub(crate) const MAX_TEXT: usize = 1_000;

/// Maximum length of a chat member's name, in characters.
pub(crate) const MAX_NAME: usize = 32;

/// Maximum length of a `message_id`, in bytes.
pub(crate) const MAX_MESSAGE_ID: usize = 64;

// The server's memory. More is refused with the code `full`.

/// Maximum number of rooms. A new one replaces an empty one.
pub(crate) const MAX_ROOMS: usize = 100;

/// Maximum number of members of a room, including those whose connection broke.
pub(crate) const MAX_MEMBERS: usize = 1_000;

/// Maximum number of rooms that one connection is in.
pub(crate) const MAX_ROOMS_JOINED: usize = 8;

/// Maximum number of stations; a batch that would create more is refused.
pub(crate) const MAX_STATIONS: usize = 1_000;

// Buffers that forget their oldest entries.

/// Number of events that a room keeps: how far a member may fall behind, or be away, and
/// still be told everything. At 2.5 kB an event, all rooms take at most 2.5 GB.
pub(crate) const ROOM_BUFFER: usize = 10_000;

/// Number of messages that a newcomer to a room is shown.
pub(crate) const HISTORY: usize = 100;

/// Number of readings kept for each station. At 32 bytes a reading, a full store takes
/// 3.2 GB.
pub(crate) const READINGS_PER_STATION: usize = 100_000;

/// Number of readings in the ring: how far a subscriber may fall behind.
pub(crate) const RING: usize = 4096;

// One connection of the server.

/// Maximum number of invalid messages in a row; beyond it close code 1008. A peer that
/// sends nothing else is broken.
pub(crate) const MAX_INVALID: usize = 100;

/// Maximum number of messages that are read before their responses are sent.
pub(crate) const READS_PER_TURN: usize = 128;

/// Maximum number of events that are sent before the connection looks for messages again.
pub(crate) const EVENTS_PER_TURN: usize = 256;

/// Size of the read buffer that an idle connection holds, in bytes.
pub(crate) const READ_BUFFER: usize = 4 * 1024;

/// Number of queued bytes at which they are written without waiting for the flush.
pub(crate) const WRITE_BUFFER: usize = 64 * 1024;

// The client.

/// Maximum number of requests in flight on one connection; a further one waits.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// Maximum number of chat messages without a response; a further one waits.
pub(crate) const MAX_UNANSWERED: usize = 256;

/// Maximum number of events that wait for their reader. Beyond it the client stops
/// reading; the server keeps a room's events, and skips readings.
pub(crate) const EVENTS: usize = 1024;

/// Maximum length of a message that the client accepts, in bytes.
pub(crate) const MAX_SERVER_MESSAGE: usize = 4 * 1024 * 1024;

/// Maximum length of one reading in a response, in bytes.
pub(crate) const READING_BYTES: usize = 200;

/// Pause before the first attempt to connect again. It doubles for each one after that.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Maximum pause between two attempts. A connection that lasted longer counts as real
/// progress: after it, the pauses start again with the shortest.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Maximum wait for the end of a close handshake.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
