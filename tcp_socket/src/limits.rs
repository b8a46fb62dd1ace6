//! Every bound of the server in one place. What exceeds one gets the `ERROR`
//! named here; a test shortens what it wants to see exceeded.

use std::time::Duration;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes in a frame's payload; beyond it `FRAME_TOO_LARGE`. The largest
    /// batch, 10,000 readings of changing stations, takes 520,008. A connection may
    /// hold one frame: at worst, 2 GiB for all connections together.
    pub max_payload: u32,
    /// Open connections; beyond it `TOO_MANY_CONNECTIONS`.
    pub max_connections: usize,
    /// Connections beyond `max_connections` that are told so and lingered over at the
    /// same time; more are told and closed at once, and may lose what they were told.
    pub max_refusals: usize,
    /// Time from the connection to its whole `HELLO`; beyond it
    /// `HANDSHAKE_TIMEOUT`.
    pub handshake_timeout: Duration,
    /// Time without a byte from the client; beyond it `IDLE_TIMEOUT`. A client
    /// with nothing to say sends a `PING` now and then.
    pub idle_timeout: Duration,
    /// Time that any frame may take from its first byte to its last. A longer one
    /// has to keep to [`Limits::min_frame_rate`].
    pub frame_grace: Duration,
    /// Lowest rate, in bytes per second, at which a frame may arrive after
    /// [`Limits::frame_grace`]; below it `FRAME_TOO_SLOW`. So one byte now and then
    /// does not hold a connection, and a slow link has two minutes for the largest frame.
    pub min_frame_rate: u32,
    /// Time in which a client that has something to read must read some of it;
    /// beyond it the connection is cut without an `ERROR`, for which there is no room.
    pub write_timeout: Duration,
    /// Watches of one connection; beyond it `TOO_MANY_WATCHES`.
    pub max_watches: usize,
    /// How many readings a watch may lag behind; what is older is skipped, and
    /// the watcher told how many.
    pub watch_backlog: usize,
    /// After a final frame, input is still read, and discarded, up to this many
    /// bytes and [`Limits::linger_time`]. Closing a socket with unread input makes
    /// the kernel send a reset, which can destroy the frame on its way.
    pub linger_bytes: usize,
    /// See [`Limits::linger_bytes`].
    pub linger_time: Duration,
    /// After a shutdown signal, how long the connections may take to finish.
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
