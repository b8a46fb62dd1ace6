//! Every bound of the server in one place. A request that exceeds one gets the
//! error named here; a test shortens what it wants to see exceeded.

use std::time::Duration;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes in a request body; beyond it 413. 10,000 readings take about 1.1 MB.
    pub max_body: usize,
    /// Time from a connection's first byte, or from the end of its last
    /// request, to the end of the next request's header. Beyond it the
    /// connection is closed: a client that sends a header byte by byte (a *slow
    /// loris*) or keeps an idle connection pays with nothing but its own.
    pub header_timeout: Duration,
    /// Time from the end of the header to the answer, the reading of the body
    /// included; beyond it 408.
    pub request_timeout: Duration,
    /// Open connections; beyond it 503 and close.
    pub max_connections: usize,
    /// After a final error, input is still read, and discarded, up to this many
    /// bytes and this long. Closing a socket with unread input makes the kernel send a
    /// reset, which can destroy the error on its way to the client.
    pub linger_bytes: usize,
    /// See [`Limits::linger_bytes`].
    pub linger_time: Duration,
    /// After a shutdown signal, how long requests in flight may take to finish.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 2 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            max_connections: 4096,
            linger_bytes: 64 * 1024 * 1024,
            linger_time: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
