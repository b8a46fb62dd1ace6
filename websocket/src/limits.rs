//! Every bound of a connection in one place. A peer that exceeds one gets the
//! error named here; a test shortens what it wants to see exceeded.
//!
//! What bounds the contents stands beside them: [`model`](crate::model),
//! [`store`](crate::store), [`chat`](crate::chat), [`live`](crate::live).

use std::time::Duration;

use crate::origin::Origin;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Origins of web pages that may connect, in addition to the page that this server
    /// serves on its own address. A page from elsewhere gets 403.
    pub allowed_origins: Vec<Origin>,
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
    /// Time without a single byte from the peer after which it is considered dead. The
    /// server looks at each heartbeat, so it closes the connection with code 1008 after
    /// 20 to 30 s.
    pub dead_after: Duration,
    /// Slowest average rate, in bytes per second, at which a message may arrive. It
    /// applies from `dead_after` after the beginning of the message on; below it the
    /// server closes the connection with code 1008. It is also the slowest rate at
    /// which a peer may read; see `write_timeout`.
    pub min_rate: u64,
    /// Time after which the server gives up sending to a peer that reads nothing, or
    /// less than `min_rate`. It resets the connection, because a close frame could not
    /// reach the peer either.
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
            min_rate: 1_000,
            write_timeout: Duration::from_secs(20),
            away: Duration::from_secs(30),
            linger_bytes: 64 * 1024 * 1024,
            linger_time: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
