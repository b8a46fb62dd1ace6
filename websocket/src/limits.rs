//! Every bound of a connection in one place. A peer that exceeds one gets the
//! error named here; a test shortens what it wants to see exceeded.
//!
//! What bounds the contents stands beside them: [`model`](crate::model),
//! [`store`](crate::store), [`chat`](crate::chat), [`live`](crate::live).

use std::time::Duration;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Browsers' pages that may connect, as `Origin` headers, such as
    /// `https://weather.example`, besides those served from this server's own
    /// address. A page from elsewhere gets 403.
    pub allowed_origins: Vec<String>,
    /// Open connections; beyond it 503 before the upgrade, and close.
    pub max_connections: usize,
    /// Connections beyond `max_connections` that are told so at the same time; more
    /// are closed without a word.
    pub max_refusals: usize,
    /// Time for all the HTTP on a connection, from its first packet to the end of
    /// the handshake or of the last page. Beyond it the connection is closed.
    pub handshake_timeout: Duration,
    /// Bytes in one message, however many frames it comes in; beyond it close
    /// code 1009. 10,000 readings take about 1.1 MB.
    pub max_message: usize,
    /// Bytes in one frame; beyond it close code 1009.
    pub max_frame: usize,
    /// How often the server sends a ping and a `heartbeat` message.
    pub heartbeat: Duration,
    /// A peer of which nothing was heard for this long is dead. It is looked for
    /// at each heartbeat, so that it is closed within the sum of both: 30 s.
    pub dead_after: Duration,
    /// Longest time for sending what is queued, at most 64 KiB and one message.
    /// Beyond it the peer reads nothing, or next to nothing, and the connection is
    /// reset: a close frame could not reach it either.
    pub write_timeout: Duration,
    /// How long a chat member whose connection broke keeps name and place.
    pub away: Duration,
    /// After a final error, input is still read, and discarded, up to this many
    /// bytes and this long. Closing a socket with unread input makes the kernel send a
    /// reset, which can destroy the close frame on its way to the peer.
    pub linger_bytes: usize,
    /// See [`Limits::linger_bytes`].
    pub linger_time: Duration,
    /// After a shutdown signal, how long connections may take to end.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            max_connections: 10_000,
            max_refusals: 64,
            handshake_timeout: Duration::from_secs(30),
            max_message: 2 * 1024 * 1024,
            max_frame: 2 * 1024 * 1024,
            heartbeat: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
            write_timeout: Duration::from_secs(20),
            away: Duration::from_secs(30),
            linger_bytes: 64 * 1024 * 1024,
            linger_time: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
