//! Every limit of this chapter in one place.
//!
//! - [`Limits`]: what the server allows a connection. Each field is also an option of the
//!   server's command line, with the field's name.
//! - [`Timeouts`]: how patient the client is.
//! - The constants limit the contents of messages and the memory that both sides use.

use std::time::Duration;

use clap::Args;
use tcp_socket::base::limits::{ConnectionLimits, count, defaults, seconds};

/// The server's limits. The defaults suit a small machine.
#[derive(Debug, Clone, Args)]
#[command(mut_arg("max_connections", |max| max.default_value("10000")))]
pub struct Limits {
    /// Limits on connections, which the servers of all chapters have.
    #[command(flatten)]
    pub connections: ConnectionLimits,
    /// Maximum time for all the HTTP on a connection, up to the end of the WebSocket handshake
    /// or of the last request; after it, the server closes the connection
    ///
    /// With TLS, the TLS handshake comes first, and may take as long.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub handshake_timeout: Duration,
    /// Maximum number of bytes in a message, in all its frames together; the server closes a
    /// connection that exceeds it with code 1009 (10,000 readings are about 1.1 MB)
    #[arg(long, value_name = "BYTES", default_value = "2097152", value_parser = count(0))]
    pub max_message: usize,
    /// Time between two pings, and between two `heartbeat` messages
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub heartbeat: Duration,
    /// Time without a single byte from the peer after which the server considers it dead
    ///
    /// The server checks this at each heartbeat. With the defaults, it closes the connection
    /// with code 1008 when 20 to 40 s have passed since the last byte.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub dead_after: Duration,
    /// Minimum average rate, in bytes per second, at which a message must arrive and a
    /// client must read
    ///
    /// It applies to a message that has been arriving for `dead_after`: if it is slower, the
    /// server closes the connection with code 1008. For a client that reads too slowly, see
    /// `write_timeout`.
    #[arg(long, value_name = "BYTES", default_value = "1000")]
    pub min_rate: u64,
    /// Time after which the server gives up on a peer that reads nothing, or more slowly than
    /// `min_rate`
    ///
    /// It resets the connection, because a close frame could not reach the peer either.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = seconds)]
    pub write_timeout: Duration,
    /// Time for which a chat member whose connection broke stays in the room and keeps its name
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
    /// Maximum time to connect, including the handshake.
    pub connect: Duration,
    /// Maximum wait for the response to a request, in addition to the time that the two need
    /// at `min_rate`.
    pub response: Duration,
    /// Time between two pings.
    pub heartbeat: Duration,
    /// Time without a single byte from the server after which the client gives up the
    /// connection. It checks this at each heartbeat.
    pub dead_after: Duration,
    /// Minimum average rate, in bytes per second, at which a message must arrive. It applies
    /// once the message has been arriving for `dead_after`.
    pub min_rate: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            response: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            min_rate: 1_000,
        }
    }
}

// Limits on the contents of messages. If a request exceeds one, the server responds with the code
// `invalid`.

/// Maximum number of encrypted bytes that wait for the kernel. The server counts them as sent, so
/// at `min_rate`, they must leave within `write_timeout`: otherwise, it would reset a peer that
/// reads slowly, but fast enough.
pub(crate) const TLS_BUFFER: usize = 16 * 1024;

/// Time in which a ticket must be used: enough for a slow handshake.
pub(crate) const TICKET_LIFETIME: Duration = Duration::from_secs(30);

/// Maximum number of tickets that nobody has used yet.
pub(crate) const MAX_TICKETS: usize = 1_000;

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

// Limits on the server's memory. If a request would exceed one, the server responds with the code
// `full`.

/// Maximum number of rooms. At the maximum, a new room replaces an empty one.
pub(crate) const MAX_ROOMS: usize = 100;

/// Maximum number of members of a room, including those whose connection broke.
pub(crate) const MAX_MEMBERS: usize = 1_000;

/// Maximum number of rooms that a connection can be in at once.
pub(crate) const MAX_ROOMS_JOINED: usize = 8;

/// Maximum number of stations that the server keeps, and of those that a subscription can name.
pub(crate) const MAX_STATIONS: usize = 1_000;

// Buffers that drop their oldest entries.

/// Number of events that a room keeps. A member that falls behind by more, or misses more
/// while it is away, gets a `gap`. At 2.5 kB an event, all rooms together take at most 2.5 GB.
pub(crate) const ROOM_BUFFER: usize = 10_000;

/// Number of earlier messages that the server sends to a new member of a room.
pub(crate) const HISTORY: usize = 100;

/// Number of readings kept for each station. At 32 bytes a reading, a full store takes
/// 3.2 GB.
pub(crate) const READINGS_PER_STATION: usize = 100_000;

/// Number of readings in the ring. If a subscriber falls behind by more, the server skips some of
/// them.
pub(crate) const RING: usize = 4096;

// One connection of the server.

/// Maximum number of invalid messages in a row. A peer that sends more is broken, so the server
/// closes its connection with code 1008.
pub(crate) const MAX_INVALID: usize = 100;

/// Maximum number of messages that the server reads before it sends their responses.
pub(crate) const READS_PER_TURN: usize = 128;

/// Maximum number of events that the server takes from a room or the ring before it reads
/// again.
pub(crate) const EVENTS_PER_TURN: usize = 256;

/// Size of the read buffer that an idle connection holds, in bytes.
pub(crate) const READ_BUFFER: usize = 4 * 1024;

/// Number of queued bytes beyond which the server writes without waiting for the flush.
pub(crate) const WRITE_BUFFER: usize = 64 * 1024;

// The client.

/// Maximum number of requests in flight on one connection; further ones wait.
pub(crate) const MAX_IN_FLIGHT: usize = 1024;

/// Maximum number of chat messages without a response; further ones wait.
pub(crate) const MAX_UNANSWERED: usize = 256;

/// Maximum number of events that wait until the program reads them. When it is reached, the client
/// stops reading from the connection. Meanwhile, the server keeps the events of a room, but skips
/// readings.
pub(crate) const EVENTS: usize = 1024;

/// Maximum length of a message that the client accepts, in bytes.
pub(crate) const MAX_SERVER_MESSAGE: usize = 4 * 1024 * 1024;

/// Assumed maximum length of one reading in a response, in bytes. The timeout of a call depends
/// on it.
pub(crate) const READING_BYTES: usize = 200;

/// Minimum pause before the first attempt to reconnect. Each further pause is about twice as long.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Maximum pause between two attempts. After a connection that lasted longer than this, the
/// pauses start again with the shortest.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Maximum time for the close handshake.
pub(crate) const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
