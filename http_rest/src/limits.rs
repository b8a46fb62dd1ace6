//! Every bound of the server in one place. A request that exceeds one gets the
//! answer named here; a test shortens what it wants to see exceeded.

use std::time::Duration;

/// The server's limits, with defaults for a small machine.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes in a request body; beyond it 413. 10,000 readings take about 1.1 MB.
    pub max_body: usize,
    /// Time from a connection's first moment, or from the end of its last answer,
    /// to the end of the next request's header. Beyond it the connection is
    /// closed without a word: it is also how long a kept connection may be idle.
    pub header_timeout: Duration,
    /// Time from the end of a request's header to its answer, the reading of the
    /// body included; beyond it 408.
    pub request_timeout: Duration,
    /// Time that a write may wait for a client that does not read; beyond it the
    /// connection is closed.
    pub write_timeout: Duration,
    /// Requests being worked on; beyond it 503 with `Retry-After`. A stream of
    /// live readings counts until it begins.
    pub max_in_flight: usize,
    /// Open connections; beyond it 503 with `Retry-After`, and close.
    pub max_connections: usize,
    /// Connections beyond `max_connections` that are told so at the same time; more
    /// are closed without a word.
    pub max_refusals: usize,
    /// After a final error, input is still read, and discarded, up to this many
    /// bytes and for [`Limits::linger_time`]. Closing a socket with unread input
    /// makes the kernel send a reset, which can destroy the error on its way.
    pub linger_bytes: usize,
    /// See [`Limits::linger_bytes`].
    pub linger_time: Duration,
    /// Idempotency keys remembered, of all clients together; beyond it the oldest is
    /// forgotten, before its hour is over if requests come fast.
    pub max_keys: usize,
    /// How long an idempotency key is remembered.
    pub key_lifetime: Duration,
    /// Readings kept for clients that come back to the live stream.
    pub live_kept: usize,
    /// A live stream with nothing to tell sends a comment this often, so that
    /// both ends, and the proxies between them, know that it lives.
    pub heartbeat: Duration,
    /// After a shutdown signal, how long requests in flight may take to finish.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 2 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_in_flight: 1024,
            max_connections: 4096,
            max_refusals: 64,
            linger_bytes: 32 * 1024 * 1024,
            linger_time: Duration::from_secs(2),
            max_keys: 10_000,
            key_lifetime: Duration::from_secs(60 * 60),
            live_kept: 10_000,
            heartbeat: Duration::from_secs(15),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
